"""Collections that are bound to a model: texts take the place of vectors, and no two models are mixed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

import projects
from conftest import Tiny
from server import Server
from tiny_models import TinyText, sentences

TEXTS = sentences(40)


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[Server]:
    """A server with a model, another one, and a collection of the first."""
    models = [projects.model("tiny", tiny.embed.folder, "embed"), projects.model("other", tiny.embed.folder, "embed")]
    with projects.start(tmp_path_factory.mktemp("bound"), models) as server:
        server.wait_until_ready()
        assert ask(server, "PUT", "/collections/notes", {"model": "tiny"}).json()["result"] is True
        points = [{"id": n, "vector": {"text": text}, "payload": {"text": text}} for n, text in enumerate(TEXTS)]
        assert ask(server, "PUT", "/collections/notes/points?wait=true", {"points": points}).status_code == 200
        yield server


def ask(server: Server, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
    return requests.request(method, server.url + path, json=body, timeout=60)


def embedded(server: Server, texts: list[str], model: str = "tiny") -> np.ndarray[Any, Any]:
    answer = ask(server, "POST", "/v1/embeddings", {"model": model, "input": texts}).json()
    return np.array([entry["embedding"] for entry in answer["data"]])


def test_a_collection_has_the_size_of_its_model_and_says_which_version_it_is_bound_to(bound: Server) -> None:
    found = ask(bound, "GET", "/collections/notes").json()["result"]
    space = found["spaces"][0]
    assert space["model"] == "tiny"
    assert space["version"] == bound.version("tiny")
    assert found["config"]["params"]["vectors"]["size"] == space["dimensions"]


def test_texts_are_stored_and_asked_for_as_the_vectors_that_the_model_makes_of_them(bound: Server) -> None:
    vectors = embedded(bound, TEXTS)
    stored = ask(bound, "POST", "/collections/notes/points", {"ids": [0, 7], "with_vector": True}).json()["result"]
    assert np.allclose([point["vector"] for point in stored], vectors[[0, 7]], atol=1e-5)
    query = "the weather at home"
    found = ask(bound, "POST", "/collections/notes/points/query", {"query": {"text": query}, "limit": 40}).json()
    scores = {point["id"]: point["score"] for point in found["result"]["points"]}
    wanted = vectors @ embedded(bound, [query])[0]
    assert np.allclose([scores[n] for n in range(len(TEXTS))], wanted, atol=1e-4)


def test_texts_stand_in_examples_prefetches_and_batches_too(bound: Server) -> None:
    text = {"text": TEXTS[3], "model": "tiny"}
    searches = [
        {"query": {"nearest": text}, "limit": 1},
        {"query": {"recommend": {"positive": [text], "strategy": "best_score"}}, "limit": 1},
        {"prefetch": [{"query": text, "limit": 5}], "query": {"fusion": "rrf"}, "limit": 1},
    ]
    answers = ask(bound, "POST", "/collections/notes/points/query/batch", {"searches": searches}).json()["result"]
    found = [TEXTS[answer["points"][0]["id"]] for answer in answers]
    assert found == [TEXTS[3]] * 3


def test_a_text_for_another_model_is_refused_by_both_names(bound: Server) -> None:
    text = {"text": "x", "model": "other"}
    for method, path, body in [
        ("POST", "/collections/notes/points/query", {"query": text}),
        ("PUT", "/collections/notes/points?wait=true", {"points": [{"id": 99, "vector": text}]}),
    ]:
        answer = ask(bound, method, path, body)
        assert answer.status_code == 400
        error = answer.json()["status"]["error"]
        assert "tiny@" in error and "other" in error
    assert ask(bound, "POST", "/collections/notes/points", {"ids": [99]}).json()["result"] == []


def test_a_text_for_a_collection_without_a_model_says_what_to_do(bound: Server) -> None:
    ask(bound, "PUT", "/collections/free", {"vectors": {"size": 2, "distance": "Dot"}})
    answer = ask(bound, "POST", "/collections/free/points/query", {"query": {"text": "x"}})
    assert answer.status_code == 400
    assert "`model`" in answer.json()["status"]["error"]


def test_vectors_of_another_version_of_the_model_are_never_compared(tmp_path: Path, tiny: Tiny) -> None:
    """Under the same name another model is served: what the collection holds cannot be asked with its vectors."""
    with projects.start(tmp_path, [projects.model("tiny", tiny.embed.folder, "embed")]) as server:
        server.wait_until_ready()
        first = server.version("tiny")
        ask(server, "PUT", "/collections/notes", {"model": "tiny"})
        points = [{"id": 1, "vector": {"text": "a text"}}]
        assert ask(server, "PUT", "/collections/notes/points?wait=true", {"points": points}).status_code == 200
        server.stop()
    retrained = TinyText(tmp_path / "retrained", seed=77)
    with projects.start(tmp_path, [projects.model("tiny", retrained.folder, "embed")]) as server:
        server.wait_until_ready()
        second = server.version("tiny")
        assert first != second
        for method, path, body in [
            ("POST", "/collections/notes/points/query", {"query": {"text": "a text"}}),
            ("PUT", "/collections/notes/points", {"points": points}),
        ]:
            answer = ask(server, method, path, body)
            assert answer.status_code == 400
            assert first[:12] in answer.json()["status"]["error"] and second[:12] in answer.json()["status"]["error"]
        assert ask(server, "POST", "/collections/notes/points/count", {}).json()["result"]["count"] == 1
