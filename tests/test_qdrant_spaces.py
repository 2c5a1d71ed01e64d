"""Several model versions' vectors under one collection: asked by which version serves, and never mixed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests

import engines
import projects
from server import Server, free_ports, wait_for
from tiny_models import TinyText, sentences

TEXTS = sentences(60)
QUERIES = ["the weather at home", "a text", *TEXTS[:6]]
#: How often the model is rolled forward and back while it is asked.
ROLLS = 6

Answers = dict[str, npt.NDArray[np.float64]]


class Versions:
    """A project whose model `tiny` is rolled from one version to another and back, with a collection of both."""

    def __init__(self, folder: Path, vectors: projects.Table) -> None:
        self.folder = folder
        self.vectors = vectors
        self.models = {"one": TinyText(folder / "one", seed=11), "two": TinyText(folder / "two", seed=12)}
        ports = free_ports(2)
        self.ports = (ports[0], ports[1])
        self.path = self.roll("one")
        self.server = Server(self.path, self.ports)

    def roll(self, version: str, preload: bool = True) -> Path:
        """Has `tiny` be this version; `next` always is the second."""
        models = [
            projects.model("tiny", self.models[version].folder, "embed", preload=preload),
            projects.model("next", self.models["two"].folder, "embed"),
        ]
        return projects.write(self.folder / "project", models, ports=self.ports, vectors=self.vectors)

    def rolled(self, version: str) -> None:
        """The same, and waits until it serves."""
        before = self.server.version("tiny")
        self.roll(version)
        wait_for("the other version to serve", lambda: self.server.version("tiny") != before)

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        return requests.request(method, self.server.url + path, json=body, timeout=60)

    def result(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.ask(method, path, body)
        assert answer.status_code < 300, answer.text
        return answer.json().get("result", answer.json())

    def fill(self) -> None:
        """A collection of the first version, and beside it the same texts by the second."""
        self.result("PUT", "/collections/notes", {"model": "tiny"})
        self.result("PUT", "/collections/notes/points?wait=true", {"points": points("one")})
        self.result("POST", "/halny/v1/collections/notes/spaces", {"model": "next"})
        self.result("PUT", "/collections/notes/points?wait=true&space=next", {"points": points("two")})

    def truth(self, version: str) -> Answers:
        """For each query the score of every text."""
        model = self.models[version]
        vectors = np.array([model.embedding(text) for text in TEXTS])
        return {query: vectors @ model.embedding(query) for query in QUERIES}

    def spaces(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("GET", "/halny/v1/collections/notes/spaces").json()
        return answer


def points(version: str) -> list[dict[str, Any]]:
    payload = {"version": version}
    return [{"id": n, "vector": {"text": text}, "payload": payload | {"n": n}} for n, text in enumerate(TEXTS)]


@pytest.fixture(params=engines.ENGINES)
def versions(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Versions]:
    with engines.settings(request.param, tmp_path) as vectors:
        made = Versions(tmp_path, vectors)
        with made.server:
            made.fill()
            yield made


def query(text: str) -> dict[str, Any]:
    return {"query": {"text": text}, "limit": len(TEXTS), "with_payload": True}


def test_no_answer_mixes_versions_while_the_model_is_rolled_forward_and_back(versions: Versions) -> None:
    """The scores of an answer, and the payloads of its points, are of one version, whichever that was."""
    truths = {version: versions.truth(version) for version in ("one", "two")}
    done = threading.Event()

    def version_of(points: list[dict[str, Any]], text: str) -> str:
        found = {point["payload"]["version"] for point in points}
        assert len(found) == 1, f"an answer of {found}"
        version = str(found.pop())
        scores = np.zeros(len(TEXTS))
        for point in points:
            scores[point["id"]] = point["score"]
        assert len(points) == len(TEXTS)
        assert np.allclose(scores, truths[version][text], atol=1e-4), f"scores that {version} does not give"
        return version

    def hammer(seed: int) -> dict[str, int]:
        counts = {"one": 0, "two": 0}
        for turn in range(100_000):
            if done.is_set():
                break
            text = QUERIES[(seed + turn) % len(QUERIES)]
            if turn % 3 == 0:
                # A query of several texts has one version too.
                both = [query(text), query(QUERIES[turn % len(QUERIES)])]
                answers = versions.result("POST", "/collections/notes/points/query/batch", {"searches": both})
                first = version_of(answers[0]["points"], text)
                assert version_of(answers[1]["points"], QUERIES[turn % len(QUERIES)]) == first
            else:
                first = version_of(
                    versions.result("POST", "/collections/notes/points/query", query(text))["points"], text
                )
            counts[first] += 1
        return counts

    with ThreadPoolExecutor(4) as pool:
        hammers = [pool.submit(hammer, seed) for seed in range(4)]
        try:
            for roll in range(ROLLS):
                versions.rolled("two" if roll % 2 == 0 else "one")
        finally:
            done.set()
        counts = [one.result(timeout=120) for one in hammers]
    assert all(sum(count[version] for count in counts) > 0 for version in ("one", "two")), counts


def test_a_model_that_is_rolled_back_has_its_vectors_back_also_for_requests_without_texts(versions: Versions) -> None:
    def version() -> set[str]:
        scrolled = versions.result("POST", "/collections/notes/points/scroll", {"limit": 100})["points"]
        return {point["payload"]["version"] for point in scrolled}

    assert version() == {"one"}
    versions.rolled("two")
    assert version() == {"two"}
    described = versions.result("GET", "/collections/notes")
    assert described["spaces"][0]["version"] == versions.server.version("tiny")
    versions.rolled("one")
    assert version() == {"one"}


def test_what_was_asked_last_is_asked_after_a_restart_before_the_model_is_there(versions: Versions) -> None:
    versions.rolled("two")
    wait_for("the version to be written down", lambda: active(versions)["version"] == versions.server.version("tiny"))
    assert versions.server.stop() == 0
    versions.roll("two", preload=False)
    versions.server = Server(versions.path, versions.ports)
    with versions.server:
        scrolled = versions.result("POST", "/collections/notes/points/scroll", {"limit": 3})["points"]
        assert {point["payload"]["version"] for point in scrolled} == {"two"}


def active(versions: Versions) -> dict[str, Any]:
    found: list[dict[str, Any]] = [space for space in versions.spaces()["spaces"] if space["active"]]
    assert len(found) == 1
    return found[0]


def test_what_is_deleted_or_changed_in_its_payload_is_so_in_every_version(versions: Versions) -> None:
    versions.result("POST", "/collections/notes/points/delete?wait=true", {"points": [3]})
    versions.result("POST", "/collections/notes/points/payload?wait=true", {"points": [4], "payload": {"seen": True}})
    operations = [{"delete": {"points": [5]}}, {"clear_payload": {"points": [6]}}]
    versions.result("POST", "/collections/notes/points/batch?wait=true", {"operations": operations})
    # What names a space is about that alone.
    versions.result("POST", "/collections/notes/points/delete?wait=true&space=next", {"points": [7]})
    for version, gone in (("one", {3, 5}), ("two", {3, 5, 7})):
        if version == "two":
            versions.rolled("two")
        scrolled = versions.result("POST", "/collections/notes/points/scroll", {"limit": 100})["points"]
        payloads = {point["id"]: point["payload"] for point in scrolled}
        assert set(range(len(TEXTS))) - payloads.keys() == gone
        assert payloads[4] == {"version": version, "n": 4, "seen": True}
        assert payloads[6] == {}


def test_a_version_that_lacks_points_is_changed_as_far_as_it_has_them(versions: Versions) -> None:
    """A space that is being filled lacks some: that refuses nothing, and hides no deletion from it."""
    lone = {"id": 1_000, "vector": {"text": "a text"}, "payload": {"version": "one"}}
    versions.result("PUT", "/collections/notes/points?wait=true", {"points": [lone]})
    seen = {"points": [1_000, 4], "payload": {"seen": True}}
    versions.result("POST", "/collections/notes/points/payload?wait=true", seen)
    missing = {"set_payload": {"points": [99_999], "payload": {"seen": True}}}
    operations = [{"set_payload": seen}, {"delete": {"points": [1_000, 2]}}, missing]
    refused = versions.ask("POST", "/collections/notes/points/batch?wait=true", {"operations": operations})
    assert refused.status_code == 404
    for version in ("one", "two"):
        if version == "two":
            versions.rolled("two")
        scrolled = versions.result("POST", "/collections/notes/points/scroll", {"limit": 100})["points"]
        payloads = {point["id"]: point["payload"] for point in scrolled}
        assert payloads[4]["seen"] is True
        assert not {1_000, 2} & payloads.keys()


def test_an_index_of_a_field_is_one_of_every_version(versions: Versions) -> None:
    versions.result("PUT", "/collections/notes/index?wait=true", {"field_name": "n", "field_schema": "integer"})
    for _ in range(2):
        assert versions.result("GET", "/collections/notes")["payload_schema"]["n"]["points"] == len(TEXTS)
        versions.rolled("two" if active(versions)["version"] != versions.server.version("next") else "one")


def test_a_collection_that_follows_another_model_embeds_by_it(versions: Versions) -> None:
    answer = versions.ask("PUT", "/halny/v1/collections/notes/spaces/active", {"model": "next"})
    assert answer.status_code == 200
    assert answer.json()["follows"] == "next"
    found = versions.result("POST", "/collections/notes/points/query", query(QUERIES[0]))["points"]
    assert {point["payload"]["version"] for point in found} == {"two"}
    # What `tiny` serves does not matter any more.
    versions.rolled("two")
    versions.rolled("one")
    again = versions.result("POST", "/collections/notes/points/query", query(QUERIES[0]))["points"]
    assert again == found


def test_refusals_say_what_there_is(versions: Versions) -> None:
    spaces = "/halny/v1/collections/notes/spaces"
    first, second = (versions.server.version(name) for name in ("tiny", "next"))
    twice = versions.ask("POST", spaces, {"model": "next"})
    assert twice.status_code == 409 and second[:12] in twice.text
    in_use = versions.ask("DELETE", f"{spaces}/{first}")
    assert in_use.status_code == 400 and first[:12] in in_use.text
    for asked in ("nowhere", second[:4], "", "0" * 64):
        answer = versions.ask("POST", f"/collections/notes/points/scroll?space={asked}", {"limit": 1})
        assert answer.status_code == 404, asked
        assert "spaces" in answer.json()["status"]["error"]
    assert versions.ask("POST", f"/collections/notes/points/scroll?space={second[:8]}", {"limit": 1}).status_code == 200
    assert versions.ask("POST", spaces, {"model": "none"}).status_code == 404
    assert versions.ask("DELETE", f"{spaces}/{second}").status_code == 200
    assert [space["version"] for space in versions.spaces()["spaces"]] == [first]
    assert versions.ask("DELETE", f"{spaces}/{second}").status_code == 404
    versions.result("PUT", "/collections/free", {"vectors": {"size": 2, "distance": "Dot"}})
    free = versions.ask("POST", "/halny/v1/collections/free/spaces", {"model": "next"})
    assert free.status_code == 400 and "bound to no model" in free.text


def test_examples_of_another_model_are_refused(versions: Versions) -> None:
    versions.result("PUT", "/collections/others", {"model": "next"})
    points = [{"id": 1, "vector": {"text": "a text"}}]
    versions.result("PUT", "/collections/others/points?wait=true", {"points": points})
    body = {"query": {"recommend": {"positive": [1]}}, "lookup_from": {"collection": "others"}}
    answer = versions.ask("POST", "/collections/notes/points/query", body)
    assert answer.status_code == 400
    error = answer.json()["status"]["error"]
    assert all(versions.server.version(name)[:12] in error for name in ("tiny", "next"))
