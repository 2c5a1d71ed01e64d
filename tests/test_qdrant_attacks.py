"""Requests to the vector database that no client would send: what comes back is a clear refusal in the shape of
Qdrant's errors, with the process alive, memory flat, nothing of the inside told, and the next request answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import qdrant_raw
import wire
from qdrant_raw import JSON, POINTS, VECTOR, ask, assert_refused
from server import Server


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with qdrant_raw.attacked(tmp_path_factory.mktemp("attacked")) as server:
        yield server


@pytest.fixture(autouse=True)
def lives(attacked: Server) -> Iterator[None]:
    with qdrant_raw.survived(attacked):
        yield


def nested(kind: str, depth: int) -> bytes:
    """A filter in a filter in a filter; or an array in an array."""
    opening, innermost, closing = {
        "filter": (b'{"must":[', b'{"key":"n","match":{"value":1}}', b"]}"),
        "one": (b'{"must_not":', b'{"key":"n","match":{"value":1}}', b"}"),
        "nested": (b'{"nested":{"key":"a","filter":{"must":[', b'{"key":"n","match":{"value":1}}', b"]}}}"),
        "array": (b"[", b"", b"]"),
    }[kind]
    condition = opening * depth + innermost + closing * depth
    return b'{"filter":{"must":[' + condition + b"]}}"


# Filters


@pytest.mark.parametrize("path", ["points/count", "points/scroll", "points/delete", "points/query", "facet"])
@pytest.mark.parametrize("kind", ["filter", "one", "nested", "array"])
@pytest.mark.parametrize("depth", [1_000, 50_000])
def test_a_filter_nested_too_deep_is_refused(attacked: Server, path: str, kind: str, depth: int) -> None:
    assert_refused(ask(attacked, "POST", f"/collections/small/{path}", nested(kind, depth)), 400, 413, 422)


def test_a_prefetch_nested_too_deep_is_refused(attacked: Server) -> None:
    depth = 20_000
    body = b'{"query":[1,1,1,1],"prefetch":' * depth + b"{}" + b"}" * depth
    assert_refused(ask(attacked, "POST", "/collections/small/points/query", body), 400, 413, 422)


def test_prefetches_that_multiply_are_refused_or_answered(attacked: Server) -> None:
    """Ten in each of ten in each of ten."""
    prefetch: Any = {"query": VECTOR, "limit": 5}
    for _ in range(3):
        prefetch = {"query": VECTOR, "limit": 5, "prefetch": [prefetch] * 10}
    answer = ask(attacked, "POST", "/collections/small/points/query", {"query": VECTOR, "prefetch": prefetch})
    if answer.status_code != 200:
        assert_refused(answer, 400, 413, 422)


@pytest.mark.parametrize("clause", ["must", "should", "must_not"])
def test_a_filter_of_100000_conditions_is_refused_or_answered(attacked: Server, clause: str) -> None:
    """An answer counts right: the conditions are as good as one."""
    conditions = [{"key": "n", "match": {"value": 7}}] * 100_000
    answer = ask(attacked, "POST", "/collections/small/points/count", {"filter": {clause: conditions}})
    if answer.status_code == 200:
        assert answer.json()["result"]["count"] == (POINTS - 1 if clause == "must_not" else 1)
    else:
        assert_refused(answer, 400, 413, 422)


@pytest.mark.parametrize(
    "condition", [{"has_id": [3] * 300_000}, {"key": "n", "match": {"any": [3] * 300_000}}], ids=str
)
def test_a_condition_of_300000_values_is_refused_or_answered(attacked: Server, condition: Any) -> None:
    answer = ask(attacked, "POST", "/collections/small/points/count", {"filter": {"must": [condition]}})
    if answer.status_code == 200:
        assert answer.json()["result"]["count"] == 1
    else:
        assert_refused(answer, 400, 413, 422)


@pytest.mark.parametrize(
    "condition",
    [
        [],
        None,
        7,
        "n",
        {"key": "n"},
        {"key": 5, "match": {"value": 1}},
        {"match": {"value": 1}},
        {"key": "n", "match": {}},
        {"key": "n", "match": {"value": 1.5}},
        {"key": "n", "match": {"value": None}},
        {"key": "n", "match": {"value": [1]}},
        {"key": "n", "match": {"any": [1, "a"]}},
        {"key": "n", "match": {"any": 1}},
        {"key": "n", "match": {"near": 1}},
        {"key": "n", "range": {"gt": "x"}},
        {"key": "n", "range": {"gt": "2024-13-45T99:00:00Z"}},
        {"key": "n", "range": {"over": 1}},
        {"key": "n", "geo_radius": {"center": {"lon": 0}, "radius": 1}},
        {"key": "n", "geo_radius": {"center": {"lon": 999, "lat": -999}, "radius": 1}},
        {"key": "n", "geo_polygon": {"exterior": {"points": [{"lon": 0, "lat": 0}]}}},
        {"key": "n", "values_count": {"gt": -1}},
        {"key": "n", "is_empty": "yes"},
        {"key": "a[", "match": {"value": 1}},
        {"key": "", "match": {"value": 1}},
        {"key": "a" * 100_000 + "[", "match": {"value": 1}},
        {"has_id": "1"},
        {"has_id": [-1]},
        {"has_id": ["x"]},
        {"has_id": [1.5]},
        {"nested": {"key": "a"}},
        {"is_empty": {"key": 1}},
        {"perhaps": [{"key": "n", "match": {"value": 1}}]},
        {"min_should": {"conditions": [], "min_count": -1}},
        {"min_should": {"conditions": []}},
    ],
    ids=lambda condition: json.dumps(condition)[:60],
)
def test_a_condition_that_is_none_is_refused_and_deletes_nothing(attacked: Server, condition: Any) -> None:
    """A filter that is taken for an empty one would delete every point."""
    for path in ("points/delete", "points/count", "points/payload/clear"):
        body = {"filter": {"must": [condition]}}
        assert_refused(ask(attacked, "POST", f"/collections/small/{path}", body), 400, 422)


@pytest.mark.parametrize("wanted", [5, "all", [], [{"key": "n", "match": {"value": 1}}], {"most": []}], ids=json.dumps)
def test_a_filter_that_is_none_is_refused_and_deletes_nothing(attacked: Server, wanted: Any) -> None:
    assert_refused(ask(attacked, "POST", "/collections/small/points/delete", {"filter": wanted}), 400, 422)


@pytest.mark.parametrize("body", [{}, {"points": None}, {"filter": None}, {"all": True}, {"ids": [1]}], ids=json.dumps)
def test_a_deletion_of_nothing_that_is_named_is_refused(attacked: Server, body: Any) -> None:
    assert_refused(ask(attacked, "POST", "/collections/small/points/delete", body), 400, 422)


# Names


@pytest.mark.parametrize(
    "name",
    [
        "..%2Fx",
        "%2E%2E",
        "%2E",
        "..%2F..%2F..%2Fetc",
        "%2Fetc%2Fpasswd",
        "a%2Fb",
        "a%5Cb",
        "a%00b",
        "%00",
        "a%0Ab",
        "a%1Fb",
        "x" * 10_000,
        "%E2%82%AC" * 256,
        "%FF%FE",
        "%C0%AE%C0%AE",
    ],
    ids=lambda name: name[:20],
)
def test_a_name_that_could_be_a_path_makes_no_collection(attacked: Server, name: str) -> None:
    body = json.dumps({"vectors": {"size": 2, "distance": "Dot"}}).encode()
    head = wire.head(f"/collections/{name}", JSON, f"Content-Length: {len(body)}", method="PUT")
    assert_refused(wire.exchange(attacked.port, head, body), 400, 404, 414, 422)


@pytest.mark.parametrize(
    "path", ["/collections/", "/collections//points", "/collections/../collections/x", "/collections/small/nothing"]
)
def test_a_path_that_leads_nowhere_is_refused(attacked: Server, path: str) -> None:
    head = wire.head(path, JSON, "Content-Length: 2", method="PUT")
    reply = wire.exchange(attacked.port, head, b"{}")
    assert reply.status in (400, 404, 405), reply


@pytest.mark.parametrize("name", ["../x", "", "\0", "x" * 10_000, "small", "a/b"], ids=lambda name: repr(name)[:20])
def test_an_alias_that_could_be_a_path_is_refused(attacked: Server, name: str) -> None:
    action = {"create_alias": {"collection_name": "small", "alias_name": name}}
    answer = ask(attacked, "POST", "/collections/aliases", {"actions": [action]})
    assert_refused(answer, 400, 409, 422, sent=name)


@pytest.mark.parametrize("name", ["x" * 10_000, "\0"], ids=lambda name: repr(name)[:20])
def test_a_vector_of_a_name_that_could_be_a_path_is_refused(attacked: Server, name: str) -> None:
    body = {"vectors": {name: {"size": 2, "distance": "Dot"}}}
    answer = ask(attacked, "PUT", "/collections/new", body)
    assert_refused(answer, 400, 422, sent=name)


# Collections that lie


@pytest.mark.parametrize(
    "vectors",
    [
        {"size": 0, "distance": "Dot"},
        {"size": -1, "distance": "Dot"},
        {"size": 2**32, "distance": "Dot"},
        {"size": 2**64, "distance": "Dot"},
        {"size": 1.5, "distance": "Dot"},
        {"size": "2", "distance": "Dot"},
        {"size": 2},
        {"size": 2, "distance": "Near"},
        {"size": 2, "distance": "Dot", "hnsw_config": {"m": 10**9}},
        {"size": 2, "distance": "Dot", "hnsw_config": {"ef_construct": 10**12}},
        {"size": 2, "distance": "Dot", "hnsw_config": {"m": -4}},
        [],
        "two",
        {str(n): {"size": 2, "distance": "Dot"} for n in range(5_000)},
    ],
    ids=lambda vectors: json.dumps(vectors)[:60],
)
def test_a_collection_that_cannot_be_is_refused(attacked: Server, vectors: Any) -> None:
    assert_refused(ask(attacked, "PUT", "/collections/new", {"vectors": vectors}), 400, 422)


def test_a_field_that_nobody_knows_is_named(attacked: Server) -> None:
    """A setting with a typing error is not a setting that was taken."""
    body = {"vectors": {"size": 2, "distance": "Dot"}, "shards_of_ice": 4}
    assert "shards_of_ice" in assert_refused(ask(attacked, "PUT", "/collections/new", body), 400, 422)
    for path, known in (("count", {"exact": True}), ("scroll", {"limit": 5}), ("query", {"query": VECTOR})):
        answer = ask(attacked, "POST", f"/collections/small/points/{path}", known | {"surprise": 1})
        assert "surprise" in assert_refused(answer, 400, 422)
