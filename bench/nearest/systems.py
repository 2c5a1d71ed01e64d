"""What is measured: Halny's two tiers, and the peers, each a process that is talked to in lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nearest.datasets import DIMENSIONS, Dataset

_Json = dict[str, Any]
_PEERS = Path(__file__).resolve().parents[1] / "peers"
_LOAD_TIMEOUT_S = 3_600
_ASK_TIMEOUT_S = 900
_CLOSE_TIMEOUT_S = 120
_LOG_TAIL_BYTES = 2_000

LIMIT = 10
#: The same graph parameters and the same widths of search for everybody.
GRAPH = {"m": 16, "ef_construct": 200}
#: Of a row in a compact index, where no other says how many.
COMPACT_BYTES = 112.0
EFS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class SystemLost(Exception):
    """A system cannot be measured; the text says why."""


@dataclass(frozen=True)
class System:
    """What is started, what it is given to load, and the settings it is searched with."""

    name: str
    #: `graph` or `compact`: who is compared with whom.
    kind: str
    command: tuple[str, ...]
    load: _Json
    settings: tuple[_Json, ...]
    #: Measured in so many rounds at most: slow ones say as much in fewer.
    rounds_max: int = 99
    #: Runs as another user in a folder of its own, which nobody else may look into.
    own_folder: bool = False
    environment: dict[str, str] = field(default_factory=dict)


class Process:
    """A running system."""

    def __init__(self, system: System, log: Path) -> None:
        self.system = system
        self._log = log
        self._folder = tempfile.mkdtemp(prefix="halny-bench-peer-") if system.own_folder else None
        command = [*system.command, *([self._folder] if self._folder else [])]
        # One thread is one thread in the libraries below these libraries too.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **system.environment}
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
            )

    def ask(self, timeout_s: float = _ASK_TIMEOUT_S, **command: Any) -> _Json:
        """One command, and its answer."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
            line = self._process.stdout.readline() if ready else b""
        except OSError as error:
            raise SystemLost(f"it ended: {error}; {self._said()}") from error
        if not ready:
            self._process.kill()
            raise SystemLost(f"no answer within {timeout_s:.0f} s")
        if not line:
            raise SystemLost(f"it ended with {self._process.wait(10)}: {self._said()}")
        told: _Json = json.loads(line)
        if "error" in told:
            raise SystemLost(str(told["error"]))
        return told

    def load(self) -> _Json:
        """Has it load and index the rows."""
        return self.ask(_LOAD_TIMEOUT_S, do="load", **self.system.load)

    def search(self, queries: Path, params: _Json, filter: _Json | None = None) -> _Json:
        """Has it ask every query once."""
        command: _Json = {"do": "search", "queries": str(queries), "limit": LIMIT, "params": params}
        if filter is not None:
            command["filter"] = filter
        return self.ask(_ASK_TIMEOUT_S, **command)

    def kill(self) -> None:
        """Ends it at once; one that has started a server stops that first."""
        self._process.terminate()

    def close(self) -> None:
        """Lets it end, and waits."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def resident_bytes(self) -> int | None:
        """Resident memory, files that are mapped included."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        return None

    def _said(self) -> str:
        lines = self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def running(system: System, scratch: Path) -> Iterator[Process]:
    """Starts a system and ends it in any case."""
    process = Process(system, scratch / f"{system.name}.log")
    try:
        yield process
    except BaseException:
        # Nobody waits for what it is at.
        process.kill()
        raise
    finally:
        process.close()


def halny(name: str, measure: Path, data: Dataset, scratch: Path, threads: int, payloads: _Json) -> System:
    """One of Halny's tiers, `fast` or `compact`, with everything else as it is by default."""
    config = {
        "vectors": {"": {"dimensions": DIMENSIONS, "distance": "Dot", "tier": _TIERS[name]}},
        "fields": payloads["fields"],
    }
    load = {
        "folder": str(scratch / f"{data.name}-{name}"),
        "threads": threads,
        "config": config,
        "rows": str(data.table_path),
        "payloads": str(payloads["path"]),
    }
    kind = "graph" if name == "fast" else "compact"
    return System(f"halny-{name}", kind, (str(measure),), load, _HALNY_SETTINGS[name])


_TIERS: dict[str, _Json] = {
    "fast": {"tier": "fast", **GRAPH, "precision": "int8"},
    "compact": {"tier": "compact"},
}
_NPROBES = (4, 8, 16, 32, 64, 96, 128, 192)
_HALNY_SETTINGS: dict[str, tuple[_Json, ...]] = {
    "fast": tuple({"ef": ef} for ef in EFS),
    # The first is what it does by default.
    "compact": ({}, *({"nprobe": nprobe, "oversampling": more} for more in (2, 4) for nprobe in _NPROBES)),
}
TIERS = tuple(_TIERS)


def index_peer(name: str, data: Dataset, threads: int) -> System:
    """hnswlib, usearch, or faiss's graph: the same parameters of the graph, the same widths."""
    settings = tuple({"ef": ef} for ef in EFS)
    return System(name, "graph", _python("vector_index.py", name), _peer_load(data, threads, GRAPH), settings)


def faiss_ivfpq(name: str, data: Dataset, threads: int, bytes_per_row: float) -> System:
    """faiss's compact index with about so many bytes a row; asked in one call, or with `-single` in one a query.

    Of 250, 500 and 1,000 lists over 62,666 rows the fewest found most for their size and time.
    """
    lists = max(16, round(len(data.table) ** 0.5))
    options = {"lists": lists, "subspaces": subspaces(bytes_per_row, lists, len(data.table))}
    more_params: _Json = {"one_by_one": True} if name.endswith("-single") else {}
    settings = tuple(
        {"nprobe": nprobe, "oversampling": more, **more_params} for more in (2, 4, 8) for nprobe in _NPROBES
    )
    command = _python("vector_index.py", "faiss-ivfpq")
    return System(name, "compact", command, _peer_load(data, threads, options), settings)


def subspaces(bytes_per_row: float, lists: int, rows: int) -> int:
    """Of how many parts of 4 bits a code is made, so that a row takes so many bytes, or a tenth more at most."""
    fixed = 8 + 4 * DIMENSIONS * (lists + 16) / rows
    # A list is filled up to the next 32 rows: by half of that on average.
    padded = (rows + 16 * lists) / rows
    fitting = [parts for parts in _SUBSPACES if fixed + padded * parts / 2 <= 1.1 * bytes_per_row]
    return max(fitting, default=_SUBSPACES[0])


def pgvector(data: Dataset, threads: int) -> System:
    """PostgreSQL with pgvector."""
    settings = tuple({"ef": ef} for ef in EFS[1::2])
    command = _python("vector_postgres.py")
    load = _peer_load(data, threads, GRAPH)
    return System("pgvector", "graph", command, load, settings, rounds_max=3, own_folder=True)


_SUBSPACES = (24, 32, 48, 64, 96, 128, 192)


def _python(script: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(_PEERS / script), *arguments)


def _peer_load(data: Dataset, threads: int, options: _Json) -> _Json:
    return {"rows": str(data.table_path), "dimensions": DIMENSIONS, "threads": threads, "options": options}
