"""Project files for tests: written from plain values, so that a test shows only what it is about."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from server import Server, free_ports

Table = dict[str, Any]


def model(name: str, source: Path | str, task: str, *profiles: Table, **more: Any) -> Table:
    """A `[[models]]` entry. Without profiles: one small one on the CPU."""
    small = {"name": "default", "device": "cpu", "instances": 1, "threads": 1, "max_batch_delay_ms": 2}
    return {"name": name, "source": str(source), "task": task, **more, "profiles": list(profiles) or [small]}


def profile(name: str = "default", **settings: Any) -> Table:
    """A profile on the CPU with one instance of one thread unless told otherwise."""
    return {"name": name, "device": "cpu", "instances": 1, "threads": 1, "max_batch_delay_ms": 2} | settings


def writing(name: str = "default", threads: int = 1, **generate: Any) -> Table:
    """A profile of a language model on the CPU."""
    table: Table = {"name": name, "device": "cpu", "threads": threads}
    return table | ({"generate": generate} if generate else {})


def write(
    folder: Path,
    models: list[Table],
    *,
    ports: tuple[int, int] | None = None,
    vectors: Table | None = None,
    more: str = "",
    **server: Any,
) -> Path:
    """Writes `halny.toml` with free ports and a cache folder beside it, and `more` behind; gives its path."""
    port, admin_port = ports or tuple(free_ports(2))
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "server": {"address": f"127.0.0.1:{port}", "admin_address": f"127.0.0.1:{admin_port}"} | server,
        "cache": {"folder": str(folder / "cache")},
    }
    if vectors:
        tables["vectors"] = vectors
    path = folder / "halny.toml"
    part = folder / "halny.toml.new"
    part.write_text(render(tables, models) + more, encoding="utf-8")
    part.replace(path)
    return path


def start(folder: Path, models: list[Table], **server: Any) -> Server:
    """Writes a project and starts a server for it; use it in a `with` statement."""
    return serve(write(folder, models, **server))


def serve(path: Path, **variables: str) -> Server:
    """Starts a server for a project that is written already; use it in a `with` statement."""
    text = path.read_text(encoding="utf-8")
    ports = [int(re.search(rf'^{name} = ".*:(\d+)"', text, re.MULTILINE)[1]) for name in ("address", "admin_address")]
    return Server(path, (ports[0], ports[1]), **variables)


def render(tables: dict[str, Table], models: list[Table]) -> str:
    """The text of a project file."""
    lines = [line for name, table in tables.items() for line in _table(f"[{name}]", table)]
    for entry in models:
        lines += _table("[[models]]", entry)
    return "\n".join(lines) + "\n"


def _table(head: str, table: Table) -> list[str]:
    # JSON's strings, numbers and booleans are TOML's too.
    lines = [head, *(f"{key} = {json.dumps(value)}" for key, value in table.items() if not _nested(value))]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _table(f"[{head.strip('[]')}.{key}]", value)
        elif _nested(value):
            for entry in value:
                lines += _table(f"[[{head.strip('[]')}.{key}]]", entry)
    return [*lines, ""]


def _nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(entry, dict) for entry in value))
