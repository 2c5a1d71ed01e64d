"""`make bench-embed`: Halny against a bare ONNX Runtime loop and against other servers, in one run.

What is measured, and what each key of the last line means, stands in `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import machine
import measures
import plot
import results
from load import LoadError, Outcome
from measures import CONCURRENCY, FULL, FULL_PLAN, QUICK_PLAN, Plan, Run
from peers.cache import CACHE
from peers.environments import PeerUnavailable
from servers import ServerError, System, stop_on_sigterm
from systems import BATCH, BENCH, PEERS, WAIT_MS, Layout, Setting, halny, layouts, peer_layouts

_OWN_PARTS = ("bare", "halny", "packing", "half-load", "overload")
_DEFAULT_PEERS = ("litserve", "mosec")
_T = TypeVar("_T")
_OUTPUT = BENCH.parent / "target" / "bench"
#: What can go wrong with one system and leaves the others worth measuring.
_FAILURES = (ServerError, LoadError, PeerUnavailable)


@dataclass
class Contender:
    """A system, where its closed loops are run, and what came of each round."""

    system: System
    concurrency: tuple[int, ...]
    rounds: list[dict[int, Outcome]]
    lost: bool = False


def main() -> int:
    """Measures, prints, writes; 1 where something went wrong that makes the figures doubtful."""
    arguments = _parser().parse_args()
    stop_on_sigterm()
    plan = replace(QUICK_PLAN if arguments.quick else FULL_PLAN)
    if arguments.count:
        plan = replace(plan, texts=arguments.count)
    with tempfile.TemporaryDirectory(prefix="halny-bench-") as folder:
        setting = Setting(
            arguments.binary.absolute(), CACHE / "models" / "minilm", arguments.precision, Path(folder), CACHE
        )
        texts = _write_texts(arguments.texts or CACHE / "data" / "debian-descriptions.txt", plan, setting.scratch)
        run = Run(setting, plan, texts, measures.reference(setting, texts))
        result = _measure(run, _parts(arguments), arguments.quick)
    picture = plot.picture(result)
    _OUTPUT.mkdir(parents=True, exist_ok=True)
    results.write(_OUTPUT / "embed.json", json.dumps(result, indent=1) + "\n")
    results.write(_OUTPUT / "embed.svg", picture)
    if arguments.keep:
        results.keep(result, picture, BENCH / "results", arguments.keep)
    print(f"\n{results.tables(result)}\n\n{_OUTPUT / 'embed.json'}\n{_OUTPUT / 'embed.svg'}")
    print(results.last_line(result["keys"]), flush=True)
    return 1 if result["problems"] else 0


def _measure(run: Run, parts: set[str], quick: bool) -> dict[str, Any]:
    contenders = _contenders(run, parts)
    bare_layout, bare_trials, bare_orders = _bare_trials(run) if "bare" in parts else (None, [], [])
    bare_rounds: list[dict[str, Any]] = []
    for number in range(1, run.plan.rounds + 1):
        if contenders or bare_layout:
            run.say(f"round {number} of {run.plan.rounds}")
        if bare_layout:
            bare_rounds.append(measures.bare(run, bare_layout))
        for contender in contenders:
            _play(run, contender)
    pressure: dict[str, Any] = {}
    if parts & {"half-load", "overload"}:
        system = halny(run.setting, "length")
        pressure = _attempt(run, system.name, lambda: measures.under_pressure(run, system, parts)) or {}
    tokens_mean = bare_trials[0]["tokens_mean"] if bare_trials else None
    result: dict[str, Any] = {
        "schema": results.SCHEMA,
        "machine": machine.describe(run.setting.binary),
        "settings": {
            "precision": run.setting.precision,
            "batch": BATCH,
            "wait_ms": WAIT_MS,
            "texts": run.plan.texts,
            "tokens_mean": None if tokens_mean is None else round(tokens_mean, 1),
            "quick": quick,
            "rounds": run.plan.rounds,
            "window_s": run.plan.window_s,
            "warm_up_s": run.plan.warm_up_s,
        },
        "bare": results.of_bare(bare_rounds) if bare_rounds else None,
        "bare_layouts": bare_trials,
        "bare_orders": bare_orders,
        "systems": {
            contender.system.name: results.of_rounds(contender.system.layout, contender.rounds)
            for contender in contenders
            if contender.rounds
        },
        **pressure,
        "problems": run.problems,
    }
    result["keys"] = results.keys(result)
    result["aims"] = [aim.as_json() for aim in results.aims(result)]
    return result


def _bare_trials(run: Run) -> tuple[Layout, list[dict[str, Any]], list[dict[str, Any]]]:
    """The layout that spends least, and what orders of packing are worth without a server."""
    trials = [(layout, measures.bare(run, layout)) for layout in layouts()]
    best, _ = min(trials, key=lambda trial: float(trial[1]["cpu_s_per_1000"]))
    window = f"window:{FULL}"
    orders = [(window, BATCH), (window, BATCH // 2), (window, BATCH // 4), ("arrival", BATCH)]
    return best, [trial for _, trial in trials], [measures.bare(run, best, order, batch) for order, batch in orders]


def _contenders(run: Run, parts: set[str]) -> list[Contender]:
    """Who plays, in the order of each round: the two kinds of packing one after the other."""
    found = []
    if "halny" in parts:
        found.append(Contender(halny(run.setting, "length"), CONCURRENCY, []))
    elif "packing" in parts:
        found.append(Contender(halny(run.setting, "length"), (FULL,), []))
    if "packing" in parts:
        found.append(Contender(halny(run.setting, "arrival"), (FULL,), []))
    for name, make in PEERS.items():
        if name in parts:
            best = _attempt(run, name, lambda name=name, make=make: _best_of(run, name, make))  # type: ignore[misc]
            if best:
                found.append(Contender(best, CONCURRENCY, []))
    return found


def _best_of(run: Run, name: str, make: Callable[[Setting, Layout], System]) -> System:
    return measures.best_layout(run, [make(run.setting, layout) for layout in peer_layouts(name)])


def _play(run: Run, contender: Contender) -> None:
    """One round; a system that failed once is not tried again."""
    if contender.lost:
        return
    outcomes = _attempt(
        run, contender.system.name, lambda: measures.closed_loops(run, contender.system, contender.concurrency)
    )
    if outcomes is None:
        contender.lost = True
    else:
        contender.rounds.append(outcomes)


def _attempt(run: Run, name: str, action: Callable[[], _T]) -> _T | None:
    try:
        return action()
    except _FAILURES as error:
        run.problem(f"{name} could not be measured: {error}")
        return None


def _parts(arguments: argparse.Namespace) -> set[str]:
    if arguments.only:
        return set(arguments.only)
    return {*_OWN_PARTS, *_DEFAULT_PEERS, *arguments.peers}


def _write_texts(source: Path, plan: Plan, folder: Path) -> Path:
    """A random choice of the texts, in random order, the same at every run."""
    lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) < BATCH:
        raise SystemExit(f"error: {source} holds {len(lines)} texts, at least {BATCH} are needed")
    random.Random(1).shuffle(lines)
    target = folder / "texts.txt"
    target.write_text("".join(f"{line}\n" for line in lines[: plan.texts]), encoding="utf-8")
    return target


def _names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return names

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Halny against a bare ONNX Runtime loop and other servers.")
    parser.add_argument("--binary", type=Path, required=True, help="the release binary of halny")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--peers", type=_names(tuple(PEERS)), default=[], help="more peers: infinity,triton")
    parser.add_argument(
        "--only", type=_names((*_OWN_PARTS, *PEERS)), help=f"parts alone: {','.join((*_OWN_PARTS, *PEERS))}"
    )
    parser.add_argument("--texts", type=Path, help="one text a line [default: Debian's descriptions]")
    parser.add_argument("--count", type=int, help="texts taken from the file")
    parser.add_argument("--quick", action="store_true", help="one short round, to try things out")
    parser.add_argument(
        "--keep", type=results.result_name, metavar="NAME", help="keep the result as bench/results/NAME"
    )
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (subprocess.SubprocessError, OSError) as failure:
        sys.exit(f"error: {failure}")
