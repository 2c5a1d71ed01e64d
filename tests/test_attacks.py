"""Names, parameters, images and operator's calls that have broken systems like this one. What must come back
is a clear refusal, with the process alive, memory flat, and the next request answered."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

import pictures
import projects
import wire
from conftest import Tiny
from refusals import assert_refused
from server import Server, free_ports, serve_in_vain
from tiny_models import sentences

pytestmark = pytest.mark.usefixtures("lives")


# Error texts


def test_no_error_of_any_kind_shows_the_inside(target: Server) -> None:
    probes: list[tuple[str, str, Any]] = [
        ("GET", "/nothing", None),
        ("GET", "/etc/passwd", None),
        ("GET", "/v1/embeddings", None),
        ("PUT", "/v1/models", None),
        ("GET", "/v1/models/nothing", None),
        ("POST", "/v1/embeddings", {"model": "arithmetic", "input": "x"}),
        ("POST", "/v1/embeddings", {"model": "tiny", "input": [4_000_000_000]}),
        ("POST", "/halny/v1/classify", {"model": "brightness", "input": "bm8gaW1hZ2U="}),
        ("POST", "/halny/v1/classify", {"model": "brightness", "input": "http://169.254.169.254/latest"}),
        ("POST", "/halny/v1/classify", {"model": "brightness", "input": "file:///etc/passwd"}),
        ("POST", "/v2/models/arithmetic/infer", {"inputs": []}),
        ("POST", "/v2/models/arithmetic/infer", {"inputs": [_region("matrix")]}),
        ("GET", "/v2/models/arithmetic/versions/../../x", None),
    ]
    for method, path, body in probes:
        assert_refused(requests.request(method, f"{target.url}{path}", json=body, timeout=30), 400, 404, 405, 413, 501)


def _region(name: str) -> dict[str, Any]:
    """An input that is said to lie in shared memory: the first step of CVE-2025-23319."""
    parameters = {"shared_memory_region": "triton_python_backend_shm_region_1", "shared_memory_byte_size": 12}
    return {"name": name, "shape": [1, 3], "datatype": "FP32", "parameters": parameters}


def test_what_was_sent_comes_back_shortened(target: Server) -> None:
    long = "x" * 100_000
    answers = [
        requests.post(f"{target.url}/v1/embeddings", json={"model": long, "input": "a"}, timeout=30),
        requests.post(
            f"{target.url}/v1/embeddings", json={"model": "tiny", "input": "a", "encoding_format": long}, timeout=30
        ),
        requests.post(
            f"{target.url}/v1/embeddings",
            json={"model": "tiny", "input": "a"},
            headers={"x-halny-profile": "y" * 10_000},
            timeout=30,
        ),
    ]
    for answer in answers:
        assert_refused(answer, 400, 404, 431)


# Admin endpoints


@pytest.mark.parametrize(
    "path",
    [
        "/halny/v1/reload",
        "/v2/repository/index",
        "/v2/repository/models/tiny/load",
        "/v2/repository/models/tiny/unload",
        "/v2/repository/../repository/index",
        "//v2/repository/index",
        "/v2/repository%2findex",
        "/V2/repository/index",
    ],
)
def test_the_operators_paths_are_not_on_the_clients_port(target: Server, path: str) -> None:
    for method in ("POST", "GET"):
        reply = wire.exchange(target.port, wire.head(path, "Content-Length: 0", method=method))
        assert_refused(reply, 404, 405)


def test_the_operators_calls_are_not_on_the_clients_grpc(target: Server) -> None:
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{target.port}") as client:
        for call in (client.get_model_repository_index, lambda: client.unload_model("tiny")):
            with pytest.raises(InferenceServerException):
                call()


@pytest.mark.parametrize(
    "header",
    ["Host: example.com", "Host: 169.254.169.254", "Host: localhost.example.com", "Host: 127.0.0.1.example.com:80"],
)
def test_the_operators_port_answers_to_loopback_names_only(target: Server, header: str) -> None:
    request = f"POST /v2/repository/index HTTP/1.1\r\n{header}\r\nContent-Length: 0\r\n\r\n".encode()
    assert_refused(wire.exchange(target.admin_port, request), 403)


@pytest.mark.parametrize("origin", ["http://example.com", "https://localhost.example.com", "null", ""])
def test_a_page_of_another_origin_cannot_use_the_operators_port(target: Server, origin: str) -> None:
    headers = {"Origin": origin}
    answer = requests.post(f"{target.admin_url}/halny/v1/reload", headers=headers, timeout=30)
    assert_refused(answer, 403)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "example.com"])
def test_an_operators_port_that_others_reach_is_refused_at_start(tmp_path: Path, tiny: Tiny, host: str) -> None:
    path = projects.write(tmp_path, [projects.model("tiny", tiny.embed.folder, "embed")])
    path.write_text(
        re.sub(r'admin_address = "[^"]+"', f'admin_address = "{host}:{free_ports(1)[0]}"', path.read_text())
    )
    done = serve_in_vain(path)
    assert done.returncode != 0
    assert "loopback" in done.stderr


def test_metrics_can_be_kept_off_the_clients_port(tmp_path: Path, tiny: Tiny) -> None:
    models = [projects.model("tiny", tiny.embed.folder, "embed")]
    with projects.start(tmp_path, models, metrics_on_data_port=False) as server:
        assert requests.get(f"{server.url}/metrics", timeout=30).status_code == 404
        assert requests.get(f"{server.admin_url}/metrics", timeout=30).status_code == 200


# Paths and names


NAMES = [
    "../tiny",
    "../../etc/passwd",
    "/etc/passwd",
    "tiny/../tiny",
    "tiny\0",
    "..",
    ".",
    "",
    "TINY",
    "tiny ",
    "tiny%00",
    "%2e%2e%2ftiny",
    "x" * 10_000,
    "sha256:" + "0" * 64,
    "tiny\r\nX-Injected: 1",
    "\uff54\uff49\uff4e\uff59",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:24])
def test_a_name_that_is_no_models_is_unknown_everywhere(target: Server, name: str) -> None:
    bodies: dict[str, Any] = {
        "/v1/embeddings": {"model": name, "input": "a"},
        "/v1/rerank": {"model": name, "query": "a", "documents": ["b"]},
        "/halny/v1/classify": {"model": name, "input": "a"},
    }
    for path, body in bodies.items():
        assert_refused(requests.post(f"{target.url}{path}", json=body, timeout=30), 404, sent=name)
    quoted = quote(name, safe="")
    for path in (f"/v1/models/{quoted}", f"/v2/models/{quoted}", f"/v2/models/{quoted}/versions/1"):
        if name not in ("", ".", ".."):
            assert_refused(requests.get(f"{target.url}{path}", timeout=30), 400, 404, sent=name)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:24])
def test_the_operator_loads_nothing_that_is_not_in_the_project(target: Server, name: str) -> None:
    quoted = quote(name, safe="")
    if name not in ("", ".", ".."):
        answer = requests.post(f"{target.admin_url}/v2/repository/models/{quoted}/load", timeout=30)
        assert_refused(answer, 400, 404, sent=name)


def test_a_loaded_model_takes_no_files_from_the_request(target: Server) -> None:
    """Triton's `load` can carry files and a configuration; here the project file says what a model is."""
    for name in ("config", "file:../../x", "file:1/model.onnx"):
        body = {"parameters": {name: base64.b64encode(b"x").decode()}}
        answer = requests.post(f"{target.admin_url}/v2/repository/models/tiny/load", json=body, timeout=30)
        assert_refused(answer, 501)


