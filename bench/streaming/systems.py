"""The servers that are measured, with the same model, threads and KV cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from servers import Request, System

MODEL = "gemma"
#: Room for sixteen of the longest conversations, read and written.
CELLS = 16_384
RUNNING = 16

_PROJECT = """\
[[models]]
name = "{model}"
source = "{source}"
task = "generate"

[[models.profiles]]
name = "default"
device = "{device}"
threads = {threads}
[models.profiles.generate]
cells = {cells}
max_running = {running}
"""


@dataclass(frozen=True)
class Setting:
    """What both servers are given."""

    binary: Path
    peer: Path
    model: Path
    corpus: Path
    scratch: Path
    threads: int
    device: str


def halny(setting: Setting) -> System:
    """Halny with one model and nothing else."""
    folder = setting.scratch / "halny"

    def command(port: int) -> list[str]:
        folder.mkdir(exist_ok=True)
        server = f'[server]\naddress = "127.0.0.1:{port}"\nadmin_address = "127.0.0.1:0"\n\n'
        model = _PROJECT.format(
            model=MODEL,
            source=setting.model.parent,
            device=setting.device,
            threads=setting.threads,
            cells=CELLS,
            running=RUNNING,
        )
        (folder / "halny.toml").write_text(server + model, encoding="utf-8")
        return [str(setting.binary), "serve", "--project", str(folder)]

    return System("halny", command, Request("/v1/completions", {}, lambda _: []), "/v2/health/ready")


def llama_server(setting: Setting) -> System:
    """llama.cpp's own server: the same release, as many slots as Halny runs requests."""

    def command(port: int) -> list[str]:
        layers = "0" if setting.device == "cpu" else "999"
        return [
            str(setting.peer),
            *("--model", str(setting.model), "--alias", MODEL),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--threads", str(setting.threads), "--threads-batch", str(setting.threads)),
            *("--ctx-size", str(CELLS), "--parallel", str(RUNNING), "--kv-unified", "--swa-full"),
            *("--cache-type-k", "f16", "--cache-type-v", "f16", "--n-gpu-layers", layers),
            *("--no-webui", "--log-verbosity", "0"),
        ]

    return System("llama-server", command, Request("/v1/completions", {}, lambda _: []), "/health")
