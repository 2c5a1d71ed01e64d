"""`make bench-llm`: Halny against llama.cpp's own server, in one run.

What is measured, and what each key of the last line means, stands in `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
from peers.cache import CACHE
from results import result_name
from servers import ServerError, running, stop_on_sigterm
from streaming import picture, report
from streaming.asks import SCALE, Texts
from streaming.streams import Ask, StreamError, Told, closed_loop, stream, together
from streaming.systems import CELLS, MODEL, RUNNING, Setting, halny, llama_server

BENCH = Path(__file__).resolve().parent
_OUTPUT = BENCH.parent / "target" / "bench"
_CONCURRENCY = (1, 4, 8, 16)
_ROUNDS = 3
_PREFIX, _OWN, _SHARED_TOKENS = 512, 16, 32
_LONG_PROMPT, _STREAMS = 2_000, 4
_Json = dict[str, Any]


def main() -> int:
    """Measures, prints, writes; 1 where something went wrong that makes the figures doubtful."""
    arguments = _parser().parse_args()
    stop_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="halny-bench-") as folder:
        setting = Setting(
            arguments.binary.absolute(),
            arguments.peer.absolute(),
            CACHE / "models" / "gemma3-270m" / "model.gguf",
            CACHE / "data" / "debian-descriptions.txt",
            Path(folder),
            arguments.threads or len(os.sched_getaffinity(0)),
            arguments.device,
        )
        try:
            result = _measure(setting, arguments)
        except (ServerError, StreamError, OSError) as error:
            print(f"bench-llm: {error}", file=sys.stderr)
            return 1
    drawn = picture.picture(result)
    report.keep(result, drawn, _OUTPUT, "llm")
    if arguments.keep:
        report.keep(result, drawn, BENCH / "results", arguments.keep)
    print(f"\n{report.tables(result)}\n\n{report.last_line(result['keys'])}", flush=True)
    return 0


def _measure(setting: Setting, arguments: argparse.Namespace) -> _Json:
    systems = [halny(setting), llama_server(setting)]
    found: dict[str, dict[str, list[_Json]]] = {system.name: {} for system in systems}
    with running(systems[1], setting.scratch) as server:
        texts = Texts(server.port, setting.corpus, seed=11)
    # Each request is asked once: what a server remembers of a round must not help it in the next.
    for number in range(1, (1 if arguments.quick else _ROUNDS) + 1):
        works = _works(texts, arguments)
        for system in systems if number % 2 else reversed(systems):
            print(f"[bench] round {number}: {system.name}", file=sys.stderr, flush=True)
            with running(system, setting.scratch) as server:
                for name, work in works.items():
                    found[system.name].setdefault(name, []).append(work(server.port))
    summed = {name: {part: _median(rounds) for part, rounds in parts.items()} for name, parts in found.items()}
    return {
        "schema": "halny-bench-llm/1",
        "machine": machine.describe(setting.binary, {"llama.cpp": machine.llama_cpp(setting.peer)}),
        "settings": {
            "model": "Gemma 3 270M, Q4_K_M",
            "threads": setting.threads,
            "device": setting.device,
            "cells": CELLS,
            "slots": RUNNING,
            "scale": SCALE,
            "rounds": 1 if arguments.quick else _ROUNDS,
        },
        "systems": summed,
        "rounds": found,
        "keys": _keys(summed),
    }


def _works(texts: Texts, arguments: argparse.Namespace) -> dict[str, Callable[[int], _Json]]:
    """The measurements of a round; both systems get the same prompts."""
    parts = set(arguments.only or ("a", "b", "c"))
    works: dict[str, Callable[[int], _Json]] = {}
    for clients in _CONCURRENCY if "a" in parts else ():
        asks = texts.conversations(max(6, clients * (2 if arguments.quick else 3)))
        works[f"a{clients}"] = lambda port, asks=asks, clients=clients: _conversations(port, asks, clients)
    if "b" in parts:
        asks = texts.sharing(RUNNING, _PREFIX, _OWN, _SHARED_TOKENS)
        works["b"] = lambda port, asks=asks: _conversations(port, asks, RUNNING)
    if "c" in parts:
        streams = [Ask(texts.cut(40), 4_000) for _ in range(_STREAMS)]
        long = Ask(texts.cut(_LONG_PROMPT), 1)
        works["c"] = lambda port, streams=streams, long=long: _beside_a_long_prompt(port, streams, long)
    return works


def _conversations(port: int, asks: list[Ask], clients: int) -> _Json:
    told = closed_loop(port, MODEL, asks, clients)
    took_s = max(one.ended_s for one in told) - min(one.began_s for one in told)
    tokens = sum(one.completion_tokens for one in told)
    asked = sum(one.ask.max_tokens for one in told)
    if tokens != asked:
        raise StreamError(f"{asked} tokens were asked for, {tokens} came")
    gaps_ms = [gap * 1e3 for one in told for gap in one.gaps_s]
    return {
        "took_s": took_s,
        "tokens_per_s": tokens / took_s,
        "first_token_p50_ms": _quantile([one.first_s * 1e3 for one in told], 0.5),
        "first_token_p95_ms": _quantile([one.first_s * 1e3 for one in told], 0.95),
        "gap_p50_ms": _quantile(gaps_ms, 0.5),
        "gap_p95_ms": _quantile(gaps_ms, 0.95),
    }


def _beside_a_long_prompt(port: int, streams: list[Ask], long: Ask) -> _Json:
    """Four streams; after a while a long prompt comes. Gaps before it, and while it is being read."""
    zero_s = time.monotonic()
    stop, flowing = threading.Event(), threading.Barrier(len(streams) + 1)
    told: list[Told] = []
    moments: list[float] = []

    def watch(ask: Ask) -> None:
        flowing.wait()
        told.append(stream(port, MODEL, ask, zero_s, stop))

    def disturb() -> None:
        flowing.wait()
        time.sleep(8)
        moments.append(time.monotonic() - zero_s)
        stream(port, MODEL, long, zero_s)
        moments.append(time.monotonic() - zero_s)
        stop.set()

    together([lambda ask=ask: watch(ask) for ask in streams] + [disturb])
    begin_s, end_s = moments
    quiet, disturbed = [], []
    for one in told:
        for earlier, later in zip(one.events_s, one.events_s[1:], strict=False):
            # The first two seconds are the streams' own prompts.
            if 2 < earlier - one.began_s and later <= begin_s:
                quiet.append((later - earlier) * 1e3)
            elif later > begin_s and earlier < end_s:
                disturbed.append((later - earlier) * 1e3)
    before, during = _quantile(quiet, 0.95), _quantile(disturbed, 0.95)
    return {
        "gap_p95_before_ms": before,
        "gap_p95_during_ms": during,
        "gap_growth": during / before,
        "long_first_token_ms": (end_s - begin_s) * 1e3,
    }


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _median(rounds: list[_Json]) -> _Json:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def _keys(systems: dict[str, dict[str, _Json]]) -> dict[str, float]:
    ours, theirs = systems["halny"], systems["llama-server"]
    keys = {}
    for clients in (1, 8, 16):
        part = f"a{clients}"
        if part in ours:
            keys[f"tps_ratio_{clients}"] = round(ours[part]["tokens_per_s"] / theirs[part]["tokens_per_s"], 3)
    if "b" in ours:
        keys["shared_prefix_time_ratio"] = round(ours["b"]["took_s"] / theirs["b"]["took_s"], 3)
    if "c" in ours:
        keys["long_prompt_gap_growth"] = round(ours["c"]["gap_growth"], 2)
    return keys


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measures Halny's language models against llama.cpp's own server.")
    parser.add_argument("--binary", type=Path, required=True, help="the halny binary, built for release")
    parser.add_argument("--peer", type=Path, required=True, help="llama-server of the same release of llama.cpp")
    parser.add_argument("--threads", type=int, help="processor threads of each (all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0 (cpu)")
    parser.add_argument("--only", nargs="*", choices=("a", "b", "c"), help="parts to measure (all)")
    parser.add_argument("--quick", action="store_true", help="one round of few requests: whether it works at all")
    parser.add_argument("--keep", type=result_name, metavar="NAME", help="keep the result as bench/results/NAME")
    return parser


if __name__ == "__main__":
    sys.exit(main())
