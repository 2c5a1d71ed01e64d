"""Model files that lie: refused when they are loaded, with the server alive and other models answering."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import requests
from onnx import TensorProto, helper

import projects
from conftest import Tiny
from server import Server
from tiny_models import TinyText

_TOOLS = Path(__file__).resolve().parents[1] / "tools"

GRAPH = "model.fp32.onnx"


def good_graph() -> onnx.ModelProto:
    """`y = x + w`, with a weight whose description the cases below change."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], np.ones(3, np.float32).tobytes(), raw=True)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "sum", ports[:1], ports[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write(folder: Path, model: onnx.ModelProto) -> None:
    (folder / GRAPH).write_bytes(model.SerializeToString())


def external(folder: Path, location: str, **more: str) -> None:
    """The weight's data is said to lie in another file."""
    model = good_graph()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": location, "offset": "0", "length": "12"} | more).items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    write(folder, model)


def with_dims(folder: Path, *dims: int) -> None:
    model = good_graph()
    model.graph.initializer[0].dims[:] = dims
    write(folder, model)


def beside(folder: Path, data: bytes, **more: str) -> None:
    (folder / "weights.data").write_bytes(data)
    external(folder, "weights.data", **more)


def outside(folder: Path) -> Path:
    """A file that the server could read and no model may."""
    secret = folder.parent / "secret.data"
    secret.write_bytes(bytes(12))
    return secret


