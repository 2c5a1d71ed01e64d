"""`make bench-features`: one row of 250 features over HTTP, Halny beside Feast's feature server, in one run.

What is measured, and what each key of the last line means, stands in `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import machine
from load import LoadError, Outcome, Shape, drive
from measures import median
from peers import features_data as data
from peers.children import free_port
from processes import wait_for_quiet
from results import Aim, machine_lines, result_name, table, write
from servers import Request, Server, ServerError, System, asked, running, stop_on_sigterm

SCHEMA = "halny-bench-features/1"
BENCH = Path(__file__).resolve().parent
_OUTPUT = BENCH.parent / "target" / "bench"
_Json = dict[str, Any]
FEATURES, VIEWS = 250, 5
#: Requests a second that are promised a P99, and that Feast's server holds on two cores: it is full near 90.
RATE, PEER_RATE = 500.0, 60.0
P99_MS = 1.5
#: Rows of the table that each server's answers are compared with.
_COMPARED = 20
_PACKAGES = ("feast", "pyarrow", "numpy")


@dataclass(frozen=True)
class Plan:
    """How long everything takes."""

    rounds: int
    warm_up_s: float
    window_s: float
    entities: int
    #: Waited at most before each measurement for a machine that others leave alone.
    patience_s: float


FULL = Plan(3, 3.0, 20.0, 10_000, 20.0)
QUICK = Plan(1, 1.0, 5.0, 2_000, 3.0)


@dataclass(frozen=True)
class Measured:
    """A server under load: which, how many requests a second, and in which form."""

    name: str
    system: Callable[[], System]
    rates: tuple[float, ...]
    prepare: Callable[[Server], None] = lambda server: None


@dataclass
class Run:
    """One whole run: what is given, and what goes wrong on the way."""

    plan: Plan
    binary: Path
    scratch: Path
    texts: Path
    #: By view.
    tables: dict[str, Path]
    problems: list[str] = field(default_factory=list)


def main() -> int:
    """Measures, prints, writes; 1 where a figure is doubtful."""
    arguments = _parser().parse_args()
    stop_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="halny-bench-") as folder:
        result = _measure(arguments, Path(folder))
    _OUTPUT.mkdir(parents=True, exist_ok=True)
    write(_OUTPUT / "features.json", json.dumps(result, indent=1) + "\n")
    if arguments.keep:
        _keep(result, arguments.keep)
    print(f"\n{_tables(result)}\n\n{_OUTPUT / 'features.json'}")
    print(_last_line(result["keys"]), flush=True)
    return 1 if result["failed"] else 0


def _measure(arguments: argparse.Namespace, scratch: Path) -> _Json:
    plan = QUICK if arguments.quick else FULL
    ours = scratch / "halny"
    ours.mkdir()
    tables = data.write(ours, plan.entities, VIEWS, FEATURES // VIEWS)
    texts = scratch / "entities.txt"
    chosen = np.random.default_rng(7).integers(0, plan.entities, 20_000)
    texts.write_text("".join(f"{number}\n" for number in chosen), encoding="utf-8")
    run = Run(plan, arguments.binary.absolute(), scratch, texts, tables)
    systems = [Measured("halny", lambda: _halny(run), (RATE, PEER_RATE), _materialise)]
    if not arguments.alone:
        systems.append(Measured("feast", lambda: _feast(run, "wide"), (PEER_RATE,)))
        systems.append(Measured("feast-precomputed", lambda: _feast(run, "wide_precomputed"), (PEER_RATE,)))
    measured = {one.name: _rounds(run, one) for one in systems}
    result: _Json = {
        "schema": SCHEMA,
        "machine": machine.describe(run.binary, machine.versions(_PACKAGES)),
        "settings": {
            "features": FEATURES,
            "views": VIEWS,
            "entities": plan.entities,
            "rounds": plan.rounds,
            "window_s": plan.window_s,
            "quick": arguments.quick,
        },
        "systems": measured,
        "problems": run.problems,
        "failed": bool(run.problems),
    }
    result["keys"] = _keys(measured)
    aims = [Aim(f"P99 at {RATE:g} requests a second, ms", result["keys"].get("p99_ms"), P99_MS, True)]
    result["aims"] = [aim.as_json() for aim in aims if aim.value is not None]
    return result


def _rounds(run: Run, measured: Measured) -> _Json:
    """Every rate, in rounds: the server is started anew in each."""
    outcomes: dict[float, list[Outcome]] = {rate: [] for rate in measured.rates}
    for number in range(run.plan.rounds):
        print(f"[bench] {measured.name}, round {number + 1} of {run.plan.rounds}", flush=True)
        try:
            with running(measured.system(), run.scratch) as server:
                measured.prepare(server)
                run.problems += _compare(run, measured.name, server)
                for rate in measured.rates:
                    foreign = wait_for_quiet(run.plan.patience_s)
                    if foreign >= 0.15:
                        print(f"[bench] others take {foreign:.0%} of the machine", flush=True)
                    shape = Shape(run.plan.window_s, run.plan.warm_up_s, rate_per_s=rate, seed=number + 1)
                    outcomes[rate].append(drive(run.binary, server, run.texts, shape))
        except (ServerError, LoadError) as error:
            run.problems.append(f"{measured.name}: {error}")
            break
    return {f"{rate:g}": _condensed(run, measured.name, of) for rate, of in outcomes.items() if of}


def _condensed(run: Run, name: str, outcomes: list[Outcome]) -> _Json:
    failed = sum(int(outcome.report["failed"]) + int(outcome.report["refused"]) for outcome in outcomes)
    if failed:
        run.problems.append(f"{name}: {failed} requests failed")
    figures = {name: [outcome.latency_ms(name) for outcome in outcomes] for name in ("p50", "p95", "p99", "max")}
    return {
        "requests_per_s": median(outcome.requests_per_s for outcome in outcomes),
        **{f"{name}_ms": median(values) for name, values in figures.items()},
        "cpu_ms_per_request": median(outcome.cpu_s_per_1000 for outcome in outcomes),
        "foreign_share_max": max(round(outcome.foreign_share, 3) for outcome in outcomes),
        "rounds": [outcome.condensed() for outcome in outcomes],
    }


def _request(body: _Json) -> Request:
    # The answer is compared whole, not as a vector.
    return Request("/get-online-features", {**body, "entities": {data.KEY: ["{json}"]}}, lambda _: [])


def _halny(run: Run) -> System:
    folder = run.scratch / "halny"
    project = folder / "halny.toml"

    def command(port: int) -> list[str]:
        project.write_text(_project(port, run.tables), encoding="utf-8")
        return [str(run.binary), "serve", "--project", str(project)]

    return System("halny", command, _request({"feature_service": "wide"}), "/health")


def _project(port: int, tables: dict[str, Path]) -> str:
    kinds = {pa.float32(): "float32", pa.int64(): "int64", pa.string(): "string"}
    parts = [
        f"""\
