"""What `embed.py` measures: Halny and the peers, each with the same graph, batch limit, wait and threads."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import environments
from peers.children import free_port
from servers import Request, System

BENCH = Path(__file__).resolve().parent

#: The same for all.
BATCH = 32
WAIT_MS = 5


@dataclass(frozen=True)
class Layout:
    """How the cores are shared out: workers (processes or sessions) of so many threads each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.workers}x{self.threads}"


@dataclass(frozen=True)
class Setting:
    """What all systems of one run have in common."""

    binary: Path
    #: The model's folder, with graphs, tokenizer and weights.
    model: Path
    precision: str
    #: For project files and logs; gone after the run.
    scratch: Path
    cache: Path

    @property
    def graph(self) -> Path:
        """The ONNX graph of this precision."""
        return self.model / f"model.{self.precision}.onnx"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.model / "tokenizer.json"


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def layouts() -> list[Layout]:
    """All cores as single-threaded workers, and as one worker with all threads."""
    found = [Layout(cores(), 1), Layout(1, cores())]
    return found if cores() > 1 else found[:1]


_OPENAI = Request(
    "/v1/embeddings",
    {"model": "minilm", "input": "{text}"},
    lambda answer: list(answer["data"][0]["embedding"]),
)
_PLAIN_TEMPLATE = {"input": "{text}"}


def halny(setting: Setting, packing: str) -> System:
    """Halny with a project file of its own."""
    project = setting.scratch / f"halny-{packing}.toml"

    def command(port: int) -> list[str]:
        project.write_text(_project(setting, packing, port), encoding="utf-8")
        return [str(setting.binary), "serve", "--project", str(project)]

    name = "halny" if packing == "length" else f"halny-{packing}"
    return System(name, command, _OPENAI, "/v2/models/minilm/ready", layout=str(Layout(cores(), 1)))


def _project(setting: Setting, packing: str, port: int) -> str:
    # JSON strings are TOML strings.
    return f"""\
[server]
address = "127.0.0.1:{port}"
admin_address = "127.0.0.1:{free_port()}"

[[models]]
name = "minilm"
source = {json.dumps(str(setting.model))}
task = "embed"

[[models.profiles]]
device = "cpu"
precision = "{setting.precision}"
instances = {cores()}
threads = 1
max_batch_size = {BATCH}
max_batch_delay_ms = {WAIT_MS}
packing = "{packing}"
"""


def litserve(setting: Setting, layout: Layout) -> System:
    """LitServe."""
    request = Request("/embed", _PLAIN_TEMPLATE, lambda answer: list(answer["embedding"]))
    command = _python_server(sys.executable, "litserve_server.py", setting, layout)
    return System("litserve", command, request, "/health", _python_environment(layout), str(layout))


def mosec(setting: Setting, layout: Layout) -> System:
    """mosec."""
    environment = {
        **_python_environment(layout),
        "BENCH_GRAPH": str(setting.graph),
        "BENCH_TOKENIZER": str(setting.tokenizer),
        "BENCH_WORKERS": str(layout.workers),
        "BENCH_THREADS": str(layout.threads),
        "BENCH_BATCH": str(BATCH),
        "BENCH_WAIT_MS": str(WAIT_MS),
        "MOSEC_ADDRESS": "127.0.0.1",
        "MOSEC_LOG_LEVEL": "warning",
        "MOSEC_TIMEOUT": "30000",
    }
    request = Request("/inference", _PLAIN_TEMPLATE, lambda answer: list(answer["embedding"]))
    command = [sys.executable, str(BENCH / "peers" / "mosec_server.py")]
    return System("mosec", lambda _: command, request, "/", environment, str(layout), "MOSEC_PORT")


def infinity(setting: Setting, layout: Layout) -> System:
    """infinity with PyTorch over the same weights: its ONNX engine wants a graph of another shape."""
    if setting.precision != "fp32":
        raise environments.PeerUnavailable("it runs the safetensors weights in fp32 only")
    python = environments.ensure(environments.INFINITY, setting.cache)
    options = {
        "--model-id": str(setting.model),
        "--served-model-name": "minilm",
        "--engine": "torch",
        "--device": "cpu",
        "--dtype": "float32",
        "--batch-size": str(BATCH),
        "--url-prefix": "/v1",
        "--host": "127.0.0.1",
        "--log-level": "warning",
    }
    flags = [part for pair in options.items() for part in pair]
    command = [str(python.with_name("infinity_emb")), "v2", *flags, "--no-bettertransformer", "--no-model-warmup"]
    environment = {
        **_python_environment(layout),
        "OMP_NUM_THREADS": str(layout.threads),
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return System(
        "infinity", lambda port: [*command, "--port", str(port)], _OPENAI, "/health", environment, str(layout)
    )


def triton(setting: Setting, layout: Layout) -> System:
    """Triton through PyTriton."""
    python = environments.ensure(environments.TRITON, setting.cache)
    start = _python_server(str(python), "triton_server.py", setting, layout)

    def command(port: int) -> list[str]:
        return [*start(port), "--grpc-port", str(free_port()), "--metrics-port", str(free_port())]

    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["{text}"]}
    request = Request(
        "/v2/models/minilm/infer", {"inputs": [tensor]}, lambda answer: list(answer["outputs"][0]["data"])
    )
    # The Python inside Triton may be an older 3.x.y than the one whose standard library it finds, and
    # then PyTriton's store of shared memory does not start. Without it tensors travel as base64,
    # which is little for one text and one vector.
    environment = {**_python_environment(layout), "PYTRITON_NO_TENSORSTORE": "1", "PYTRITON_HOME": str(setting.scratch)}
    return System("triton", command, request, "/v2/models/minilm/ready", environment, str(layout))


#: By the names of `--peers` and `--only`.
PEERS: dict[str, Callable[[Setting, Layout], System]] = {
    "litserve": litserve,
    "mosec": mosec,
    "infinity": infinity,
    "triton": triton,
}


def peer_layouts(name: str) -> list[Layout]:
    """The layouts worth trying: infinity is one process with a pool of threads and has no workers."""
    return layouts() if name != "infinity" else [Layout(1, cores())]


def _python_server(python: str, script: str, setting: Setting, layout: Layout) -> Callable[[int], list[str]]:
    options: dict[str, Any] = {
        "--graph": setting.graph,
        "--tokenizer": setting.tokenizer,
        "--workers": layout.workers,
        "--threads": layout.threads,
        "--batch": BATCH,
        "--wait-ms": WAIT_MS,
    }
    flags = [str(part) for pair in options.items() for part in pair]
    return lambda port: [python, str(BENCH / "peers" / script), "--port", str(port), *flags]


def _python_environment(layout: Layout) -> dict[str, str]:
    return {
        "PYTHONPATH": str(BENCH),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAYON_NUM_THREADS": str(layout.threads),
        "TOKENIZERS_PARALLELISM": "true" if layout.threads > 1 else "false",
    }
