"""The measurements of `embed.py`, one function each."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from load import Outcome, Shape, drive
from onnx_embedder import OnnxEmbedder, Vectors
from processes import ForeignLoad, wait_for_quiet
from servers import Server, ServerError, System, running
from systems import BATCH, BENCH, WAIT_MS, Layout, Setting, cores

CONCURRENCY = (1, 16, 64)
FULL = 64
DEADLINE_MS = 1_000
OVERLOAD = 3.0
_BARE_TIMEOUT_S = 900
#: Cosine similarity that a server's vectors must have to the bare loop's over the same graph.
_COSINE_MIN = {"fp32": 0.999, "fp16": 0.999, "int8": 0.98}
#: How Halny tells that it accepted a request and could not answer it in time.
_TOO_LATE = "status_504"
#: Above this share of the machine, others were part of what was measured.
_FOREIGN_SHARE_MAX = 0.10


@dataclass(frozen=True)
class Plan:
    """How long everything takes."""

    rounds: int
    warm_up_s: float
    window_s: float
    half_load_s: float
    overload_s: float
    texts: int
    #: Waited at most before each measurement for a machine that others leave alone.
    patience_s: float


FULL_PLAN = Plan(3, 2.0, 8.0, 20.0, 60.0, 2_000, 20.0)
QUICK_PLAN = Plan(1, 1.0, 3.0, 5.0, 8.0, 1_000, 3.0)


@dataclass
class Run:
    """One whole run: what is given, and what goes wrong on the way."""

    setting: Setting
    plan: Plan
    texts: Path
    expected: Vectors
    problems: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        """One line of progress."""
        print(f"[bench] {line}", flush=True)

    def problem(self, line: str) -> None:
        """Something that makes figures doubtful."""
        self.problems.append(line)
        self.say(f"problem: {line}")


def reference(setting: Setting, texts: Path) -> Vectors:
    """The vectors of the first texts from the graph itself, to hold the servers' answers against."""
    return OnnxEmbedder(setting.graph, setting.tokenizer, 1).embed(_first(texts))


def bare(run: Run, layout: Layout, order: str = "sorted", batch: int = BATCH) -> dict[str, Any]:
    """One pass of the bare loop over all texts."""
    command = [sys.executable, str(BENCH / "bare.py")]
    options: dict[str, Any] = {
        "--graph": run.setting.graph,
        "--tokenizer": run.setting.tokenizer,
        "--texts": run.texts,
        "--processes": layout.workers,
        "--threads": layout.threads,
        "--batch": batch,
        "--order": order,
    }
    command += [str(part) for pair in options.items() for part in pair]
    wait_for_quiet(run.plan.patience_s)
    with ForeignLoad() as foreign:
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_BARE_TIMEOUT_S, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    run.say(
        f"bare loop {layout}, batch {batch}, {order}: {found['embeddings_per_s']:.0f}/s, "
        f"{found['cpu_s_per_1000']:.2f} CPU s per 1,000{_note(foreign.share)}"
    )
    return {**found, "layout": str(layout), "batch": batch, "foreign_share": round(foreign.share, 3)}


def closed_loops(run: Run, system: System, concurrency: Iterable[int]) -> dict[int, Outcome]:
    """Starts the system, checks its answers, drives it at each concurrency, stops it."""
    wait_for_quiet(run.plan.patience_s)
    with running(system, run.setting.scratch) as server:
        check_answers(run, server)
        return {connections: closed_loop(run, server, connections) for connections in concurrency}


def closed_loop(run: Run, server: Server, connections: int) -> Outcome:
    """One closed loop on a running server."""
    shape = Shape(run.plan.window_s, run.plan.warm_up_s, connections=connections)
    outcome = drive(run.setting.binary, server, run.texts, shape)
    name = f"{server.system.name} at {connections}"
    cpu = outcome.cpu_s_per_1000
    run.say(
        f"{name}: {outcome.requests_per_s:.0f}/s, P50 {_ms(outcome, 'p50')}, P95 {_ms(outcome, 'p95')}, "
        f"{'?' if cpu is None else f'{cpu:.2f}'} CPU s per 1,000{_note(outcome.foreign_share)}"
    )
    if outcome.report["failed"] or outcome.report["refused"]:
        run.problem(f"{name}: {_losses(outcome)}")
    return outcome