[server]
address = "127.0.0.1:{port}"
admin_address = "127.0.0.1:{free_port()}"
[[entities]]
name = "user"
join_key = "{data.KEY}"
value_type = "int64"
[[feature_services]]
name = "wide"
features = {json.dumps(list(tables))}
"""
    ]
    for number, (view, file) in enumerate(tables.items()):
        features = data.features_of(number, FEATURES // VIEWS).items()
        listed = ", ".join(f'{{ name = "{name}", type = "{kinds[kind]}" }}' for name, kind in features)
        parts.append(
            f"""\
[[feature_views]]
name = "{view}"
entities = ["user"]
ttl_s = 86400
features = [{listed}]
source = {{ batch = {{ path = {json.dumps(str(file))} }} }}
"""
        )
    return "\n".join(parts)


def _materialise(server: Server) -> None:
    asked("POST", f"{server.url}/materialize-incremental", {"end_ts": datetime.now(UTC).isoformat()})


def _feast(run: Run, service: str) -> System:
    folder = run.scratch / f"feast-{service}-{free_port()}"

    def command(port: int) -> list[str]:
        folder.mkdir()
        program = [sys.executable, str(BENCH / "peers" / "features_feast.py"), str(folder), "--port", str(port)]
        sizes = ["--entities", str(run.plan.entities), "--features", str(FEATURES), "--views", str(VIEWS)]
        return [*program, *sizes, *([] if service == "wide_precomputed" else ["--no-precompute"])]

    body: _Json = {"feature_service": service}
    if service == "wide_precomputed":
        body["full_feature_names"] = True
    return System("feast", command, _request(body), "/health")


def _compare(run: Run, name: str, server: Server) -> list[str]:
    """What is wrong with the server's answers, against the table itself."""
    numbers = np.random.default_rng(3).integers(0, run.plan.entities, _COMPARED).tolist()
    body = {**server.system.request.template, "entities": {data.KEY: numbers}}
    answer = asked("POST", f"{server.url}/get-online-features", body)
    names = [str(one).rpartition("__")[2] for one in answer["metadata"]["feature_names"]]
    found = dict(zip(names, (column["values"] for column in answer["results"])))
    wrong = []
    for file in run.tables.values():
        rows = pq.read_table(file).take(numbers)
        for column in rows.column_names:
            if column not in (data.KEY, data.TIMESTAMP) and found.get(column) != rows[column].to_pylist():
                wrong.append(f"{name}: the values of {column} are not those of the table")
    return wrong[:3]


