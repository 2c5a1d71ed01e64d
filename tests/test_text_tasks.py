"""Reranking and text classification with random models, against their forward pass in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import requests

from conftest import Tiny
from server import Server
from tiny_models import sentences

QUERY = "rain and wind over the sea"
DOCUMENTS = ["storm cloud river", "bread salt", "boat sea shore wind", "clock", "night light road wheel"]


def rerank(server: Server, path: str = "/v1/rerank", **change: Any) -> requests.Response:
    body = {"model": "rerank", "query": QUERY, "documents": DOCUMENTS} | change
    return requests.post(f"{server.url}{path}", json=body, timeout=60)


def test_relevance_matches_the_reference_in_falling_order(server: Server, tiny: Tiny) -> None:
    results = rerank(server).json()["results"]
    expected = [tiny.rerank.relevance(QUERY, document) for document in DOCUMENTS]
    assert [result["index"] for result in results] == np.argsort(expected)[::-1].tolist()
    for result in results:
        assert result["relevance_score"] == pytest.approx(expected[result["index"]], abs=1e-4)


def test_the_reference_tells_documents_apart(tiny: Tiny) -> None:
    expected = [tiny.rerank.relevance(QUERY, document) for document in DOCUMENTS]
    assert max(expected) - min(expected) > 0.01, "the comparison above would prove nothing"


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_the_answer_has_the_fields_that_cohere_and_jina_clients_read(server: Server, path: str) -> None:
    answer = rerank(server, path, top_n=2, return_documents=True, max_tokens_per_doc=512).json()
    assert answer["id"]
    assert answer["model"] == "rerank"
    assert answer["meta"]["billed_units"]["search_units"] >= 1
    assert answer["usage"]["total_tokens"] > 0
    assert len(answer["results"]) == 2
    for result in answer["results"]:
        assert result["document"]["text"] == DOCUMENTS[result["index"]]


def test_documents_may_be_objects_with_a_text(server: Server) -> None:
    objects = [{"text": document} for document in DOCUMENTS]
    assert rerank(server, documents=objects).json()["results"] == rerank(server).json()["results"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "nothing"}, 404),
        ({"model": "minilm"}, 400),
        ({"documents": []}, 400),
        ({"documents": ["x"] * 2_049}, 400),
        ({"documents": [5]}, 400),
        ({"top_n": 0}, 400),
        ({"top_n": -1}, 400),
        ({"query": "sun " * 47}, 413),
        ({"documents": ["sun " * 60]}, 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_request_is_refused_in_the_shape_of_the_protocol(
    server: Server, change: dict[str, Any], status: int
) -> None:
    answer = rerank(server, **change)
    assert answer.status_code == status
    assert answer.json()["message"] == answer.json()["detail"] != ""


def classify(server: Server, inputs: str | list[str]) -> Any:
    body = {"model": "topics", "input": inputs}
    answer = requests.post(f"{server.url}/halny/v1/classify", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_classes_of_texts_match_the_reference(server: Server, tiny: Tiny) -> None:
    texts = sentences(60)
    results = classify(server, texts)
    labels = list(tiny.topics.labels)
    for text, result in zip(texts, results, strict=True):
        expected = tiny.topics.class_scores(text)
        assert [result["scores"][label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-4)
        assert result["label"] == labels[int(expected.argmax())]
    assert len({result["label"] for result in results}) > 1, "one label for all texts would prove little"


def test_one_text_gives_the_result_of_a_list_of_one(server: Server) -> None:
    alone, listed = classify(server, "sun rain"), classify(server, ["sun rain"])
    assert len(alone) == len(listed) == 1
    assert alone[0]["scores"] == pytest.approx(listed[0]["scores"], abs=1e-6)