def test_models_cannot_make_series_of_metrics(target: Server) -> None:
    def count() -> int:
        return len(requests.get(f"{target.admin_url}/metrics", timeout=30).text.splitlines())

    # Each route has its series from its first request on, that of the metrics too.
    count()
    requests.post(f"{target.url}/v1/embeddings", json={"model": "none", "input": "a"}, timeout=30)
    requests.get(f"{target.url}/none", timeout=30)
    requests.get(f"{target.url}/v2/models/none", timeout=30)
    before = count()
    with requests.Session() as session:
        for number in range(200):
            session.post(f"{target.url}/v1/embeddings", json={"model": f"m{number}", "input": "a"}, timeout=30)
            session.get(f"{target.url}/path{number}", timeout=30)
            session.get(f"{target.url}/v2/models/m{number}", timeout=30)
    assert count() <= before + 5


# Parameters


@pytest.mark.parametrize(
    "change",
    [
        {"dimensions": -1},
        {"dimensions": 0},
        {"dimensions": 4_294_967_296},
        {"dimensions": 1.5},
        {"dimensions": "many"},
        {"input": [-1]},
        {"input": [1.5]},
        {"input": [[[1]]]},
        {"input": {"text": "a"}},
        {"input": 5},
        {"input": None},
        {"input": [["a"]]},
        {"input": ["a", 1]},
        {"input": [2**63]},
        {"model": 5},
        {"model": None},
        {"encoding_format": 7},
    ],
    ids=str,
)
def test_a_parameter_out_of_range_is_refused(target: Server, change: dict[str, Any]) -> None:
    body = {"model": "tiny", "input": "sun"} | change
    assert_refused(requests.post(f"{target.url}/v1/embeddings", json=body, timeout=30), 400)


