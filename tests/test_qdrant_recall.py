"""How many of the nearest are found: measured on what is asked, and tuned to what is wanted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests

import qdrant
from server import Server, halny, wait_for

DIMENSIONS = 48
POINTS = 6_000
#: Far from all in clusters, so that a hasty search misses some.
VECTORS = np.random.default_rng(5).standard_normal((POINTS, DIMENSIONS)).astype(np.float32)
TUNE = "/halny/v1/collections/many/tune"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one collection, nearly all of it indexed."""
    with qdrant.start(tmp_path_factory.mktemp("recall")) as server:
        fill(server, "many", {"size": DIMENSIONS, "distance": "Cosine"})
        yield server


def fill(server: Server, name: str, vectors: dict[str, Any]) -> None:
    ask(server, "PUT", f"/collections/{name}", {"vectors": vectors})
    ask(server, "PUT", f"/collections/{name}/index?wait=true", {"field_name": "part", "field_schema": "integer"})
    for first in range(0, POINTS, 1_000):
        rows = VECTORS[first : first + 1_000].tolist()
        points = [{"id": first + n, "vector": row, "payload": {"part": n % 2}} for n, row in enumerate(rows)]
        ask(server, "PUT", f"/collections/{name}/points?wait=true", {"points": points})
    # What is left in the open segment is found without an index.
    wait_for("an index", lambda: server.metric("halny_collection_indexed_vectors", collection=name) >= 5_000)


def ask(server: Server, method: str, path: str, body: Any = None) -> Any:
    answer = requests.request(method, server.url + path, json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def search(server: Server, query: npt.NDArray[np.float32], **more: Any) -> list[int]:
    body = {"query": query.tolist(), "limit": 10, **more}
    return [point["id"] for point in ask(server, "POST", "/collections/many/points/query", body)["points"]]


def found(server: Server) -> float:
    """The share of the nearest that searches find as the collection is set."""
    queries = np.random.default_rng(6).standard_normal((60, DIMENSIONS)).astype(np.float32)
    shares = []
    for query in queries:
        nearest = search(server, query, params={"exact": True})
        shares.append(len(set(search(server, query)) & set(nearest)) / len(nearest))
    return float(np.mean(shares))


def tuned(server: Server, **wanted: Any) -> list[dict[str, Any]]:
    answer = requests.post(server.admin_url + TUNE, json=wanted, timeout=300)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_recall_of_what_is_asked_is_measured_for_each_shape_of_filters(server: Server) -> None:
    part = {"must": [{"key": "part", "match": {"value": 1}}]}
    hasty = {"hnsw_ef": 10}
    queries = np.random.default_rng(7).standard_normal((700, DIMENSIONS)).astype(np.float32)
    for query in queries:
        search(server, query, params=hasty)
        search(server, query, params=hasty, filter=part)
    for shape in ("", "must(match part)"):
        labels = {"collection": "many", "vector": "", "filter": shape}
        wait_for(
            "measurements", lambda labels=labels: server.metric("halny_collection_recall_queries_total", **labels) >= 5
        )
        assert 0.2 < server.metric("halny_collection_recall_ratio", **labels) <= 1
    # So hasty a search misses some, and that is seen.
    assert server.metric("halny_collection_recall_ratio", collection="many", filter="") < 0.999


def test_a_collection_is_tuned_to_the_recall_that_is_wanted(server: Server) -> None:
    asked = np.random.default_rng(8).standard_normal((8_000, DIMENSIONS)).astype(np.float32)
    for first in range(0, len(asked), 1_000):
        searches = [{"query": query.tolist(), "limit": 10} for query in asked[first : first + 1_000]]
        ask(server, "POST", "/collections/many/points/query/batch", {"searches": searches})
    assert tuned(server, recall=0.3)[-1]["applied"]
    hasty = found(server)
    *steps, last = tuned(server, recall=0.98)
    assert last["queries_from"] == "clients" and last["queries"] >= 100
    assert last["applied"] and last["ef"] == last["trials"][-1]["ef"]
    assert last["trials"][-1]["recall"] >= 0.98 > (last["trials"][-2]["recall"] if len(last["trials"]) > 1 else 0)
    assert all(0 <= step["done"] <= 1 for step in steps)
    assert ask(server, "GET", "/collections/many")["ef"] == {"": last["ef"]}
    # On other queries than those that it was tuned on.
    assert found(server) > max(0.95, hasty)


def test_nothing_changes_where_only_the_answer_is_wanted(server: Server) -> None:
    before = ask(server, "GET", "/collections/many")["ef"]
    last = tuned(server, recall=0.5, apply=False)[-1]
    assert last["ef"] is not None and not last["applied"]
    assert ask(server, "GET", "/collections/many")["ef"] == before


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return halny("vectors", "tune", *arguments, "--project", server.project, timeout_s=300)


def test_the_command_line_tunes_and_shows_what_it_tried(server: Server) -> None:
    done = run(server, "many", "--recall", "0.9")
    assert done.returncode == 0, done.stderr
    ef = ask(server, "GET", "/collections/many")["ef"][""]
    assert f"hnsw_ef {ef} is used from now on" in done.stdout
    assert "recall" in done.stdout


def test_a_collection_of_the_compact_tier_is_tuned_by_its_lists(server: Server) -> None:
    product = {"product": {"compression": "x16", "always_ram": True}}
    fill(server, "compact", {"size": DIMENSIONS, "distance": "Cosine", "quantization_config": product})
    done = run(server, "compact", "--recall", "0.5")
    assert done.returncode == 0, done.stderr
    nprobe = ask(server, "GET", "/collections/compact")["ef"][""]
    assert f"nprobe {nprobe} is used from now on" in done.stdout
    assert "hnsw_ef" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], "there is no collection"),
        (["many", "--recall", "1.5"], "`recall` is 1.5"),
        (["many", "--recall", "nan"], "`recall` is"),
        (["many", "--vector", "other"], "no vector"),
        (["many", "--limit", "0"], "`limit` is 0"),
        (["../../health"], "there is no collection"),
    ],
    ids=str,
)
def test_what_cannot_be_tuned_is_said(server: Server, arguments: list[str], said: str) -> None:
    done = run(server, *arguments)
    assert done.returncode == 1
    assert said in done.stderr


def test_tuning_is_the_operators(server: Server) -> None:
    assert requests.post(server.url + TUNE, json={"recall": 0.9}, timeout=30).status_code == 404


def test_a_server_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with qdrant.start(tmp_path) as server:
        server.kill()
    done = run(server, "many")
    assert done.returncode == 1
    assert "halny serve" in done.stderr
