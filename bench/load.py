"""Load from `halny bench`: the one generator for every server, so that no figure owes anything to its client."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import ForeignLoad, RssWatch
from servers import Server

#: What a run may take beyond its own length: requests in flight, and slow machines.
_GRACE_S = 120.0
#: A generator that waits for a core behind the server it loads is late, and its lateness would pass for the server's.
_PRIORITY = ["nice", "-n", "-5"] if os.geteuid() == 0 else []


class LoadError(Exception):
    """The generator failed; the text says why."""


@dataclass(frozen=True)
class Shape:
    """How the load arrives."""

    window_s: float
    warm_up_s: float
    #: Requests in flight, in the closed loop.
    connections: int | None = None
    #: Poisson arrivals a second, in the open loop.
    rate_per_s: float | None = None
    #: Sent to Halny with each request, and the line between goodput and the rest.
    deadline_ms: int | None = None
    seed: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    report: dict[str, Any]
    #: The share of the machine that was taken by processes that are no part of the benchmark.
    foreign_share: float
    rss: RssWatch

    @property
    def requests_per_s(self) -> float:
        """Requests answered with success, one text each."""
        return float(self.report["requests_per_s"])

    @property
    def cpu_s_per_1000(self) -> float | None:
        """Processor seconds of the server and what it started, for 1,000 texts."""
        return (self.report["server"] or {}).get("cpu_s_per_1000_texts")

    def latency_ms(self, percentile: str) -> float | None:
        """Of requests answered with success: `p50`, `p95`, `max`, ..."""
        return (self.report["latency_ms"] or {}).get(percentile)

    def condensed(self) -> dict[str, Any]:
        """The report without its long lists."""
        left_out = {"latency_curve", "timeline", "idle", "interrupted", "error_samples"}
        kept = {key: value for key, value in self.report.items() if key not in left_out}
        if self.report["error_samples"]:
            kept["error_samples"] = self.report["error_samples"]
        return {**kept, "foreign_share": round(self.foreign_share, 3)}


def drive(binary: Path, server: Server, texts: Path, shape: Shape) -> Outcome:
    """Sends the load and waits for its end."""
    command = _command(binary, server, texts, shape)
    timeout_s = shape.warm_up_s + shape.window_s + _GRACE_S
    with ForeignLoad() as foreign, RssWatch(server.pid) as rss:
        try:
            # Its progress bar, where there is a terminal, and its errors go to ours.
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"the load on {server.system.name} did not end within {timeout_s:.0f} s") from error
    if ended.returncode != 0:
        raise LoadError(f"the load generator ended with {ended.returncode}")
    try:
        report = json.loads(ended.stdout)
    except ValueError as error:
        raise LoadError("the load generator printed no JSON") from error
    return Outcome(report, foreign.share, rss)


def _command(binary: Path, server: Server, texts: Path, shape: Shape) -> list[str]:
    options: dict[str, Any] = {
        "--path": server.system.request.path,
        "--template": json.dumps(server.system.request.template),
        "--texts": texts,
        "--duration": shape.window_s,
        "--warm-up": shape.warm_up_s,
        "--server-pid": server.pid,
        "--seed": shape.seed,
    }
    if shape.connections is not None:
        options["--connections"] = shape.connections
    if shape.rate_per_s is not None:
        options["--rate"] = round(shape.rate_per_s, 3)
    if shape.deadline_ms is not None:
        options["--deadline-ms"] = shape.deadline_ms
        options["--header"] = f"X-Halny-Deadline-Ms: {shape.deadline_ms}"
    flags = [str(part) for pair in options.items() for part in pair]
    return [*_PRIORITY, str(binary), "bench", server.url, *flags, "--server-descendants", "--json"]
