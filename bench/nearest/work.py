"""The measurements of `vectors.py`, one function each."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from processes import ForeignLoad, wait_for_quiet
from servers import ServerError
from servers import running as serving

from nearest import filters
from nearest.curves import Measured
from nearest.datasets import DIMENSIONS, Dataset
from nearest.progress import say
from nearest.recall import Truth, recall, truth
from nearest.serving import Served
from nearest.systems import LIMIT, Process, System, SystemLost, running

_Json = dict[str, Any]
#: Above this share of the machine, others were part of what was measured.
FOREIGN_SHARE_MAX = 0.10
#: Processor time over time, of one thread and the clocks' grain.
_THREADS_MAX = 1.1
_REBUILD_SEED = 31
#: How far a new point lies from an old one: its nearest are others than the old one's.
_REBUILD_NOISE = 0.02


@dataclass(frozen=True)
class Plan:
    """How long everything takes."""

    rounds: int
    filter_rounds: int
    http_rounds: int
    #: Rows of each table at most; all where nothing is said.
    rows_max: int | None
    rebuild_points: int
    rebuild_idle_s: float
    #: How fast they come; slow enough for the builder to keep up.
    rebuild_points_per_s: float
    #: Waited at most for a machine that others leave alone.
    patience_s: float


FULL = Plan(5, 3, 5, None, 20_000, 15.0, 1_000.0, 20.0)
QUICK = Plan(1, 1, 1, 8_000, 6_000, 3.0, 2_000.0, 2.0)


@dataclass
class Run:
    """One table, what is running over it, and what goes wrong on the way."""

    data: Dataset
    plan: Plan
    scratch: Path
    threads: int
    problems: list[str] = field(default_factory=list)
    #: By name, those that are loaded.
    processes: dict[str, Process] = field(default_factory=dict)
    loaded: dict[str, _Json] = field(default_factory=dict)
    systems: dict[str, System] = field(default_factory=dict)

    def problem(self, line: str) -> None:
        """Something that makes figures doubtful, or leaves some out."""
        self.problems.append(line)
        say(f"problem: {line}")

    def start(self, system: System, stack: ExitStack) -> bool:
        """Starts a system and has it load; one that cannot is named, and the others go on."""
        say(f"{self.data.name}: {system.name} loads {len(self.data.table):,} rows")
        try:
            process = stack.enter_context(running(system, self.scratch))
            told = process.load()
        except (SystemLost, OSError) as error:
            self.problem(f"{system.name} could not be measured: {error}")
            return False
        self.processes[system.name], self.systems[system.name] = process, system
        self.loaded[system.name] = told | {"process_bytes": process.resident_bytes()}
        say(f"{self.data.name}: {system.name} took {told['built_s']:.1f} s")
        return True

    def lost(self, name: str, error: SystemLost) -> None:
        """A system that failed once is not asked again."""
        self.processes.pop(name, None)
        self.problem(f"{name} was lost: {error}")


def curves(run: Run) -> dict[str, list[_Json]]:
    """Every setting of every system, in rounds; within a round everybody's first, then everybody's second, ..."""
    right = truth(run.data.table, run.data.queries, LIMIT)
    seen: dict[str, dict[str, list[_Json]]] = {name: {} for name in run.processes}
    shares = []
    for number in range(1, run.plan.rounds + 1):
        wait_for_quiet(run.plan.patience_s)
        names = [name for name, process in run.processes.items() if number <= process.system.rounds_max]
        with ForeignLoad() as foreign:
            for place in range(max(len(run.processes[name].system.settings) for name in names)):
                for name in names if number % 2 else names[::-1]:
                    _one(run, name, place, right, seen)
        shares.append(foreign.share)
        say(f"{run.data.name}: round {number} of {run.plan.rounds}, others took {foreign.share:.0%} of the machine")
    if max(shares) > FOREIGN_SHARE_MAX:
        run.problem(f"{run.data.name}: others took up to {max(shares):.0%} of the machine; believe ratios, not figures")
    return {name: [_median(rounds) for rounds in settings.values()] for name, settings in seen.items()}


def _one(run: Run, name: str, place: int, right: Truth, seen: dict[str, dict[str, list[_Json]]]) -> None:
    process = run.processes.get(name)
    if process is None or place >= len(process.system.settings):
        return
    params = process.system.settings[place]
    try:
        told = process.search(run.data.queries_path, params)
    except SystemLost as error:
        run.lost(name, error)
        return
    found = recall(run.data.table, run.data.queries, told["ids"], right)
    one = {"params": params, "recall": found, "qps": len(run.data.queries) / told["took_s"]}
    one |= {key: told[key] for key in ("p50_us", "p99_us") if key in told}
    if told.get("cpu_s"):
        one["per_cpu_s"] = len(run.data.queries) / told["cpu_s"]
        if told["cpu_s"] > _THREADS_MAX * told["took_s"]:
            run.problem(f"{name} {params} used {told['cpu_s'] / told['took_s']:.1f} threads; one was asked for")
    seen[name].setdefault(str(params), []).append(one)


def _median(rounds: list[_Json]) -> _Json:
    """Of one setting; the recall of a system that was not built anew is always the same."""
    found: _Json = {"params": rounds[0]["params"], "rounds": len(rounds)}
    for key in ("recall", "qps", "per_cpu_s", "p50_us", "p99_us"):
        if values := [one[key] for one in rounds if key in one]:
            found[key] = statistics.median(values)
    found["qps_spread"] = [min(one["qps"] for one in rounds), max(one["qps"] for one in rounds)]
    return found


def measured(points: Iterable[_Json], speed: str = "qps") -> list[Measured]:
    """For reading figures off a curve; `per_cpu_s` is the speed on a processor of one's own."""
    return [
        Measured(str(point["params"]), point["recall"], point[speed])
        for point in points
        if point.get(speed) is not None
    ]


