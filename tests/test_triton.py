"""The unmodified `tritonclient`, over HTTP and gRPC, against the Open Inference Protocol surface."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import tiny_models
from conftest import Tiny
from pictures import encoded, landscape
from server import Server
from tiny_models import sentences

#: tritonclient's two modules have the same names in them.
Kind = Any

BOTH = pytest.mark.parametrize("kind", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])


def connect(kind: Kind, server: Server, **options: Any) -> Any:
    return kind.InferenceServerClient(f"127.0.0.1:{server.port}", **options)


@pytest.fixture
def client(kind: Kind, server: Server) -> Iterator[Any]:
    client = connect(kind, server)
    yield client
    client.close()


def tensor(kind: Kind, name: str, datatype: str, values: Any, **form: Any) -> Any:
    made = kind.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, **form)
    return made


def arithmetic_inputs(kind: Kind, rows: int, seed: int, **form: Any) -> tuple[list[Any], dict[str, Any]]:
    """Inputs for the tensor model, and the outputs it has to give."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, 3)).astype(np.float32)
    counts = random.integers(-(2**62), 2**62, (rows, 2))
    flags = random.random((rows, 2)) < 0.5
    levels = random.integers(0, 256, (rows, 4)).astype(np.uint8)
    inputs = [
        tensor(kind, "matrix", "FP32", matrix, **form),
        tensor(kind, "counts", "INT64", counts, **form),
        tensor(kind, "flags", "BOOL", flags, **form),
        tensor(kind, "bytes", "UINT8", levels, **form),
    ]
    expected = {
        "product": matrix @ tiny_models.WEIGHTS,
        "next": counts + 1,
        "inverted": ~flags,
        "wide": levels.astype(np.float64),
    }
    return inputs, expected


def assert_outputs(answer: Any, expected: dict[str, Any]) -> None:
    for name, values in expected.items():
        found = answer.as_numpy(name)
        assert found.dtype == values.dtype
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)


@BOTH
def test_health_and_metadata(kind: Kind, client: Any, server: Server) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("minilm")
    assert not client.is_model_ready("nothing")
    options = {"as_json": True} if kind is tritonclient.grpc else {}
    told = client.get_server_metadata(**options)
    assert (told["name"], told["version"] != "") == ("halny", True)
    assert "binary_tensor_data" in told["extensions"]
    model = client.get_model_metadata("arithmetic", **options)
    assert model["versions"] == [server.version("arithmetic")]
    inputs = {port["name"]: (port["datatype"], [int(dim) for dim in port["shape"]]) for port in model["inputs"]}
    assert inputs["matrix"] == ("FP32", [-1, 3])
    assert inputs["flags"] == ("BOOL", [-1, 2])
    assert {port["name"] for port in model["outputs"]} == {"product", "next", "inverted", "wide"}
    text = client.get_model_metadata("minilm", **options)
    assert [(port["name"], port["datatype"]) for port in text["inputs"]] == [("text", "BYTES")]
    assert [int(dim) for dim in text["outputs"][0]["shape"]] == [-1, 384]


@BOTH
@pytest.mark.parametrize("rows", [1, 7])
def test_tensors_of_every_type_come_back_right(kind: Kind, client: Any, rows: int) -> None:
    inputs, expected = arithmetic_inputs(kind, rows, seed=rows)
    answer = client.infer("arithmetic", inputs, request_id="r-1")
    assert_outputs(answer, expected)
    response = answer.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "r-1"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_json_and_binary_tensors_mean_the_same(server: Server, binary_in: bool, binary_out: bool) -> None:
    kind = tritonclient.http
    inputs, expected = arithmetic_inputs(kind, 3, seed=4, binary_data=binary_in)
    wanted = [kind.InferRequestedOutput(name, binary_data=binary_out) for name in expected]
    with connect(kind, server) as client:
        assert_outputs(client.infer("arithmetic", inputs, outputs=wanted), expected)


@BOTH
def test_only_the_outputs_asked_for_come_back(kind: Kind, client: Any) -> None:
    inputs, expected = arithmetic_inputs(kind, 2, seed=5)
    answer = client.infer("arithmetic", inputs, outputs=[kind.InferRequestedOutput("next")])
    np.testing.assert_array_equal(answer.as_numpy("next"), expected["next"])
    assert answer.as_numpy("product") is None


@BOTH
def test_the_served_version_answers_and_no_other(kind: Kind, client: Any, server: Server) -> None:
    inputs, expected = arithmetic_inputs(kind, 1, seed=6)
    version = server.version("arithmetic")
    assert_outputs(client.infer("arithmetic", inputs, model_version=version), expected)
    with pytest.raises(InferenceServerException, match="version"):
        client.infer("arithmetic", inputs, model_version="7")


def texts_tensor(kind: Kind, texts: list[str]) -> Any:
    return tensor(kind, "text", "BYTES", np.array([text.encode() for text in texts], object))


@BOTH
def test_texts_give_embeddings(kind: Kind, client: Any, tiny: Tiny) -> None:
    texts = sentences(20, seed=3)
    found = client.infer("tiny", [texts_tensor(kind, texts)]).as_numpy("embedding")
    np.testing.assert_allclose(found, np.stack([tiny.embed.embedding(text) for text in texts]), atol=1e-4)


