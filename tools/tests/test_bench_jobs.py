"""How the peers of `make bench-jobs` and `make bench-features` are measured, with a worker that costs nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench" / "peers"))

import features_data
import job_runs
import pyarrow.parquet as pq
import redis_server

#: Says that it took two seconds, or lets the "queue" start its jobs until it is stopped.
_WORKER = """
import json, sys, time
if sys.argv[1] == "burst":
    print("a line of something else")
    print(json.dumps({"took_s": 2.0}))
else:
    print("ready", flush=True)
    time.sleep(60)
"""


#: Keeps what it was told, and answers as Valkey does.
_VALKEY = """
import json, os, pathlib, socket, sys
flags = {**dict(zip(sys.argv[1::2], sys.argv[2::2])), "pid": os.getpid()}
pathlib.Path(flags["--dir"], "flags.json").write_text(json.dumps(flags))
server = socket.create_server((flags["--bind"], int(flags["--port"])))
while True:
    connection, _ = server.accept()
    connection.recv(16)
    connection.sendall(b"+PONG\\r\\n")
"""


class _Queue:
    """A queue whose jobs start at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, starts: Path) -> None:
        monkeypatch.setenv(job_runs.STARTS, str(starts))
        self.jobs: list[str] = []

    def enqueue(self, job: str, *arguments: float) -> None:
        self.jobs.append(job)
        getattr(job_runs, job)(*arguments)


def _flags(folder: Path, *more: str) -> object:
    return job_runs.parser("a peer").parse_args([str(folder), *more])


def test_throughput_is_all_jobs_over_what_the_worker_took(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    queue = _Queue(monkeypatch, tmp_path / "starts")
    flags = _flags(tmp_path, "--jobs", "100", "--seconds", "0")
    told = job_runs.measured(flags, queue.enqueue, [sys.executable, "-c", _WORKER])
    assert told.keys() == {"enqueue_per_s", "jobs", "jobs_per_s"}
    assert (told["jobs"], told["jobs_per_s"]) == (100, 50.0)
    assert queue.jobs == ["empty"] * 101, "one more, to warm up"


def test_latency_counts_every_job_but_those_that_warm_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    queue = _Queue(monkeypatch, tmp_path / "starts")
    flags = _flags(tmp_path, "--jobs", "0", "--rate", "200", "--seconds", "0.1")
    told = job_runs.measured(flags, queue.enqueue, [sys.executable, "-c", _WORKER])
    assert told["starts"] == 20
    assert set(queue.jobs) == {"started"}
    assert 0 <= told["enqueue_to_start_p50_ms"] <= told["enqueue_to_start_p95_ms"]


def test_a_worker_that_ends_before_it_is_ready_is_no_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    queue = _Queue(monkeypatch, tmp_path / "starts")
    with pytest.raises(RuntimeError, match="before it was ready"):
        job_runs.measured(_flags(tmp_path, "--jobs", "0"), queue.enqueue, [sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize(
    ("durable", "log"),
    [
        ("always", {"--appendonly": "yes", "--appendfsync": "always"}),
        ("everysec", {"--appendonly": "yes", "--appendfsync": "everysec"}),
        ("no", {"--appendonly": "no"}),
    ],
)
def test_valkey_is_as_durable_as_it_is_told_and_ends_with_its_measurement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, durable: str, log: dict[str, str]
) -> None:
    program = tmp_path / "valkey-server"
    program.write_text(f"#!{sys.executable}\n{_VALKEY}", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(redis_server, "_PROGRAM", program)
    with redis_server.running(tmp_path, durable) as port:
        flags = json.loads((tmp_path / "flags.json").read_text(encoding="utf-8"))
        assert {name: value for name, value in flags.items() if name.startswith("--append")} == log
        assert (flags["--bind"], flags["--port"], flags["--dir"]) == ("127.0.0.1", str(port), str(tmp_path))
        assert flags["--unixsocket"] == str(redis_server.socket_of(tmp_path))
        os.kill(flags["pid"], 0)
    with pytest.raises(ProcessLookupError):
        os.kill(flags["pid"], 0)


def test_a_table_of_features_has_every_feature_once_and_a_row_an_entity(tmp_path: Path) -> None:
    files = features_data.write(tmp_path, entities=30, views=5, features=50)
    tables = {name: pq.read_table(path) for name, path in files.items()}
    names = [
        name
        for table in tables.values()
        for name in table.column_names
        if name not in (features_data.KEY, features_data.TIMESTAMP)
    ]
    assert len(names) == len(set(names)) == 250
    for number, table in enumerate(tables.values()):
        assert table[features_data.KEY].to_pylist() == list(range(30))
        kinds = features_data.features_of(number, 50)
        assert {name: table.schema.field(name).type for name in kinds} == kinds