@pytest.mark.parametrize("value", ["-1", "0", "1e3", "NaN", "99999999999999999999", "", "-"])
def test_a_deadline_that_is_none_is_refused(target: Server, value: str) -> None:
    headers = {"x-halny-deadline-ms": value}
    answer = requests.post(
        f"{target.url}/v1/embeddings", json={"model": "tiny", "input": "sun"}, headers=headers, timeout=30
    )
    assert_refused(answer, 400)


def test_a_million_inputs_are_refused_whole(target: Server) -> None:
    def refusal(path: str, body: dict[str, Any], status: int = 400) -> str:
        return assert_refused(requests.post(f"{target.url}{path}", json=body, timeout=60), status)

    assert "2048" in refusal("/v1/embeddings", {"model": "tiny", "input": ["a"] * 3_000})
    assert "100000" in refusal("/v1/embeddings", {"model": "tiny", "input": ["a"] * 500_000})
    assert "100000" in refusal("/v1/embeddings", {"model": "tiny", "input": [[1]] * 500_000})
    assert "100000" in refusal("/v1/rerank", {"model": "rerank", "query": "a", "documents": ["a"] * 500_000})
    assert "100000" in refusal("/halny/v1/classify", {"model": "brightness", "input": ["a"] * 500_000})
    body = {"model": "tiny", "input": [5] * 1_000_000}
    refusal("/v1/embeddings", body, 413)


def test_grpc_is_asked_by_post_only(target: Server) -> None:
    """What may always ask, under overload too, asks by GET."""
    for method in ("GET", "HEAD", "PUT"):
        answer = requests.request(method, f"{target.url}/inference.GRPCInferenceService/ModelInfer", timeout=30)
        assert answer.status_code == 405
    assert requests.head(f"{target.url}/health", timeout=30).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/models/%ff", "/v2/models/%ff", "/v2/models/%ff/ready", "/v2/models/arithmetic/versions/%ff/config"]
)
def test_a_path_that_is_not_utf8_is_refused_in_the_protocols_shape(target: Server, path: str) -> None:
    assert "UTF-8" in assert_refused(requests.get(f"{target.url}{path}", timeout=30), 400)


def test_a_deadline_that_no_server_could_meet_is_not_told_to_come_back(target: Server) -> None:
    body = {"model": "tiny", "input": ["sun " * 40] * 500}
    headers = {"x-halny-deadline-ms": "1"}
    answer = requests.post(f"{target.url}/v1/embeddings", json=body, headers=headers, timeout=30)
    assert_refused(answer, 504)
    assert "retry-after" not in answer.headers


TENSOR = {"name": "matrix", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
OTHERS = [
    {"name": "counts", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]},
    {"name": "flags", "shape": [1, 2], "datatype": "BOOL", "data": [True, False]},
    {"name": "bytes", "shape": [1, 4], "datatype": "UINT8", "data": [1, 2, 3, 4]},
]


def infer(target: Server, **change: Any) -> requests.Response:
    body = {"inputs": [TENSOR | change, *OTHERS]}
    return requests.post(f"{target.url}/v2/models/arithmetic/infer", json=body, timeout=60)


