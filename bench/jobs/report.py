"""The result of `make bench-jobs` as keys, as tables, and as the files that are kept."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from results import machine_lines, table, write

_Json = dict[str, Any]
SCHEMA = "halny-bench-jobs/1"
#: What each system is, in the tables.
_NAMES = {
    "halny": "Halny, SQLite (`synchronous=FULL`)",
    "halny-postgres": "Halny, PostgreSQL (`fsync=on`)",
    "procrastinate": "procrastinate, PostgreSQL (`fsync=on`)",
    "rq": "rq `SimpleWorker`, Valkey (`appendfsync always`)",
}


def say(text: str) -> None:
    """Tells how far it is."""
    print(text, file=sys.stderr, flush=True)


def keys(result: _Json) -> dict[str, float]:
    """The figures of the last line, those that were measured: medians over the rounds."""
    found: dict[str, float | None] = {
        "jobs_per_s": _median(result, "halny", "jobs_per_s"),
        "enqueue_to_start_p95_ms": _median(result, "halny", "enqueue_to_start_p95_ms"),
        # Each against the same kind of database: a file, or a server.
        "vs_procrastinate": _ratio(result, "halny-postgres", "procrastinate"),
        "vs_rq": _ratio(result, "halny", "rq"),
    }
    if result["meanwhile"]:
        found["embedding_p95_vs_idle"] = result["meanwhile"]["p95_vs_idle"]
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def _median(result: _Json, system: str, figure: str) -> float | None:
    values = [one[system][figure] for one in result["rounds"] if figure in one.get(system, {})]
    return statistics.median(values) if values else None


def _ratio(result: _Json, ours: str, theirs: str) -> float | None:
    pairs = [
        one[ours]["jobs_per_s"] / one[theirs]["jobs_per_s"] for one in result["rounds"] if ours in one and theirs in one
    ]
    return statistics.median(pairs) if pairs else None


def tables(result: _Json) -> str:
    """For people."""
    rows = [["queue", "jobs/s", "enqueued/s", "start P50 ms", "start P95 ms"]]
    for system, name in _NAMES.items():
        figures = [
            _median(result, system, figure)
            for figure in ("jobs_per_s", "enqueue_per_s", "enqueue_to_start_p50_ms", "enqueue_to_start_p95_ms")
        ]
        if figures[0] is not None:
            rows.append([name, *(("" if figure is None else f"{figure:,.1f}") for figure in figures)])
    text = table(rows)
    if meanwhile := result["meanwhile"]:
        rows = [["one embedding a request", "P50 ms", "P95 ms", "P99 ms"]]
        rows += [
            [what, *(f"{meanwhile[which][name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms"))]
            for what, which in (("nothing else to do", "idle"), ("while a job embeds", "busy"))
        ]
        text += "\n\n" + table(rows)
        text += f"\n\nThe job embedded {meanwhile['rows']:,} texts, {meanwhile['texts_per_s']:.0f} a second."
    return "\n\n".join([text, *result["problems"]])


def last_line(found: dict[str, float]) -> str:
    """The keys, as `name=value`."""
    return " ".join(f"{name}={value:g}" for name, value in found.items())


def keep(result: _Json, folder: Path, name: str) -> None:
    """The result and its tables, in the repository."""
    write(folder / f"{name}.json", json.dumps(result, indent=1) + "\n")
    lines = ["# Queues of jobs", "", *machine_lines(result["machine"]), "", tables(result), "", f"`{last_line(result['keys'])}`", ""]
    write(folder / f"{name}.md", "\n".join(lines))
