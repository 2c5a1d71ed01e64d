"""Embeddings, reranking and classification by GGUF files, against the same weights elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import projects
import pytest
from bert_gguf import RANK, Bert
from conftest import MINILM, Tiny
from safetensors.numpy import load_file
from server import Server, serve_in_vain
from test_text_tasks import DOCUMENTS, QUERY, classify, rerank
from tiny_bert import logits
from tiny_gguf import FILE
from tiny_models import SPECIAL, WORDS, TinyText, sentences

#: llama.cpp computes GELU by its approximation with tanh, from a table of halves.
GELU = 5e-3
PROMPT_KEY = "tokenizer.chat_template.rerank"
PROMPT = "[CLS]is {query} near[SEP]the sun {document}[SEP]"
TEXTS = [
    "HTTP server with TLS",
    "a library for reading and writing ZIP archives, with naïve café résumés",
    "Unicode: żółć, 東京, 🦀!",
    "x",
    "don't re-use (old) e-mails; 3.14159 > 2.71828 & more",
    "word " * 300,
]


def file_of(folder: Path, tiny: TinyText, **more: Any) -> Path:
    config = json.loads((tiny.folder / "config.json").read_text())
    return Bert(config, tiny.weights, SPECIAL + WORDS, **more).write(folder)


@dataclass
class Sources:
    """Folders with one GGUF file each."""

    minilm: Path
    tiny: Path
    topics: Path
    rerank: Path
    #: Like `rerank`, with a prompt.
    prompted: Path
    #: With a prompt that lacks a place.
    unprompted: Path
    #: Like `rerank`; one test changes it.
    changing: Path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Sources:
    folder = tmp_path_factory.mktemp("gguf")
    vocabulary = json.loads((MINILM / "tokenizer.json").read_text())["model"]["vocab"]
    minilm = Bert(
        json.loads((MINILM / "config.json").read_text()),
        load_file(MINILM / "model.safetensors"),
        sorted(vocabulary, key=vocabulary.__getitem__),
    )
    return Sources(
        minilm.write(folder / "minilm"),
        file_of(folder / "tiny", tiny.embed),
        file_of(folder / "topics", tiny.topics, pooling=RANK, labels=tiny.topics.labels),
        file_of(folder / "rerank", tiny.rerank, pooling=RANK),
        file_of(folder / "prompted", tiny.rerank, pooling=RANK, keys={PROMPT_KEY: ("text", PROMPT)}),
        file_of(folder / "unprompted", tiny.rerank, pooling=RANK, keys={PROMPT_KEY: ("text", "{document}")}),
        file_of(folder / "changing", tiny.rerank, pooling=RANK, labels=["relevant"]),
    )


def entry(name: str, source: Path, task: str, *profiles: Any, preload: bool = True, **text: Any) -> projects.Table:
    return projects.model(name, source, task, *profiles, preload=preload, text={"file": FILE} | text)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Iterator[Server]:
    cut = {"truncate": True, "max_tokens": 256}
    models = [
        entry("minilm-gguf", sources.minilm, "embed", **cut),
        projects.model("minilm", MINILM, "embed", projects.profile(max_batch_tokens=2_048), text=cut),
        entry("tiny", sources.tiny, "embed"),
        entry("first", sources.tiny, "embed", pooling="cls"),
        entry("topics", sources.topics, "classify-text"),
        entry("rerank", sources.rerank, "rerank", projects.profile(instances=2)),
        entry("prompted", sources.prompted, "rerank"),
        entry("changing", sources.changing, "rerank", preload=False),
    ]
    with projects.start(tmp_path_factory.mktemp("readers"), models) as server:
        yield server
        server.end()


def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(**server.openai)


def vectors(server: Server, model: str, texts: list[str]) -> np.ndarray[Any, Any]:
    answer = client(server).embeddings.create(model=model, input=texts)
    return np.array([one.embedding for one in answer.data])


def test_minilm_gives_the_vectors_of_its_graph(readers: Server) -> None:
    ours, graph = vectors(readers, "minilm-gguf", TEXTS), vectors(readers, "minilm", TEXTS)
    assert (ours * graph).sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.abs(ours[0] - ours[1]).max() > 0.05, "the comparison above would prove nothing"


def test_a_text_has_the_same_vector_alone_and_in_company(readers: Server, tiny: Tiny) -> None:
    texts = sentences(150)
    together = vectors(readers, "tiny", texts)
    for place in range(0, len(texts), 30):
        assert together[place] == pytest.approx(tiny.embed.embedding(texts[place]), abs=GELU)
        assert together[place] == pytest.approx(vectors(readers, "tiny", [texts[place]])[0], abs=GELU / 5)


def test_the_project_says_how_vectors_are_pooled(readers: Server) -> None:
    mean, first = (vectors(readers, model, ["sun and rain"])[0] for model in ("tiny", "first"))
    assert np.abs(mean - first).max() > 0.01


def test_usage_counts_special_tokens_as_the_graph_does(readers: Server) -> None:
    for model in ("minilm-gguf", "minilm"):
        answer = client(readers).embeddings.create(model=model, input="HTTP server with TLS")
        assert answer.usage.prompt_tokens == 7


def test_tokens_are_taken_as_well(readers: Server) -> None:
    given = client(readers).embeddings.create(model="tiny", input=[[4, 5, 6]]).data[0].embedding
    assert given == pytest.approx(vectors(readers, "tiny", ["sun rain wind"])[0], abs=GELU / 5)
    with pytest.raises(openai.BadRequestError, match="token"):
        client(readers).embeddings.create(model="tiny", input=[[4, 5, len(SPECIAL + WORDS)]])


def test_what_is_too_long_is_refused(readers: Server) -> None:
    with pytest.raises(openai.APIStatusError, match="48") as refused:
        client(readers).embeddings.create(model="tiny", input="sun " * 47)
    assert refused.value.status_code == 413


def test_relevance_is_that_of_the_model_without_segments(readers: Server, tiny: Tiny) -> None:
    results = rerank(readers).json()["results"]
    expected = [unsegmented(tiny.rerank, QUERY, document) for document in DOCUMENTS]
    assert [result["index"] for result in results] == np.argsort(expected)[::-1].tolist()
    for result in results:
        assert result["relevance_score"] == pytest.approx(expected[result["index"]], abs=GELU)


def test_a_prompt_in_the_file_is_put_around_the_two_texts(readers: Server, tiny: Tiny) -> None:
    documents = [*DOCUMENTS, "a [SEP] is text"]
    results = rerank(readers, model="prompted", documents=documents).json()["results"]
    # What stands in brackets is no word of the tokenizer's: three tokens that it does not know.
    known = [document.replace("[SEP]", "( sep )") for document in documents]
    expected = [unsegmented(tiny.rerank, f"is {QUERY} near", f"the sun {document}") for document in known]
    for result in results:
        assert result["relevance_score"] == pytest.approx(expected[result["index"]], abs=GELU)
    assert max(expected) - min(expected) > 2 * GELU, "the comparison above would prove nothing"


def unsegmented(model: TinyText, query: str, document: str) -> float:
    """llama.cpp gives every token the first segment."""
    pair = model.tokenizer.encode(query, document)
    return float(1.0 / (1.0 + np.exp(-logits(model.weights, model.shape, pair.ids)[0])))


def test_classes_are_those_of_the_model(readers: Server, tiny: Tiny) -> None:
    texts = sentences(20)
    for text, result in zip(texts, classify(readers, texts), strict=True):
        expected = dict(zip(tiny.topics.labels, tiny.topics.class_scores(text).tolist(), strict=True))
        assert result["scores"] == pytest.approx(expected, abs=GELU)


@pytest.mark.parametrize(
    ("source", "task", "text", "says"),
    [
        ("tiny", "rerank", {}, "embed"),
        ("tiny", "classify-text", {}, "embed"),
        ("rerank", "embed", {}, "rerank"),
        ("topics", "rerank", {}, "classify-text"),
        ("tiny", "embed", {"max_tokens": 10_000}, "48"),
        ("tiny", "generate", None, "text.file"),
        ("unprompted", "rerank", {}, "{query}"),
    ],
)
def test_a_file_for_another_task_is_refused_with_the_right_one(
    tmp_path: Path, sources: Sources, source: str, task: str, text: dict[str, Any] | None, says: str
) -> None:
    folder = getattr(sources, source)
    model = projects.model("m", folder, task) if text is None else entry("m", folder, task, **text)
    path = projects.write(tmp_path, [model])
    done = serve_in_vain(path)
    assert done.returncode == 1, done.stderr
    assert says in done.stderr.strip().splitlines()[-1], done.stderr


def test_a_file_changed_anywhere_never_ends_the_process(readers: Server, sources: Sources) -> None:
    """Lies are refused when the file is loaded; what loads may answer nonsense, or say that it cannot."""
    path = sources.changing / FILE
    header = path.read_bytes().index(b"blk.0.ffn_up.weight")
    places = range(0, header + 400, 3)
    outcomes = readers.outcomes_of_changes("changing", path, places, lambda: rerank(readers, model="changing"))
    assert readers.load("changing").status_code == 200
    assert rerank(readers, model="changing").status_code == 200
    assert set(outcomes) == {200, 400} and min(outcomes.values()) > 100, outcomes
