"""What both peers of `make bench-jobs` are asked for, and how it is counted: the same flags, the same JSON line.

Throughput is that of empty jobs, all enqueued before one worker process starts: from the moment it asks
for the first until none is left, its start not counted. Latency is from just before a job is enqueued,
at a steady rate while a worker waits, until the first line of the job, both by the clock of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from children import stop

_WORK_TIMEOUT_S = 300
_READY_TIMEOUT_S = 60
_LAST_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 10
#: Where a job of the second kind writes how late it was.
STARTS = "HALNY_BENCH_STARTS"
_READY = "ready"
_Json = dict[str, Any]


def parser(summary: str) -> argparse.ArgumentParser:
    """The flags of a peer."""
    flags = argparse.ArgumentParser(description=summary)
    flags.add_argument("folder", type=Path, help="empty, for the database")
    flags.add_argument("--jobs", type=int, default=3_000, help="empty jobs; 0 leaves throughput out")
    flags.add_argument("--rate", type=float, default=50.0, help="jobs a second, for the latency")
    flags.add_argument("--seconds", type=float, default=10.0, help="for so long; 0 leaves latency out")
    return flags


def empty() -> None:
    """The job of the throughput."""


def started(sent_s: float) -> None:
    """The job of the latency."""
    late_s = time.time() - sent_s
    # Some workers run each job in a process of its own: a list would be lost with it.
    with Path(os.environ[STARTS]).open("a", encoding="ascii") as file:
        file.write(f"{late_s:.6f}\n")


def measured(flags: argparse.Namespace, enqueue: Callable[..., object], worker: list[str]) -> _Json:
    """Both figures. `enqueue(job, *arguments)` takes the name of a function above; `worker` is a command."""
    told: _Json = {}
    if flags.jobs:
        enqueue("empty")
        _drained(worker)
        began_s = time.perf_counter()
        for _ in range(flags.jobs):
            enqueue("empty")
        told["enqueue_per_s"] = round(flags.jobs / (time.perf_counter() - began_s), 1)
        told["jobs"] = flags.jobs
        told["jobs_per_s"] = round(flags.jobs / _drained(worker), 1)
    if flags.seconds:
        told |= _latency(flags, enqueue, worker)
    return told


def _drained(worker: list[str]) -> float:
    """Seconds that a worker took for all jobs there were."""
    ended = subprocess.run([*worker, "burst"], stdout=subprocess.PIPE, text=True, timeout=_WORK_TIMEOUT_S, check=True)
    return float(json.loads(ended.stdout.splitlines()[-1])["took_s"])


def _latency(flags: argparse.Namespace, enqueue: Callable[..., object], worker: list[str]) -> _Json:
    count, starts = int(flags.rate * flags.seconds), flags.folder.absolute() / "starts"
    warm = 5
    starts.touch()
    with _waiting([*worker, "wait"], {STARTS: str(starts)}):
        for _ in range(warm):
            enqueue("started", time.time())
        _wait_for_lines(starts, warm)
        began_s, own_ms = time.perf_counter(), []
        for number in range(count):
            time.sleep(max(0.0, began_s + number / flags.rate - time.perf_counter()))
            sent_s = time.time()
            enqueue("started", sent_s)
            own_ms.append((time.time() - sent_s) * 1e3)
        sent_for_s = time.perf_counter() - began_s
        _wait_for_lines(starts, warm + count)
    late_ms = sorted(float(line) * 1e3 for line in starts.read_text().splitlines()[warm:])
    return {
        "rate": flags.rate,
        "starts": len(late_ms),
        "sent_per_s": round(count / sent_for_s, 1),
        "enqueue_p50_ms": round(statistics.median(own_ms), 3),
        "enqueue_to_start_p50_ms": round(statistics.median(late_ms), 3),
        "enqueue_to_start_p95_ms": round(late_ms[min(len(late_ms) - 1, int(0.95 * len(late_ms)))], 3),
    }


@contextlib.contextmanager
def _waiting(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """A worker that waits for jobs; stopped in the end, whatever happens."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        assert process.stdout
        if process.stdout.readline().strip() != _READY:
            raise RuntimeError(f"the worker ended with {process.wait(_READY_TIMEOUT_S)} before it was ready")
        yield
    finally:
        stop(process, _STOP_TIMEOUT_S)


def _wait_for_lines(file: Path, count: int) -> None:
    deadline_s = time.monotonic() + _LAST_TIMEOUT_S
    while (found := file.read_bytes().count(b"\n")) < count:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{found} of {count} jobs started within {_LAST_TIMEOUT_S} s of the last")
        time.sleep(0.05)


def say(told: _Json) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def say_ready() -> None:
    """Said by a worker that is about to wait for jobs."""
    sys.stdout.write(f"{_READY}\n")
    sys.stdout.flush()