def check_answers(run: Run, server: Server) -> None:
    """Refuses to measure a server whose vectors are not those of the graph."""
    found = np.asarray([server.embed(text) for text in _first(run.texts)], np.float32)
    if found.shape != run.expected.shape:
        raise ServerError(f"{server.system.name} gave vectors of shape {found.shape}, not {run.expected.shape}")
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(run.expected, axis=1)
    cosine = float(((found * run.expected).sum(axis=1) / norms).min())
    if cosine < _COSINE_MIN[run.setting.precision]:
        raise ServerError(f"{server.system.name} gave other vectors than the graph: cosine {cosine:.4f}")


def best_layout(run: Run, systems: list[System]) -> System:
    """The layout with which a peer serves most at full concurrency."""
    if len(systems) == 1:
        return systems[0]
    run.say(f"{systems[0].name}: trying layouts {', '.join(system.layout for system in systems)}")
    served = [closed_loops(run, system, [FULL])[FULL].requests_per_s for system in systems]
    return systems[served.index(max(served))]


def under_pressure(run: Run, system: System, parts: set[str]) -> dict[str, Any]:
    """Half load and overload on one server, with its capacity measured right before and after."""
    wait_for_quiet(run.plan.patience_s)
    found: dict[str, Any] = {}
    with running(system, run.setting.scratch) as server:
        check_answers(run, server)
        before = closed_loop(run, server, FULL).requests_per_s
        if "half-load" in parts:
            tries = [half_load(run, server, before, seed) for seed in range(1, run.plan.rounds + 1)]
            found["half_load"] = _middle(run, tries)
        if "overload" in parts:
            before = closed_loop(run, server, FULL).requests_per_s
            result, outcome = overload(run, server, OVERLOAD * before)
            after = closed_loop(run, server, FULL).requests_per_s
            capacity = (before + after) / 2
            goodput = outcome.report["goodput_requests_per_s"]
            found["overload"] = {**result, "capacity_per_s": capacity, "goodput_over_capacity": goodput / capacity}
            run.say(f"goodput {goodput:.0f}/s of a capacity of {capacity:.0f}/s")
    return found


def half_load(run: Run, server: Server, capacity_per_s: float, seed: int) -> dict[str, Any]:
    """Poisson arrivals at half of capacity."""
    rate_per_s = capacity_per_s / 2
    shape = Shape(run.plan.half_load_s, run.plan.warm_up_s, rate_per_s=rate_per_s, seed=seed)
    wait_for_quiet(run.plan.patience_s)
    outcome = drive(run.setting.binary, server, run.texts, shape)
    p50, p95 = outcome.latency_ms("p50"), outcome.latency_ms("p95")
    run.say(
        f"half load, {rate_per_s:.0f}/s: P50 {_ms(outcome, 'p50')}, P95 {_ms(outcome, 'p95')}"
        f"{_lateness(outcome)}{_note(outcome.foreign_share)}"
    )
    if outcome.report["failed"] or outcome.report["refused"]:
        run.problem(f"half load: {_losses(outcome)}")
    ratio = (p95 - WAIT_MS) / p50 if p50 and p95 else None
    return {"rate_per_s": rate_per_s, "p50_ms": p50, "p95_ms": p95, "ratio": ratio, "report": outcome.condensed()}


