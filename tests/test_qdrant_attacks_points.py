"""Points, vectors and numbers that no client would send to the vector database, and points that vanish meanwhile."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import qdrant_raw
import wire
from qdrant import PATIENCE_S
from qdrant_raw import DIMENSIONS, JSON, MAX_BODY, POINTS, VECTOR, ask, assert_refused, send
from server import Server, wait_for


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with qdrant_raw.attacked(tmp_path_factory.mktemp("attacked")) as server:
        yield server


@pytest.fixture(autouse=True)
def lives(attacked: Server) -> Iterator[None]:
    with qdrant_raw.survived(attacked):
        yield


# Points


@pytest.mark.parametrize(
    "id",
    [
        "-1",
        "1.5",
        "1e3",
        "18446744073709551616",
        "1e400",
        '""',
        '"x"',
        '"1"',
        '"../x"',
        "true",
        "null",
        "[1]",
        '{"num":1}',
        '"' + "0" * 100_000 + '"',
    ],
    ids=lambda id: id[:20],
)
def test_an_id_that_is_none_is_refused_everywhere(attacked: Server, id: str) -> None:
    for method, path, body in (
        ("PUT", "points", '{"points":[{"id":%s,"vector":[1,1,1,1]}]}'),
        ("PUT", "points", '{"batch":{"ids":[%s],"vectors":[[1,1,1,1]]}}'),
        ("POST", "points", '{"ids":[%s]}'),
        ("POST", "points/delete", '{"points":[%s]}'),
        ("POST", "points/payload", '{"payload":{"a":1},"points":[%s]}'),
        ("PUT", "points/vectors", '{"points":[{"id":%s,"vector":[1,1,1,1]}]}'),
        ("POST", "points/query", '{"query":{"recommend":{"positive":[%s]}}}'),
    ):
        # A positive example may be a vector, too, and `[1]` is one: of another size.
        assert_refused(ask(attacked, method, f"/collections/small/{path}", (body % id).encode()), 400, 422)


@pytest.mark.parametrize(
    "vector",
    [
        "[1,1,1,NaN]",
        "[1,1,1,Infinity]",
        "[1,1,1,-Infinity]",
        "[1,1,1,1e39]",
        "[1,1,1,-1e39]",
        "[1,1,1,1e999]",
        "[1,1,1,null]",
        '[1,1,1,"1"]',
        "[1,1,1,true]",
        "[1,1,1]",
        "[1,1,1,1,1]",
        "[]",
        "[[]]",
        '"1,1,1,1"',
        "7.5",
        "[" + "1," * 1_000_000 + "1]",
        '{"":[1]}',
        '{"other":[1,1,1,1]}',
    ],
    ids=lambda vector: vector[:24],
)
def test_a_vector_that_is_none_is_refused_everywhere(attacked: Server, vector: str) -> None:
    """With it, none of the other points of the request is written."""
    for method, path, body in (
        ("PUT", "points?wait=true", '{"points":[{"id":900,"vector":[1,1,1,1]},{"id":901,"vector":%s}]}'),
        ("PUT", "points/vectors?wait=true", '{"points":[{"id":1,"vector":[9,9,9,9]},{"id":2,"vector":%s}]}'),
        ("POST", "points/query", '{"query":{"nearest":%s}}'),
    ):
        answer = ask(attacked, method, f"/collections/small/{path}", (body % vector).encode())
        assert_refused(answer, 400, 422, 501)


@pytest.mark.parametrize(
    "batch",
    [
        {"ids": [901, 902], "vectors": [VECTOR]},
        {"ids": [901], "vectors": [VECTOR, VECTOR]},
        {"ids": [901], "vectors": [VECTOR], "payloads": [{}, {}]},
        {"ids": [901], "vectors": {"other": [VECTOR]}},
        {"ids": [901]},
        {"vectors": [VECTOR]},
        {"ids": [901, 902], "vectors": [VECTOR, [1]]},
    ],
    ids=lambda batch: json.dumps(batch)[:60],
)
def test_columns_of_different_lengths_are_refused(attacked: Server, batch: Any) -> None:
    assert_refused(ask(attacked, "PUT", "/collections/small/points?wait=true", {"batch": batch}), 400, 422)


@pytest.mark.parametrize("payload", ["[]", "7", '"text"', "true"])
def test_a_payload_that_is_no_object_is_refused(attacked: Server, payload: str) -> None:
    body = f'{{"points":[{{"id":901,"vector":[1,1,1,1],"payload":{payload}}}]}}'
    assert_refused(ask(attacked, "PUT", "/collections/small/points?wait=true", body.encode()), 400, 422)


@pytest.mark.parametrize(
    "payload",
    ['{"a":NaN}', '{"a":' + "[" * 100_000 + "]" * 100_000 + "}", '{"a":"\\ud800"}', '{"a":1e999}'],
    ids=lambda payload: payload[:16],
)
def test_a_payload_that_is_no_json_is_refused(attacked: Server, payload: str) -> None:
    body = f'{{"points":[{{"id":901,"vector":[1,1,1,1],"payload":{payload}}}]}}'
    assert_refused(ask(attacked, "PUT", "/collections/small/points?wait=true", body.encode()), 400, 413, 422)


def test_a_payload_of_5_mb_is_kept_whole_or_refused(attacked: Server) -> None:
    payload = {"text": "ż" * (5 << 19)}
    body = {"points": [{"id": 901, "vector": VECTOR, "payload": payload}]}
    content = json.dumps(body, ensure_ascii=False).encode()
    answer = ask(attacked, "PUT", "/collections/small/points?wait=true", content)
    if answer.status_code == 200:
        assert send(attacked, "GET", "/collections/small/points/901")["payload"] == payload
        send(attacked, "POST", "/collections/small/points/delete?wait=true", {"points": [901]})
    else:
        assert_refused(answer, 400, 413, 422)


def test_a_body_over_the_limit_is_refused_before_it_is_sent(attacked: Server) -> None:
    head = wire.head("/collections/small/points", JSON, f"Content-Length: {MAX_BODY + 1}", method="PUT")
    assert str(MAX_BODY) in assert_refused(wire.exchange(attacked.port, head), 413)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"\x00" * 64,
        b'{"points":[]',
        b'{"points":[]}{}',
        os.urandom(64),
    ],
    ids=lambda body: repr(body)[:24],
)
def test_json_that_is_none_is_refused(attacked: Server, body: bytes) -> None:
    for method, path in (
        ("PUT", ""),
        ("PUT", "/points"),
        ("POST", "/points"),
        ("POST", "/points/delete"),
        ("POST", "/points/query"),
        ("POST", "/points/query/batch"),
        ("POST", "/points/batch"),
        ("PUT", "/index"),
        ("POST", "/facet"),
    ):
        assert_refused(ask(attacked, method, f"/collections/small{path}", body), 400, 409, 422)


# Greed


HUGE = [10**6, 2**31, 2**32, 2**63, 2**64 - 1]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("field", ["limit", "offset"])
def test_a_huge_limit_or_offset_takes_no_memory(attacked: Server, field: str, number: int) -> None:
    """Answered with what there is, or refused."""
    answer = ask(attacked, "POST", "/collections/small/points/query", {"query": VECTOR, field: number})
    if answer.status_code == 200:
        assert len(answer.json()["result"]["points"]) == (POINTS if field == "limit" else 0)
    else:
        assert_refused(answer, 400, 422)


@pytest.mark.parametrize("number", [*HUGE, -1, 0, 1.5, "5"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("points/scroll", {"limit": None}),
        ("points/scroll", {"order_by": "n", "limit": None}),
        ("points/query", {"query": VECTOR, "limit": None, "offset": None}),
        ("points/query", {"query": VECTOR, "params": {"hnsw_ef": None}}),
        ("points/query", {"query": {"sample": "random"}, "limit": None}),
        ("points/query", {"query": {"fusion": "rrf"}, "prefetch": {"query": VECTOR, "limit": None}}),
        ("points/query/groups", {"query": VECTOR, "group_by": "n", "limit": None}),
        ("points/query/groups", {"query": VECTOR, "group_by": "n", "group_size": None, "limit": None}),
        ("facet", {"key": "n", "limit": None}),
        ("points/search/matrix/pairs", {"sample": None, "limit": None}),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else value,
)
def test_huge_and_odd_counts_are_answered_or_refused(attacked: Server, path: str, body: Any, number: Any) -> None:
    text = json.dumps(body).replace("null", json.dumps(number))
    answer = ask(attacked, "POST", f"/collections/small/{path}", text.encode())
    if answer.status_code != 200:
        assert_refused(answer, 400, 422)
    else:
        assert number not in (-1, 1.5, "5")


def test_a_batch_of_10000_queries_is_answered_or_refused(attacked: Server) -> None:
    searches = [{"query": VECTOR, "limit": 1}] * 10_000
    answer = ask(attacked, "POST", "/collections/small/points/query/batch", {"searches": searches})
    if answer.status_code == 200:
        assert len(answer.json()["result"]) == 10_000
    else:
        assert_refused(answer, 400, 413, 422)


def test_a_batch_of_operations_that_fails_late_did_nothing(attacked: Server) -> None:
    operations: list[Any] = [{"delete": {"points": [n]}} for n in range(POINTS)]
    operations += [{"upsert": {"points": [{"id": 1, "vector": [1]}]}}]
    assert_refused(
        ask(attacked, "POST", "/collections/small/points/batch?wait=true", {"operations": operations}), 400, 422
    )


def test_points_deleted_while_they_are_scrolled_are_no_error(attacked: Server) -> None:
    """Every page is answered; what was not deleted is seen exactly once."""
    vectors = {"size": DIMENSIONS, "distance": "Dot"}
    send(attacked, "PUT", "/collections/scrolled", {"vectors": vectors})
    points = [{"id": n, "vector": VECTOR} for n in range(2_000)]
    send(attacked, "PUT", "/collections/scrolled/points?wait=true", {"points": points})
    odd = [n for n in range(2_000) if n % 2]
    failures: list[str] = []

    def delete() -> None:
        for start in range(0, len(odd), 20):
            body = {"points": odd[start : start + 20]}
            answer = ask(attacked, "POST", "/collections/scrolled/points/delete?wait=true", body)
            if answer.status_code != 200:
                failures.append(answer.text)

    thread = threading.Thread(target=delete)
    thread.start()
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = send(attacked, "POST", "/collections/scrolled/points/scroll", {"limit": 7, "offset": after})
        seen += [point["id"] for point in page["points"]]
        after = page["next_page_offset"]
    thread.join(PATIENCE_S)
    assert failures == []
    assert [id for id in seen if id % 2 == 0] == list(range(0, 2_000, 2))
    assert seen == sorted(set(seen))
    assert send(attacked, "POST", "/collections/scrolled/points/count", {})["count"] == 1_000
    assert send(attacked, "DELETE", "/collections/scrolled") is True


def test_a_collection_deleted_while_it_is_used_is_unknown_from_then_on(attacked: Server) -> None:
    """Threads that write, search and scroll get answers or are told that there is no such collection."""
    send(attacked, "PUT", "/collections/fleeting", {"vectors": {"size": DIMENSIONS, "distance": "Dot"}})
    statuses: list[int] = []

    def use(thread: int) -> None:
        for n in range(10_000):
            body = {"points": [{"id": thread * 10_000 + n, "vector": VECTOR}]}
            answer = ask(attacked, "PUT", "/collections/fleeting/points?wait=true", body)
            statuses.append(answer.status_code)
            statuses.append(ask(attacked, "POST", "/collections/fleeting/points/query", {"query": VECTOR}).status_code)
            if answer.status_code != 200:
                return

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    wait_for("some writes", lambda: len(statuses) > 40)
    send(attacked, "DELETE", "/collections/fleeting")
    for thread in threads:
        thread.join(PATIENCE_S)
    assert set(statuses) <= {200, 404, 503}
    assert_refused(ask(attacked, "GET", "/collections/fleeting"), 404, sent="fleeting")
