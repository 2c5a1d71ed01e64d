"""The limit: a bare ONNX Runtime loop over texts, with no server around it.

Texts in, vectors out: tokenising is part of it, as a server has to do it too, and the figure
without it is given beside. Processor time is what the kernel counts for the processes
(`getrusage`), after a warm-up and without the time to load the graph.

Run as a program it prints one JSON object; the processes it starts run at the same time, each on
its share of the texts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from onnx_embedder import OnnxEmbedder, limit_threads

#: A process that has not loaded its graph by then never will.
_START_TIMEOUT_S = 180.0
_RUN_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Work:
    """What one process is given."""

    graph: Path
    tokenizer: Path
    texts: list[str]
    threads: int
    batch: int
    order: str


@dataclass(frozen=True)
class Spent:
    """What one process spent on its share."""

    texts: int
    tokens: int
    cells: int
    begin_s: float
    end_s: float
    tokenise_cpu_s: float
    run_cpu_s: float
    run_s: float


def main() -> None:
    """Runs the loop and prints what it took."""
    arguments = _parser().parse_args()
    texts = arguments.texts.read_text(encoding="utf-8").splitlines()
    if arguments.count:
        texts = texts[: arguments.count]
    if len(texts) < arguments.processes:
        raise SystemExit(f"error: {arguments.texts} holds {len(texts)} texts, which is too few")
    shares = [texts[index :: arguments.processes] for index in range(arguments.processes)]
    works = [
        Work(arguments.graph, arguments.tokenizer, share, arguments.threads, arguments.batch, arguments.order)
        for share in shares
    ]
    spent = _run_together(works)
    settings = {"processes": arguments.processes, "threads": arguments.threads, "order": arguments.order}
    print(json.dumps({**settings, **_figures(spent)}))


def _run_together(works: list[Work]) -> list[Spent]:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(works))
    pipes = [context.Pipe(duplex=False) for _ in works]
    processes = [
        context.Process(target=_process, args=(work, barrier, sender), daemon=True)
        for work, (_, sender) in zip(works, pipes)
    ]
    for process in processes:
        process.start()
    # Closed here, so that a process that dies ends the wait for it.
    for _, sender in pipes:
        sender.close()
    spent = []
    for receiver, _ in pipes:
        if not receiver.poll(_START_TIMEOUT_S + _RUN_TIMEOUT_S):
            raise SystemExit("error: the bare loop did not end in time")
        spent.append(receiver.recv())
    for process in processes:
        process.join(10)
    return spent


def _process(work: Work, barrier: Barrier, sender: Connection) -> None:
    limit_threads(work.threads)
    embedder = OnnxEmbedder(work.graph, work.tokenizer, work.threads)
    _warm_up(embedder, work)
    barrier.wait(_START_TIMEOUT_S)
    sender.send(_measure(embedder, work))


def _warm_up(embedder: OnnxEmbedder, work: Work) -> None:
    """A tenth of the work, spread over all lengths, so that buffers of every size exist."""
    rows = embedder.tokenise(work.texts)
    for batch in list(_batches(rows, work.batch, work.order))[::10]:
        embedder.run([rows[index] for index in batch])


def _measure(embedder: OnnxEmbedder, work: Work) -> Spent:
    begin_s, begin_cpu_s = time.monotonic(), _cpu_s()
    rows = embedder.tokenise(work.texts)
    run_begin_s, run_begin_cpu_s = time.monotonic(), _cpu_s()
    cells = 0
    for batch in _batches(rows, work.batch, work.order):
        chosen = [rows[index] for index in batch]
        cells += len(chosen) * max(len(row) for row in chosen)
        embedder.run(chosen)
    end_s, end_cpu_s = time.monotonic(), _cpu_s()
    return Spent(
        texts=len(rows),
        tokens=sum(len(row) for row in rows),
        cells=cells,
        begin_s=begin_s,
        end_s=end_s,
        tokenise_cpu_s=run_begin_cpu_s - begin_cpu_s,
        run_cpu_s=end_cpu_s - run_begin_cpu_s,
        run_s=end_s - run_begin_s,
    )


def _batches(rows: list[list[int]], size: int, order: str) -> Iterator[list[int]]:
    """Indices of each batch.

    `sorted`: all rows by length, the batches then in random order, so that each moment of the run
    looks like any other. `window:N`: by length within each N that arrive together, which is what a
    server sees that has N requests in flight. `arrival`: as they come.
    """
    indices = list(range(len(rows)))
    whole = {"sorted": len(rows), "arrival": 1}
    window = whole[order] if order in whole else int(order.removeprefix("window:"))
    if window > 1:
        indices = [
            index
            for start in range(0, len(rows), window)
            for index in sorted(indices[start : start + window], key=lambda index: len(rows[index]))
        ]
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    if order == "sorted":
        random.Random(1).shuffle(batches)
    return iter(batches)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _figures(spent: list[Spent]) -> dict[str, float]:
    texts = sum(one.texts for one in spent)
    wall_s = max(one.end_s for one in spent) - min(one.begin_s for one in spent)
    run_cpu_s = sum(one.run_cpu_s for one in spent)
    cpu_s = run_cpu_s + sum(one.tokenise_cpu_s for one in spent)
    return {
        "texts": texts,
        "tokens_mean": sum(one.tokens for one in spent) / texts,
        "padding_share": 1 - sum(one.tokens for one in spent) / sum(one.cells for one in spent),
        "embeddings_per_s": texts / wall_s,
        "cpu_s_per_1000": 1000 * cpu_s / texts,
        "embeddings_per_s_without_tokenising": texts / max(one.run_s for one in spent),
        "cpu_s_per_1000_without_tokenising": 1000 * run_cpu_s / texts,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A bare ONNX Runtime loop over texts.")
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="one text a line")
    parser.add_argument("--count", type=int, help="the first COUNT texts only")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--order", default="sorted", help="sorted, window:N or arrival")
    return parser


if __name__ == "__main__":
    main()