def _middle(run: Run, tries: list[dict[str, Any]]) -> dict[str, Any]:
    """The try with the median ratio, and the ratios of all."""
    answered = sorted((one for one in tries if one["ratio"] is not None), key=lambda one: float(one["ratio"]))
    if not answered:
        return tries[0]
    chosen = answered[len(answered) // 2]
    for note in chosen["report"]["generator"]["notes"]:
        run.problem(f"half load: {note}")
    return {**chosen, "ratios": [one["ratio"] for one in tries]}


def overload(run: Run, server: Server, rate_per_s: float) -> tuple[dict[str, Any], Outcome]:
    """Poisson arrivals far beyond capacity, each with a deadline."""
    run.say(f"overload: {rate_per_s:.0f}/s for {run.plan.overload_s:.0f} s, deadline {DEADLINE_MS} ms")
    shape = Shape(run.plan.overload_s, run.plan.warm_up_s, rate_per_s=rate_per_s, deadline_ms=DEADLINE_MS)
    outcome = drive(run.setting.binary, server, run.texts, shape)
    report = outcome.report
    start_s, tenth_s = shape.warm_up_s, shape.window_s / 10
    rss_start = outcome.rss.between(start_s, start_s + tenth_s)
    rss_end = outcome.rss.between(start_s + 9 * tenth_s, start_s + 10 * tenth_s)
    refused = report["refused_latency_ms"] or {}
    run.say(
        f"overload: goodput {report['goodput_requests_per_s']:.0f}/s, answered within at most {_ms(outcome, 'max')}, "
        f"refused {report['refused']} (P50 {refused.get('p50', 0):.1f} ms, P99 {refused.get('p99', 0):.1f} ms)"
        f"{_lateness(outcome)}{_note(outcome.foreign_share)}"
    )
    too_late = report["errors"].get(_TOO_LATE, 0)
    shares = {
        who: (report[who] or {}).get("cpu_s", 0) / (report["window_s"] * cores()) for who in ("server", "generator")
    }
    run.say(
        f"overload: {too_late} accepted and then too late; of the machine the server took {shares['server']:.0%}, "
        f"the generator {shares['generator']:.0%}"
    )
    if report["failed"] > too_late:
        run.problem(f"overload: {_losses(outcome)}")
    return {
        "rate_per_s": rate_per_s,
        "deadline_ms": DEADLINE_MS,
        "goodput_per_s": report["goodput_requests_per_s"],
        "answered_after_deadline": report["ok"] - report["ok_within_deadline"],
        "accepted_and_too_late": too_late,
        "cpu_shares": shares,
        "latency_max_ms": outcome.latency_ms("max"),
        "service_max_ms": (report["service_ms"] or {}).get("max"),
        "refused": report["refused"],
        "refusal_p50_ms": refused.get("p50"),
        "refusal_p99_ms": refused.get("p99"),
        "rss_start_bytes": rss_start,
        "rss_end_bytes": rss_end,
        "rss_growth": rss_end / rss_start if rss_start and rss_end else None,
        "rss_samples": [(round(at_s, 1), rss_bytes) for at_s, rss_bytes in outcome.rss.samples[::4]],
        "report": {**outcome.condensed(), "timeline": report["timeline"]},
    }, outcome


def median(values: Iterable[float | None]) -> float | None:
    """The median of those that are there."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def server_layout() -> Layout:
    """The layout that Halny takes on this machine by itself."""
    return Layout(cores(), 1)


def _first(texts: Path) -> list[str]:
    with texts.open(encoding="utf-8") as lines:
        return [line.strip() for line, _ in zip(lines, range(8))]


def _note(foreign_share: float) -> str:
    if foreign_share <= _FOREIGN_SHARE_MAX:
        return ""
    return f" (others took {foreign_share:.0%} of the machine)"


def _lateness(outcome: Outcome) -> str:
    late = outcome.report["generator"]["lateness_ms"]
    return f", generator late by {late['p99']:.1f} ms at P99" if late else ""


def _ms(outcome: Outcome, percentile: str) -> str:
    value = outcome.latency_ms(percentile)
    return "?" if value is None else f"{value:.1f} ms"


def _losses(outcome: Outcome) -> str:
    report = outcome.report
    errors = json.dumps({**report["errors"], **report["error_samples"]})[:400]
    return f"{report['failed']} failed, {report['refused']} refused {errors}"