def filtered(run: Run, name: str) -> list[_Json]:
    """Each filter as the planner answers it and by comparing all that passes, in turns."""
    found: list[_Json] = []
    for one in filters.filters(run.data, run.scratch):
        right = truth(run.data.table, one.queries, LIMIT, one.passing)
        rounds: dict[bool, list[_Json]] = {False: [], True: []}
        for number in range(run.plan.filter_rounds):
            for exact in (False, True) if number % 2 else (True, False):
                try:
                    told = run.processes[name].search(one.queries_path, {"exact": exact}, one.filter)
                except SystemLost as error:
                    run.lost(name, error)
                    return found
                reached = recall(run.data.table, one.queries, told["ids"], right, one.passing)
                speeds = {"qps": len(one.queries) / told["took_s"], "per_cpu_s": len(one.queries) / told["cpu_s"]}
                rounds[exact].append({"params": {}, "recall": reached, **speeds})
        planned, exact_scan = _median(rounds[False]), _median(rounds[True])
        found.append(
            {
                "filter": one.name,
                "passing": int(one.passing.sum()),
                "recall": planned["recall"],
                "qps": planned["qps"],
                "exact_qps": exact_scan["qps"],
                "exact_recall": exact_scan["recall"],
                # Of processor time: where the plan is to scan, both are the same work of the same thread.
                "vs_exact": statistics.median(
                    plan["per_cpu_s"] / scan["per_cpu_s"] for plan, scan in zip(rounds[False], rounds[True])
                ),
            }
        )
        faster = found[-1]["vs_exact"]
        say(f"{name}, {one.name}: recall {planned['recall']:.4f}, {faster:.2f} times as fast as a scan")
    return found


def added_by_http(run: Run, name: str, binary: Path) -> _Json | None:
    """The median time of a query over HTTP less that in process, with the same width, in turns."""
    process = run.processes[name]
    say(f"HTTP: {binary.name} serves a copy of the collection")
    served = Served(binary, Path(process.system.load["folder"]), run.data, run.scratch)
    rounds = []
    try:
        with serving(served.system(), run.scratch) as server:
            told = process.search(run.data.queries_path, {})
            served.check(server.url, run.data.queries[0].tolist(), told["scores"][0])
            for _ in range(run.plan.http_rounds):
                inside = process.search(run.data.queries_path, {})["p50_us"] / 1e3
                report = served.ask(server.url, None)
                rounds.append({"in_process_p50_ms": inside, "http_p50_ms": report["latency_ms"]["p50"]})
    except (SystemLost, ServerError, OSError) as error:
        run.problem(f"HTTP could not be measured: {error}")
        return None
    added = [one["http_p50_ms"] - one["in_process_p50_ms"] for one in rounds]
    found: _Json = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    say(f"HTTP adds {statistics.median(added):.3f} ms")
    return found | {"added_p50_ms": statistics.median(added), "rounds": rounds}


def rebuilt(run: Run, name: str) -> _Json | None:
    """Searches while points are written and indexed, beside searches while nothing happens. Changes the collection."""
    random, table, plan = np.random.default_rng(_REBUILD_SEED), run.data.table, run.plan
    new = table[random.integers(len(table), size=plan.rebuild_points)]
    new = new + random.normal(0, _REBUILD_NOISE, new.shape).astype(np.float32)
    new /= np.linalg.norm(new, axis=1, keepdims=True)
    path = run.scratch / f"{run.data.name}-new.f32"
    new.astype(np.float32).tofile(path)
    wait_for_quiet(plan.patience_s)
    say(f"{name}: {plan.rebuild_points:,} points come, {plan.rebuild_points_per_s:,.0f} a second, while it is searched")
    try:
        told = run.processes[name].ask(
            do="rebuild",
            queries=str(run.data.queries_path),
            limit=LIMIT,
            rows=str(path),
            first_id=len(table),
            points_per_s=plan.rebuild_points_per_s,
            idle_s=plan.rebuild_idle_s,
        )
    except SystemLost as error:
        run.lost(name, error)
        return None
    told["cpu_p99_vs_idle"] = told["rebuild"]["cpu_p99_us"] / told["idle"]["cpu_p99_us"]
    told["p99_vs_idle"] = told["rebuild"]["p99_us"] / told["idle"]["p99_us"]
    say(
        f"{name}: P99 {told['p99_vs_idle']:.2f} times that of idle times, {told['built_s']:.0f} s until all was indexed"
    )
    return told


def bytes_per_row(run: Run, name: str) -> float:
    """Of one of Halny's indexes, without the vectors."""
    return float(run.loaded[name]["index_bytes"]) / len(run.data.table)


def sizes(run: Run, name: str) -> _Json:
    """What a system took: to build, and of memory. Of Halny's, the vectors are a file that is mapped."""
    told, ours = run.loaded[name], name.startswith("halny")
    found: _Json = {
        "kind": run.systems[name].kind,
        "built_s": told["built_s"],
        "size_bytes": told["index_bytes"] if ours else told["size_bytes"],
        "resident_bytes": told["process_bytes"] if ours else told.get("resident_bytes"),
    }
    if ours:
        found |= {key: told[key] for key in ("segments", "indexed", "vectors", "written_s")}
        found["f32_share"] = bytes_per_row(run, name) / (4 * DIMENSIONS)
    return found