class Harmful:
    """Unpickling this would write a file."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch taken-over",)


def custom_operator(folder: Path) -> None:
    model = good_graph()
    model.graph.node[0].op_type = "NoSuchOperator"
    write(folder, model)


def external_by_link(folder: Path) -> None:
    (folder / "weights.data").symlink_to(outside(folder))
    external(folder, "weights.data")


def empty_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    return buffer.getvalue()


def empty_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w"):
        pass
    return buffer.getvalue()


def names_in_two_cases(folder: Path) -> None:
    write(folder, good_graph())
    (folder / GRAPH.upper()).write_bytes(b"other")


def of_raw(data: bytes) -> Callable[[Path], int]:
    return lambda folder: (folder / GRAPH).write_bytes(data)


#: Each makes a folder that must not be served.
CASES: dict[str, Callable[[Path], Any]] = {
    "no files": lambda folder: None,
    "empty": of_raw(b""),
    "text": of_raw(b"import os; os.system('id')"),
    "random": of_raw(np.random.default_rng(1).bytes(4_096)),
    "cut off": lambda folder: (folder / GRAPH).write_bytes(good_graph().SerializeToString()[:-20]),
    "pickle": of_raw(pickle.dumps(Harmful())),
    "pickle 0": of_raw(pickle.dumps(Harmful(), protocol=0)),
    "zip": of_raw(empty_zip()),
    "tar": of_raw(empty_tar()),
    "only pytorch": lambda folder: (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful())),
    "directory": lambda folder: (folder / GRAPH).mkdir(),
    "pipe": lambda folder: os.mkfifo(folder / GRAPH),
    "link out": lambda folder: (folder / GRAPH).symlink_to("/etc/passwd"),
    "link to device": lambda folder: (folder / GRAPH).symlink_to("/dev/zero"),
    "link to itself": lambda folder: (folder / GRAPH).symlink_to(GRAPH),
    "names that differ in case": names_in_two_cases,
    "dims that wrap": lambda folder: with_dims(folder, 2**62, 8),
    "dims that wrap to the right size": lambda folder: with_dims(folder, 2**62 + 1, 4, 3),
    "negative dims": lambda folder: with_dims(folder, -1, 3),
    "dims that disagree": lambda folder: with_dims(folder, 300_000_000),
    "external above": lambda folder: external(folder, f"../{outside(folder).name}"),
    "external absolute": lambda folder: external(folder, str(outside(folder))),
    "external in disguise": lambda folder: external(folder, f"a/../../{outside(folder).name}"),
    "external by link": external_by_link,
    "external missing": lambda folder: external(folder, "weights.data"),
    "external with NUL": lambda folder: external(folder, "weights.data\0.onnx"),
    "external past the end": lambda folder: beside(folder, bytes(12), offset="8"),
    "external negative": lambda folder: beside(folder, bytes(12), offset="-4"),
    "external that wraps": lambda folder: beside(folder, bytes(12), offset=str(2**64 - 6)),
    "external too short": lambda folder: beside(folder, bytes(12), length="4"),
    "external pickle": lambda folder: beside(folder, pickle.dumps(Harmful())),
    "unknown operator": custom_operator,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for number, (name, make) in enumerate(CASES.items()):
        made[name] = tmp_path_factory.mktemp(f"case{number}") / "model"
        made[name].mkdir()
        make(made[name])
    return made


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, folders: dict[str, Path]) -> Iterator[Server]:
    """A server whose project names every bad folder, none of them loaded at start."""
    bad = [
        projects.model(f"case{number}", folder, "tensor", preload=False)
        for number, folder in enumerate(folders.values())
    ]
    good = projects.model("tiny", tiny.embed.folder, "embed")
    with projects.start(tmp_path_factory.mktemp("files"), [good, *bad]) as server:
        yield server
        server.end()


def embed(target: Server) -> int:
    body = {"model": "tiny", "input": "sun"}
    return requests.post(f"{target.url}/v1/embeddings", json=body, timeout=30).status_code


@pytest.mark.parametrize("case", CASES)
def test_a_bad_folder_is_refused_with_a_reason(target: Server, case: str) -> None:
    name = f"case{list(CASES).index(case)}"
    before_mib = target.resident_mib()
    answer = target.load(name)
    assert answer.status_code == 400, answer.text
    assert len(answer.json()["error"]) > 20
    assert target.alive()
    assert embed(target) == 200
    assert target.resident_mib() < before_mib + 64
    unavailable = requests.post(f"{target.url}/v2/models/{name}/infer", json={"inputs": []}, timeout=30)
    assert unavailable.status_code in (400, 503)
    # Clients learn that it is not there, not why: the reason may name files of this host.
    assert "passwd" not in unavailable.text
    assert not Path("taken-over").exists()


def test_a_good_graph_with_its_data_beside_it_is_served(tmp_path: Path) -> None:
    """The cases above fail for what they change, not for what they have in common."""
    (tmp_path / "plain").mkdir()
    write(tmp_path / "plain", good_graph())
    (tmp_path / "beside").mkdir()
    beside(tmp_path / "beside", np.full(3, 2.0, np.float32).tobytes())
    models = [projects.model(name, tmp_path / name, "tensor") for name in ("plain", "beside")]
    with projects.start(tmp_path / "project", models) as server:
        body: Any = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
        for name, expected in {"plain": [2, 3, 4], "beside": [3, 4, 5]}.items():
            answer = requests.post(f"{server.url}/v2/models/{name}/infer", json=body, timeout=30)
            assert answer.json()["outputs"][0]["data"] == expected


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer.json", json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": -1}}})),
        ("config.json", json.dumps({"vocab_size": -1})),
        ("config.json", json.dumps({"id2label": {"7": "x"}})),
    ],
    ids=["broken", "deep", "negative id", "negative size", "gap"],
)
def test_a_bad_companion_file_is_refused_by_name(tmp_path: Path, file: str, text: str) -> None:
    TinyText(tmp_path / "model", head="classify", labels=("a", "b"))
    (tmp_path / "model" / file).write_text(text)
    entry = projects.model("topics", tmp_path / "model", "classify-text", preload=False)
    with projects.start(tmp_path / "project", [entry]) as server:
        answer = server.load("topics")
        assert answer.status_code == 400
        assert file in answer.json()["error"]
        assert server.alive()


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(dtype: str = "F32", shape: list[int] | None = None, offsets: tuple[int, int] = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [2] if shape is None else shape, "data_offsets": list(offsets)}


SAFETENSORS = {
    "header over 100 MB": safetensors(b"{}", length=200_000_000),
    "header past the end": safetensors(b"{}", length=50),
    "header of 2^64": safetensors(b"{}", length=2**64 - 1),
    "no JSON": safetensors(b"{broken"),
    "deep": safetensors(b"[" * 100_000),
    "overlap": safetensors(json.dumps({"a": tensor(), "b": tensor(offsets=(4, 12))}).encode(), bytes(12)),
    "gap": safetensors(json.dumps({"a": tensor(), "b": tensor(offsets=(16, 24))}).encode(), bytes(24)),
    "backwards": safetensors(json.dumps({"a": tensor(offsets=(8, 0))}).encode(), bytes(8)),
    "past the end": safetensors(json.dumps({"a": tensor(offsets=(0, 800))}).encode(), bytes(8)),
    "shape that wraps": safetensors(json.dumps({"a": tensor(shape=[2**62, 2**62])}).encode(), bytes(8)),
    "shape that disagrees": safetensors(json.dumps({"a": tensor(shape=[3])}).encode(), bytes(8)),
    "negative shape": safetensors(json.dumps({"a": tensor(shape=[-2])}).encode(), bytes(8)),
    "pickle": pickle.dumps(Harmful()),
    "empty": b"",
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors_that_lie_are_refused_by_the_builder(tmp_path: Path, tiny: Tiny, case: str) -> None:
    """Weights reach the server as graphs; the tool that makes graphs of them is where they are read."""
    (tmp_path / "config.json").write_bytes((tiny.embed.folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(SAFETENSORS[case])
    command = [sys.executable, "-m", "halny_graphs", "build", str(tmp_path), "--output", str(tmp_path / "out.onnx")]
    done = subprocess.run(
        command, env=dict(os.environ, PYTHONPATH=str(_TOOLS)), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.onnx").exists()