def _keys(systems: _Json) -> dict[str, float]:
    def p99(name: str, rate: float) -> float | None:
        value: float | None = systems.get(name, {}).get(f"{rate:g}", {}).get("p99_ms")
        return value

    ours, beside = p99("halny", RATE), p99("halny", PEER_RATE)
    found = {"p99_ms": ours}
    for name, key in (("feast", "p99_vs_feast"), ("feast-precomputed", "p99_vs_feast_precomputed")):
        theirs = p99(name, PEER_RATE)
        found[key] = beside / theirs if beside and theirs else None
    return {name: value for name, value in found.items() if value is not None}


def _last_line(values: dict[str, float]) -> str:
    return " ".join(["bench-features:", *(f"{name}={value:.3g}" for name, value in values.items())])


def _tables(result: _Json) -> str:
    rows = [["system", "requests/s", "P50 ms", "P95 ms", "P99 ms", "max ms", "CPU ms a request", "others' CPU"]]
    for name, rates in result["systems"].items():
        for rate, of in rates.items():
            times = [_number(of[f"{each}_ms"]) for each in ("p50", "p95", "p99", "max")]
            rows.append([name, rate, *times, _number(of["cpu_ms_per_request"]), f"{of['foreign_share_max']:.0%}"])
    parts = [table(rows)]
    for aim in result["aims"]:
        parts.append(f"{aim['name']}: {aim['value']:.2f}, {aim['aim']}: {'met' if aim['met'] else 'not met'}")
    if result["problems"]:
        parts.append("Problems:\n" + "\n".join(f"- {problem}" for problem in result["problems"]))
    return "\n\n".join(parts)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def _keep(result: _Json, name: str) -> None:
    folder, settings = BENCH / "results", result["settings"]
    write(folder / f"{name}.json", json.dumps(result, indent=1) + "\n")
    lines = [
        f"# One row of {settings['features']} features, {result['machine']['date']}",
        "",
        *machine_lines(result["machine"]),
        f"- {settings['views']} views of {settings['entities']:,} entities, {settings['rounds']} rounds of "
        f"{settings['window_s']:g} s{', a quick run' if settings['quick'] else ''}",
        "",
        _tables(result),
        "",
        f"    {_last_line(result['keys'])}",
    ]
    write(folder / f"{name}.md", "\n".join(lines) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="One row of 250 features over HTTP, beside Feast's feature server.")
    parser.add_argument("--binary", type=Path, required=True, help="the release binary of halny")
    parser.add_argument("--alone", action="store_true", help="without Feast")
    parser.add_argument("--quick", action="store_true", help="one short round, to try things out")
    parser.add_argument("--keep", type=result_name, metavar="NAME", help="keep the result as bench/results/NAME")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as failure:
        sys.exit(f"error: {failure}")