@BOTH
def test_minilm_answers_with_vectors_of_length_one(kind: Kind, client: Any) -> None:
    found = client.infer("minilm", [texts_tensor(kind, ["a cat", "a kitten", "ünïcode ☂"])]).as_numpy("embedding")
    assert found.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-3)
    assert found[0] @ found[1] > found[0] @ found[2]


@BOTH
def test_texts_and_images_give_scores(kind: Kind, client: Any, tiny: Tiny) -> None:
    texts = sentences(5, seed=9)
    found = client.infer("topics", [texts_tensor(kind, texts)]).as_numpy("scores")
    np.testing.assert_allclose(found, np.stack([tiny.topics.class_scores(text) for text in texts]), atol=1e-4)
    file = encoded(landscape(64, 48), "PNG")
    scores = client.infer("nsfw", [tensor(kind, "image", "BYTES", np.array([file], object))]).as_numpy("scores")
    assert scores.shape == (1, 2)
    assert scores.sum() == pytest.approx(1.0, abs=1e-4)


@BOTH
def test_sixteen_threads_get_the_answers_that_one_gets_alone(kind: Kind, server: Server) -> None:
    cases = [arithmetic_inputs(kind, 1 + number % 5, seed=100 + number) for number in range(160)]

    def ask(part: int) -> None:
        with connect(kind, server) as client:
            for inputs, expected in cases[part::16]:
                assert_outputs(client.infer("arithmetic", inputs), expected)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(16)))


@BOTH
def test_sixteen_threads_of_texts_get_their_own_vectors(kind: Kind, server: Server, tiny: Tiny) -> None:
    texts = sentences(128, seed=12)

    def ask(part: int) -> list[tuple[str, Any]]:
        with connect(kind, server) as client:
            return [
                (text, client.infer("tiny", [texts_tensor(kind, [text])]).as_numpy("embedding")[0])
                for text in texts[part::16]
            ]

    with ThreadPoolExecutor(16) as threads:
        answers = [answer for part in threads.map(ask, range(16)) for answer in part]
    for text, found in answers:
        np.testing.assert_allclose(found, tiny.embed.embedding(text), atol=1e-4)


def wrong_requests(kind: Kind) -> dict[str, tuple[str, list[Any], str]]:
    """Model, inputs, and what the refusal has to speak of."""
    right, _ = arithmetic_inputs(kind, 2, seed=1)
    narrow = tensor(kind, "matrix", "FP32", np.zeros((2, 4), np.float32))
    typed = tensor(kind, "matrix", "FP64", np.zeros((2, 3)))
    rows = tensor(kind, "matrix", "FP32", np.zeros((3, 3), np.float32))
    strange = tensor(kind, "stranger", "FP32", np.zeros((2, 3), np.float32))
    return {
        "unknown model": ("nothing", right, "no model"),
        "missing input": ("arithmetic", right[1:], "matrix"),
        "unknown input": ("arithmetic", [*right, strange], "stranger"),
        "input twice": ("arithmetic", [*right, right[0]], "matrix"),
        "wrong shape": ("arithmetic", [narrow, *right[1:]], "matrix"),
        "wrong type": ("arithmetic", [typed, *right[1:]], "FP32"),
        "unequal rows": ("arithmetic", [rows, *right[1:]], "batch"),
        "another protocol's task": ("rerank", [texts_tensor(kind, ["a"])], "rerank"),
        "text too long": ("tiny", [texts_tensor(kind, ["sun " * 100])], "tokens"),
        "not UTF-8": ("tiny", [tensor(kind, "text", "BYTES", np.array([b"\xff\xfe"], object))], "UTF-8"),
    }


@BOTH
@pytest.mark.parametrize("case", list(wrong_requests(tritonclient.http)))
def test_a_wrong_request_is_refused_in_words(kind: Kind, client: Any, case: str) -> None:
    model, inputs, word = wrong_requests(kind)[case]
    with pytest.raises(InferenceServerException) as raised:
        client.infer(model, inputs)
    assert word in str(raised.value)
    assert raised.value.status() not in (None, "500", "StatusCode.INTERNAL", "StatusCode.UNKNOWN")


def test_a_header_length_that_lies_is_refused(server: Server) -> None:
    """What announces JSON that is not there is refused, and nothing is read past the body's end."""
    body = b'{"inputs": []}' + bytes(32)
    for length in ("0", "-1", "1000000", "x", str(2**64)):
        headers = {"Inference-Header-Content-Length": length}
        address = f"{server.url}/v2/models/arithmetic/infer"
        answer = requests.post(address, data=body, headers=headers, timeout=30)
        assert answer.status_code in (400, 501), length
        assert answer.json()["error"]


def test_the_operator_lists_loads_and_unloads_with_the_same_client(server: Server) -> None:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.admin_port}") as operator:
        index = {entry["name"]: entry for entry in operator.get_model_repository_index()}
        assert index["minilm"]["state"] == "READY"
        assert index["minilm"]["version"] == server.version("minilm")
        operator.unload_model("narrow")
        index = {entry["name"]: entry for entry in operator.get_model_repository_index()}
        assert index["narrow"]["state"] == "UNAVAILABLE"
        operator.load_model("narrow")
        index = {entry["name"]: entry for entry in operator.get_model_repository_index()}
        assert index["narrow"]["state"] == "READY"
