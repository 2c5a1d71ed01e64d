"""Jobs that embed files into collections, and what they leave to those who wait."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import projects
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import work
from conftest import MINILM, Tiny
from server import CACHE, Server

#: Descriptions that the job which is preempted embeds: 63,666 for all of them.
ROWS = int(os.environ.get("HALNY_EMBED_ROWS") or 9_000)
JOBS = "[jobs]\nlease_ms = 2000\ngrace_ms = 20000\n"


def texts(count: int) -> list[str]:
    return (CACHE / "data" / "debian-descriptions.txt").read_text(encoding="utf-8").splitlines()[:count]


def collection(server: Server, name: str, model: str = "tiny") -> None:
    answer = requests.put(f"{server.url}/collections/{name}", json={"model": model}, timeout=30)
    assert answer.status_code == 200, answer.text


def points(server: Server, name: str) -> dict[Any, dict[str, Any]]:
    """All points of a collection, by id."""
    found: dict[Any, dict[str, Any]] = {}
    offset = None
    while True:
        form = {"limit": 1_000, "offset": offset, "with_payload": True, "with_vector": True}
        answer = requests.post(f"{server.url}/collections/{name}/points/scroll", json=form, timeout=60)
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        found |= {point["id"]: point for point in result["points"]}
        offset = result["next_page_offset"]
        if offset is None:
            return found


def embedded(server: Server, model: str, given: list[str]) -> np.ndarray[Any, Any]:
    found: list[Any] = []
    for at in range(0, len(given), 1_000):
        form = {"model": model, "input": given[at : at + 1_000]}
        found += requests.post(f"{server.url}/v1/embeddings", json=form, timeout=60).json()["data"]
    return np.array([one["embedding"] for one in found])


def expect(server: Server, name: str, expected: dict[Any, tuple[str, dict[str, Any]]]) -> None:
    """The collection has these points: what the model makes of the texts, and these payloads."""
    found = points(server, name)
    assert found.keys() == expected.keys()
    keys = list(expected)
    vectors = embedded(server, "tiny", [expected[key][0] for key in keys])
    for key, vector in zip(keys, vectors):
        np.testing.assert_allclose(found[key]["vector"], vector, atol=1e-4)
        assert found[key]["payload"] == expected[key][1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Any:
    folder = tmp_path_factory.mktemp("embed")
    path = projects.write(folder, [projects.model("tiny", tiny.embed.folder, "embed")], more=JOBS)
    with projects.serve(path) as server:
        yield server
        server.end()


def run(server: Server, **order: Any) -> dict[str, Any]:
    job = work.submit(server, "embed-collection", order)
    return work.until(server, job["id"], "done")


def test_lines_of_json_become_points(served: Server) -> None:
    folder, given = served.project.parent, texts(700)
    rows = [{"name": f"p{at}", "number": at + 10, "text": text, "deep": {"a": [at]}} for at, text in enumerate(given)]
    rows[5]["text"] = ""
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    collection(served, "lines")
    done = run(served, collection="lines", source={"path": "rows.jsonl"}, id="number")
    assert done["result"] == {"collection": "lines", "written": 699, "skipped": 1}
    assert done["progress"]["done"] == done["progress"]["total"] == 700
    expect(served, "lines", {
        row["number"]: (row["text"], {key: value for key, value in row.items() if key != "number"})
        for row in rows if row["text"]
    })


def test_lines_of_text_become_points(served: Server) -> None:
    folder, given = served.project.parent, texts(300)
    (folder / "rows.txt").write_text("\r\n".join(given), encoding="utf-8")
    collection(served, "text")
    run(served, collection="text", source={"path": "rows.txt"}, payload=[])
    expect(served, "text", {at + 1: (text, {}) for at, text in enumerate(given)})


def test_rows_of_parquet_become_points(served: Server) -> None:
    folder, given = served.project.parent, texts(2_500)
    table = pa.table({"description": given, "size": list(range(2_500)), "extra": ["x"] * 2_500})
    pq.write_table(table, folder / "rows.parquet", row_group_size=400, compression="snappy")
    collection(served, "parquet")
    source = {"path": "rows.parquet"}
    run(served, collection="parquet", source=source, text="description", payload=["size"])
    expect(served, "parquet", {at + 1: (text, {"size": at}) for at, text in enumerate(given)})


def test_an_uploaded_file_is_a_source(served: Server) -> None:
    given = texts(50)
    body = "\n".join(json.dumps({"text": text}) for text in given).encode()
    form = {"purpose": (None, "user_data"), "file": ("a.jsonl", body)}
    file = requests.post(f"{served.url}/v1/files", files=form, timeout=30).json()["id"]
    collection(served, "uploaded")
    run(served, collection="uploaded", source={"file": file, "format": "jsonl"})
    expect(served, "uploaded", {at + 1: (text, {"text": text}) for at, text in enumerate(given)})


def test_what_cannot_be_embedded_is_dead_with_the_reason(served: Server, tmp_path: Path) -> None:
    folder = served.project.parent
    (folder / "broken.jsonl").write_text('{"text": "a"}\nno json\n')
    (folder / "broken.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    collection(served, "broken")
    for source, name, says in (
        ({"path": "none.txt"}, "broken", "cannot be read"),
        ({"path": "broken.jsonl"}, "broken", "line 2"),
        ({"path": "broken.parquet"}, "broken", "Parquet"),
        ({"path": "link.txt"}, "broken", "outside"),
        ({"path": "rows.txt"}, "none", "none"),
    ):
        job = work.submit(served, "embed-collection", {"collection": name, "source": source})
        dead = work.until(served, job["id"], "dead")
        assert says in dead["error"] and "secret" not in dead["error"], dead["error"]


def test_each_text_is_embedded_once_however_often_the_job_is_preempted(tmp_path: Path) -> None:
    given = texts(ROWS)
    model = projects.model("minilm", MINILM, "embed", projects.profile(precision="int8", instances=2))
    path = projects.write(tmp_path, [model], more=JOBS)
    (tmp_path / "all.txt").write_text("\n".join(given), encoding="utf-8")
    stops, name = 5, ""
    for run_number in range(stops + 1):
        with projects.serve(path) as server:
            if not name:
                collection(server, "all", "minilm")
                order = {"collection": "all", "source": {"path": "all.txt"}}
                name = work.submit(server, "embed-collection", order)["id"]
            if run_number < stops:
                share = len(given) * (run_number + 1) // (stops + 3)
                work.until_it_has(server, name, share, patience_s=900)
            else:
                done = work.until(server, name, "done", patience_s=900)
            count = requests.post(f"{server.url}/collections/all/points/count", json={"exact": True}, timeout=60)
            assert count.json()["result"]["count"] <= len(given)
            server.end()
    assert done["result"] == {"collection": "all", "written": len(given), "skipped": 0}
    assert (done["failures"], done["losses"]) == (0, 0)
    assert done["epoch"] == stops + 1
    # What each of the servers had embedded when it ended. Warming up is not counted: these are the job's.
    embedded_by = [int(count) for count in re.findall(r"no longer loaded model=\"?minilm\"?.* answered=(\d+)", server.log())]
    assert len(embedded_by) == stops + 1 and sum(embedded_by) == len(given), embedded_by


def test_who_waits_is_served_while_a_job_embeds(tmp_path: Path) -> None:
    """Not of how long it takes, which `bench/` says: of that nobody is refused, and the job goes on."""
    model = projects.model("minilm", MINILM, "embed", projects.profile(precision="int8", instances=2))
    path = projects.write(tmp_path, [model], more=JOBS)
    (tmp_path / "all.txt").write_text("\n".join(texts(9_000)), encoding="utf-8")
    with projects.serve(path) as server:
        collection(server, "all", "minilm")
        order = {"collection": "all", "source": {"path": "all.txt"}}
        name = work.submit(server, "embed-collection", order)["id"]
        work.until_it_has(server, name, 1)
        asked = 0
        while work.job(server, name)["state"] == "running":
            assert embedded(server, "minilm", ["how do I read a file"]).shape == (1, 384)
            asked += 1
            time.sleep(0.01)
        assert asked > 5
        work.until(server, name, "done")
        assert server.stop() == 0


def test_queries_are_ranked_ahead(tmp_path: Path, tiny: Tiny) -> None:
    models = [
        projects.model("tiny", tiny.embed.folder, "embed"),
        projects.model("rerank", tiny.rerank.folder, "rerank"),
    ]
    path = projects.write(tmp_path, models, more=JOBS)
    given = texts(200)
    (tmp_path / "all.txt").write_text("\n".join(given), encoding="utf-8")
    queries = ["a warm roof", "read a file", "fonts"]
    (tmp_path / "queries.jsonl").write_text("\n".join(json.dumps({"q": query}) for query in queries), encoding="utf-8")
    with projects.serve(path) as server:
        collection(server, "all")
        run(server, collection="all", source={"path": "all.txt"})
        order = {"queries": {"path": "queries.jsonl"}, "text": "q", "collection": "all", "field": "text",
                 "model": "rerank", "candidates": 20, "limit": 5}
        job = work.submit(server, "rerank-refresh", order)
        done = work.until(server, job["id"], "done")["result"]
        assert done["queries"] == 3
        content = requests.get(f"{server.url}/v1/files/{done['file']}/content", timeout=30).text
        ranked = [json.loads(line) for line in content.splitlines()]
        assert [one["query"] for one in ranked] == queries
        for one in ranked:
            form = {"query": {"text": one["query"]}, "limit": 20, "with_payload": ["text"]}
            found = requests.post(f"{server.url}/collections/all/points/query", json=form, timeout=30).json()
            near = found["result"]["points"]
            documents = [point["payload"]["text"] for point in near]
            form = {"model": "rerank", "query": one["query"], "documents": documents, "top_n": 5}
            expected = requests.post(f"{server.url}/v1/rerank", json=form, timeout=30).json()["results"]
            assert [result["id"] for result in one["results"]] == [near[result["index"]]["id"] for result in expected]
        for bad in ({"limit": 30}, {"candidates": 0}, {"queries": {"path": "../x.txt"}}, {"model": None}):
            answer = requests.post(
                f"{server.admin_url}/halny/v1/jobs", json={"kind": "rerank-refresh", "payload": order | bad}, timeout=30
            )
            assert answer.status_code == 400, answer.text
        assert server.stop() == 0
