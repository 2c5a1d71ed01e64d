"""The unmodified `openai` client against the server."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from conftest import MINILM, Tiny
from reference import Reference
from server import CACHE, Server
from tiny_models import sentences

TEXT = "The cat sleeps on the warm roof."
FP32 = {"x-halny-profile": "default"}
INT8 = {"x-halny-profile": "int8"}


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(**server.openai)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(MINILM)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Sentences of the demo and package descriptions, at even distances over both files."""
    demo = (Path(__file__).resolve().parents[1] / "demo" / "data" / "sentences.txt").read_text().splitlines()
    debian = (CACHE / "data" / "debian-descriptions.txt").read_text().splitlines()
    return [*demo[:: len(demo) // 28][:28], *debian[:: len(debian) // 28][:28]]


@pytest.fixture(scope="module")
def expected(reference: Reference, texts: list[str]) -> Any:
    return np.stack([reference.embedding(text) for text in texts])


def vectors(answer: Any) -> Any:
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return np.array([one.embedding for one in answer.data])


@pytest.mark.parametrize(("headers", "least"), [(FP32, 0.999), (INT8, 0.98)], ids=["fp32", "int8"])
def test_embeddings_match_the_safetensors(
    client: openai.OpenAI, texts: list[str], expected: Any, headers: dict[str, str], least: float
) -> None:
    found = vectors(client.embeddings.create(model="minilm", input=texts, extra_headers=headers))
    assert len(texts) >= 50
    assert np.abs(np.linalg.norm(found, axis=1) - 1.0).max() < 1e-3
    cosines = (found * expected).sum(axis=1)
    assert cosines.min() > least, f"lowest {cosines.min():.5f} for {texts[int(cosines.argmin())]!r}"


def test_one_text_gives_one_vector_and_its_token_count(client: openai.OpenAI, reference: Reference) -> None:
    answer = client.embeddings.create(model="minilm", input=TEXT)
    assert vectors(answer).shape == (1, 384)
    assert answer.model == "minilm"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == len(reference.ids(TEXT))


def test_usage_is_the_sum_over_all_inputs(client: openai.OpenAI, reference: Reference, texts: list[str]) -> None:
    answer = client.embeddings.create(model="minilm", input=texts)
    assert answer.usage.total_tokens == sum(len(reference.ids(text)) for text in texts)


def test_tokens_of_a_text_give_the_vector_of_the_text(client: openai.OpenAI, reference: Reference) -> None:
    ids = reference.ids(TEXT)
    text = vectors(client.embeddings.create(model="minilm", input=TEXT, extra_headers=FP32))
    flat = vectors(client.embeddings.create(model="minilm", input=ids, extra_headers=FP32))
    lists = vectors(client.embeddings.create(model="minilm", input=[ids, ids[1:-1]], extra_headers=FP32))
    for found in (flat, lists[:1], lists[1:]):
        np.testing.assert_allclose(found, text, atol=1e-6)


def test_base64_and_float_hold_the_same_numbers(client: openai.OpenAI) -> None:
    wire = client.embeddings.with_raw_response.create(model="minilm", input=TEXT, extra_headers=FP32)
    assert isinstance(wire.http_response.json()["data"][0]["embedding"], str), "the client asks for base64 by default"
    packed = np.float32(vectors(wire.parse()))
    plain = client.embeddings.create(model="minilm", input=TEXT, encoding_format="float", extra_headers=FP32)
    np.testing.assert_array_equal(packed, np.float32(vectors(plain)))


@pytest.mark.parametrize("dimensions", [1, 64, 384])
def test_dimensions_are_the_first_ones_at_length_one(client: openai.OpenAI, dimensions: int) -> None:
    whole = vectors(client.embeddings.create(model="minilm", input=TEXT, extra_headers=FP32))[0]
    found = vectors(client.embeddings.create(model="minilm", input=TEXT, dimensions=dimensions, extra_headers=FP32))[0]
    cut = whole[:dimensions]
    np.testing.assert_allclose(found, cut / np.linalg.norm(cut), atol=1e-6)


def test_requests_that_share_batches_get_their_own_answers(server: Server, tiny: Tiny) -> None:
    texts = sentences(300)
    expected = np.stack([tiny.embed.embedding(text) for text in texts])

    async def ask_all() -> list[Any]:
        async with openai.AsyncOpenAI(**server.openai) as client:
            return await asyncio.gather(*(client.embeddings.create(model="tiny", input=text) for text in texts))

    before = server.metric("halny_batch_items_count", model="tiny")
    found = np.concatenate([vectors(answer) for answer in asyncio.run(ask_all())])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    batches = server.metric("halny_batch_items_count", model="tiny") - before
    assert batches < len(texts), "no batch held more than one text"


def test_models_are_listed_with_what_they_do(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"minilm", "nsfw", "tiny", "topics", "rerank", "arithmetic"} <= listed.keys()
    minilm = client.models.retrieve("minilm")
    assert minilm == listed["minilm"]
    told = minilm.model_dump()
    assert (told["object"], told["task"], told["dimensions"]) == ("model", "embed", 384)
    assert re.fullmatch(r"[0-9a-f]{64}", told["version"])
    assert [(profile["name"], profile["precision"]) for profile in told["profiles"]] == [
        ("default", "fp32"),
        ("int8", "int8"),
    ]
    assert listed["nsfw"].model_dump()["labels"] == ["sfw", "nsfw"]


def test_models_of_the_same_files_have_the_same_version(client: openai.OpenAI) -> None:
    versions = {model.id: model.model_dump()["version"] for model in client.models.list()}
    assert versions["tiny"] == versions["narrow"]
    assert len(set(versions.values())) == len(versions) - 1


@pytest.mark.parametrize(
    ("change", "kind", "param"),
    [
        ({"model": "nothing"}, openai.NotFoundError, "model"),
        ({"model": "rerank"}, openai.BadRequestError, "model"),
        ({"input": []}, openai.BadRequestError, "input"),
        ({"input": ""}, openai.BadRequestError, "input"),
        ({"input": ["text", ""]}, openai.BadRequestError, "input"),
        ({"input": [[]]}, openai.BadRequestError, "input"),
        ({"input": [999_999]}, openai.BadRequestError, "input"),
        ({"input": ["text"] * 2_049}, openai.BadRequestError, "input"),
        ({"dimensions": 0}, openai.BadRequestError, "dimensions"),
        ({"dimensions": 385}, openai.BadRequestError, "dimensions"),
        ({"encoding_format": "hex"}, openai.BadRequestError, None),
        ({"extra_headers": {"x-halny-profile": "fp64"}}, openai.BadRequestError, None),
        ({"extra_headers": {"x-halny-deadline-ms": "soon"}}, openai.BadRequestError, None),
        ({"extra_headers": {"x-halny-priority": "system"}}, openai.BadRequestError, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_request_raises_what_openai_raises(
    client: openai.OpenAI, change: dict[str, Any], kind: type[openai.APIStatusError], param: str | None
) -> None:
    with pytest.raises(kind) as raised:
        client.embeddings.create(**({"model": "minilm", "input": TEXT} | change))
    error = raised.value
    assert error.type == "invalid_request_error"
    assert error.message
    if param is not None:
        assert error.param == param


def test_a_text_over_the_limit_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match=r"\d+ tokens") as raised:
        client.embeddings.create(model="minilm", input="word " * 2_000)
    assert raised.value.status_code == 413


def test_an_overload_says_when_to_come_back(server: Server) -> None:
    async def ask_all() -> list[Any]:
        async with openai.AsyncOpenAI(**server.openai) as client:
            asked = (client.embeddings.create(model="narrow", input=text) for text in sentences(64))
            return await asyncio.gather(*asked, return_exceptions=True)

    refused = [answer for answer in asyncio.run(ask_all()) if isinstance(answer, Exception)]
    assert refused, "64 texts at once into a queue of 4"
    for error in refused:
        assert isinstance(error, openai.InternalServerError)
        assert (error.status_code, error.type) == (503, "server_error")
        assert int(error.response.headers["retry-after"]) >= 1
        assert int(error.response.headers["retry-after-ms"]) >= 1


@pytest.mark.parametrize(
    ("model", "headers", "status"),
    [("narrow", {}, 413), ("minilm", {"x-halny-deadline-ms": "1"}, 504)],
    ids=["queue", "deadline"],
)
def test_what_waiting_cannot_help_is_not_told_to_come_back(
    client: openai.OpenAI, model: str, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.embeddings.create(model=model, input=sentences(64), extra_headers=headers)
    assert raised.value.status_code == status
    assert "retry-after" not in raised.value.response.headers


def test_the_clients_own_retries_get_through_an_overload(server: Server) -> None:
    async def ask_all() -> list[Any]:
        async with openai.AsyncOpenAI(**(server.openai | {"max_retries": 50})) as client:
            texts = sentences(32)
            return await asyncio.gather(*(client.embeddings.create(model="narrow", input=text) for text in texts))

    assert all(len(answer.data) == 1 for answer in asyncio.run(ask_all()))


def test_a_request_id_comes_back_and_a_harmful_one_does_not(client: openai.OpenAI) -> None:
    def ask(name: str) -> str | None:
        headers = {"x-request-id": name}
        answer = client.embeddings.with_raw_response.create(model="tiny", input="sun", extra_headers=headers)
        return answer.headers["x-request-id"]

    assert ask("trace-42") == "trace-42"
    assert re.fullmatch(r"[0-9a-zA-Z_-]{8,64}", str(ask("a b\tc")))


def test_a_version_can_be_recomputed_from_the_files(server: Server, tiny: Tiny) -> None:
    """The version is the SHA-256 of a manifest: digest, size and path of each file, sorted by path."""
    lines = []
    for path in sorted(path for path in tiny.rerank.folder.iterdir() if path.suffix != ".safetensors"):
        content = path.read_bytes()
        lines.append(f"{hashlib.sha256(content).hexdigest()} {len(content)} {path.name}\n")
    assert server.version("rerank") == hashlib.sha256("".join(lines).encode()).hexdigest()