def test_the_request_that_the_next_test_breaks_is_right(target: Server) -> None:
    assert infer(target).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1, 3]},
        {"shape": [0, 3], "data": []},
        {"shape": [2**63, 3]},
        {"shape": [2**62, 2**62]},
        {"shape": [1] * 10_000},
        {"shape": []},
        {"shape": [3]},
        {"shape": [1.5, 3]},
        {"shape": [2, 3]},
        {"shape": "1,3"},
        {"data": [1, 2]},
        {"data": [1, 2, 3, 4]},
        {"data": [[1, 2], [3]]},
        {"data": ["a", "b", "c"]},
        {"data": [True, False, True]},
        {"data": None},
        {"data": [None, 1, 2]},
        {"datatype": "FP64"},
        {"datatype": "BYTES"},
        {"datatype": "OBJECT"},
        {"name": "m" * 100_000},
        {"parameters": {"binary_data_size": 2**40}},
        {"parameters": {"binary_data_size": -12}},
        {"parameters": {"shared_memory_region": "r"}},
    ],
    ids=lambda change: str(change)[:50],
)
def test_a_tensor_that_lies_is_refused(target: Server, change: dict[str, Any]) -> None:
    assert_refused(infer(target, **change), 400, 413, 501)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"0x10", b"01"])
def test_numbers_that_json_does_not_have_are_refused(target: Server, number: bytes) -> None:
    body = json.dumps({"inputs": [TENSOR, *OTHERS]}).encode().replace(b"[1, 2, 3]", b"[" + number + b", 2, 3]")
    assert number in body
    answer = requests.post(f"{target.url}/v2/models/arithmetic/infer", data=body, timeout=30)
    assert_refused(answer, 400)


def classify(target: Server, file: bytes) -> requests.Response:
    address = f"{target.url}/halny/v1/classify?model=brightness"
    return requests.post(address, data=file, headers={"content-type": "image/png"}, timeout=60)


@pytest.mark.parametrize("size", [(65_000, 65_000), (65_535, 1), (2**31 - 1, 2**31 - 1), (16_000, 16_000)])
def test_a_huge_image_in_a_kilobyte_is_refused_before_it_is_unpacked(target: Server, size: tuple[int, int]) -> None:
    file = pictures.empty_png(*size)
    assert len(file) < 1_024
    assert_refused(classify(target, file), 413, 400)


def test_images_cut_off_or_changed_anywhere_never_end_the_process(target: Server) -> None:
    picture = pictures.landscape(48, 32)
    with requests.Session() as session:
        for kind in ("PNG", "JPEG", "WEBP"):
            file = pictures.encoded(picture, kind)
            cuts = [file[: len(file) * part // 23] for part in range(1, 23)]
            flips = [
                file[:at] + bytes([file[at] ^ 0xFF]) + file[at + 1 :] for at in range(0, len(file), len(file) // 40)
            ]
            for damaged in [*cuts, *flips]:
                answer = session.post(
                    f"{target.url}/halny/v1/classify?model=brightness",
                    data=damaged,
                    headers={"content-type": "image/png"},
                    timeout=60,
                )
                if answer.status_code != 200:
                    assert_refused(answer, 400, 413, 501)


@pytest.mark.parametrize(
    "file",
    [b"", b"GIF89a" + bytes(60), b"%PDF-1.7", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x80\x04K\x01."],
    ids=["empty", "gif", "pdf", "svg", "pickle"],
)
def test_what_is_no_image_is_refused(target: Server, file: bytes) -> None:
    assert_refused(classify(target, file), 400)


def test_many_heavy_requests_at_once_leave_memory_where_it_was(target: Server) -> None:
    """Requests near every limit, over and over: what they took is given back."""
    image = pictures.encoded(pictures.landscape(2_000, 1_500), "JPEG")
    texts = {"model": "tiny", "input": sentences(500)}
    for _ in range(3):
        assert classify(target, image).status_code == 200
        assert requests.post(f"{target.url}/v1/embeddings", json=texts, timeout=60).status_code == 200
    before_mib = target.resident_mib()
    for _ in range(8):
        classify(target, image)
        requests.post(f"{target.url}/v1/embeddings", json=texts, timeout=60)
    assert target.resident_mib() < before_mib + 32
