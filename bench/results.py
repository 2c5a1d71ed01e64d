"""From measurements to figures: medians over rounds, the keys of the last line, tables, and what is kept."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import Outcome
from measures import DEADLINE_MS, FULL, median

SCHEMA = "halny-bench-embed/1"
Result = dict[str, Any]


@dataclass(frozen=True)
class Aim:
    """What a figure should be."""

    name: str
    value: float | None
    limit: float
    at_most: bool

    @property
    def met(self) -> bool | None:
        """Whether it is; nothing where it was not measured."""
        if self.value is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def as_json(self) -> Result:
        """For the result file."""
        return {
            "name": self.name,
            "value": self.value,
            "aim": f"{'at most' if self.at_most else 'at least'} {self.limit:g}",
            "met": self.met,
        }


def of_rounds(layout: str, rounds: list[dict[int, Outcome]]) -> Result:
    """One system's figures at each concurrency: medians, and every round for whoever doubts them."""
    at: Result = {}
    for connections in rounds[0] if rounds else ():
        outcomes = [outcomes[connections] for outcomes in rounds]
        at[str(connections)] = {
            "requests_per_s": median(outcome.requests_per_s for outcome in outcomes),
            "p50_ms": median(outcome.latency_ms("p50") for outcome in outcomes),
            "p95_ms": median(outcome.latency_ms("p95") for outcome in outcomes),
            "cpu_s_per_1000": median(outcome.cpu_s_per_1000 for outcome in outcomes),
            "foreign_share_max": max(round(outcome.foreign_share, 3) for outcome in outcomes),
            "rounds": [outcome.condensed() for outcome in outcomes],
        }
    return {"layout": layout, "at": at}


def of_bare(rounds: list[Result]) -> Result:
    """The bare loop's medians."""
    names = [name for name, value in rounds[0].items() if isinstance(value, float)]
    settings = {name: value for name, value in rounds[0].items() if name not in names}
    medians = {name: median(one[name] for one in rounds) for name in names}
    return {**settings, **medians, "foreign_share": max(one["foreign_share"] for one in rounds), "rounds": rounds}


def keys(result: Result) -> dict[str, float]:
    """The figures of the last line, those that were measured."""
    bare, systems = result.get("bare") or {}, result["systems"]
    ours = _at_full(systems, "halny", "requests_per_s")
    found: dict[str, float | None] = {
        "server_tax": ratio(_at_full(systems, "halny", "cpu_s_per_1000"), bare.get("cpu_s_per_1000")),
        "packing_gain": ratio(ours, _at_full(systems, "halny-arrival", "requests_per_s")),
        "p95_over_p50_half_load": (result.get("half_load") or {}).get("ratio"),
        "goodput_overload": (result.get("overload") or {}).get("goodput_over_capacity"),
    }
    for name in systems:
        if not name.startswith("halny"):
            found[f"vs_{name}"] = ratio(ours, _at_full(systems, name, "requests_per_s"))
    return {name: value for name, value in found.items() if value is not None}


def aims(result: Result) -> list[Aim]:
    """Every promise, beside its figure."""
    values, overload = result["keys"], result.get("overload") or {}
    found = [
        Aim("server_tax", values.get("server_tax"), 1.15, True),
        Aim("packing_gain", values.get("packing_gain"), 1.3, False),
        Aim("p95_over_p50_half_load", values.get("p95_over_p50_half_load"), 2.0, True),
        Aim("goodput_overload", values.get("goodput_overload"), 0.9, False),
        # From when it was sent: the server cannot know when a late generator meant to send it.
        Aim("overload: slowest answer, ms", overload.get("service_max_ms"), DEADLINE_MS, True),
        Aim("overload: accepted and then too late", overload.get("accepted_and_too_late"), 0, True),
        Aim("overload: P99 of refusals, ms", overload.get("refusal_p99_ms"), 10, True),
        Aim("overload: memory at the end over the start", overload.get("rss_growth"), 1.05, True),
    ]
    peers = [name for name in values if name.startswith("vs_")]
    return [aim for aim in found + [Aim(name, values[name], 1.5, False) for name in peers] if aim.value is not None]


def last_line(values: dict[str, float]) -> str:
    """`bench-embed: key=value ...`."""
    return " ".join(["bench-embed:", *(f"{name}={value:.2f}" for name, value in values.items())])


def tables(result: Result) -> str:
    """The figures as Markdown, which reads well in a terminal too."""
    parts = []
    if result.get("bare") or result["systems"]:
        parts.append(_systems_table(result))
    if result.get("bare_orders"):
        parts.append(_orders_table(result))
    if result["aims"]:
        parts.append(aims_table(result["aims"]))
    if result["problems"]:
        parts.append("Problems:\n" + "\n".join(f"- {problem}" for problem in result["problems"]))
    return "\n\n".join(parts)


def keep(result: Result, picture: str, folder: Path, name: str) -> None:
    """Writes `NAME.json`, `NAME.md` and `NAME.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{name}.json", json.dumps(result, indent=1) + "\n")
    write(folder / f"{name}.svg", picture)
    machine, settings = result["machine"], result["settings"]
    lines = [
        f"# Embeddings, {settings['precision']}, {machine['date']}",
        "",
        *machine_lines(machine),
        f"- {settings['texts']} texts of {settings['tokens_mean']} tokens on average, {settings['rounds']} rounds of "
        f"{settings['window_s']:g} s{', a quick run' if settings['quick'] else ''}",
        "",
        tables(result),
        "",
        f"![Throughput, latency and processor time]({name}.svg)",
        "",
        f"    {last_line(result['keys'])}",
    ]
    write(folder / f"{name}.md", "\n".join(lines) + "\n")


def machine_lines(machine: Result) -> list[str]:
    """Where a result comes from, as a Markdown list."""
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    return [
        f"- {machine['processor']}, {machine['cores']} cores, {' '.join(machine['instructions'])}, "
        f"{machine['memory_gib']} GiB",
        f"- {machine['system']}, Python {machine['python']}",
        f"- {versions}; commit {machine['commit']}",
    ]


def result_name(text: str) -> str:
    """A name under which a result is kept, of a command line."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", text):
        raise argparse.ArgumentTypeError("a name is made of a-z, 0-9, `.`, `_` and `-`")
    return text


def write(path: Path, text: str) -> None:
    """Replaces the file in one step."""
    part = path.with_name(f"{path.name}.tmp")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _systems_table(result: Result) -> str:
    rows = [["system", "layout", "in flight", "texts/s", "P50 ms", "P95 ms", "CPU s per 1,000", "others' CPU"]]
    bare = result.get("bare")
    if bare:
        rate, cpu, share = (bare[name] for name in ("embeddings_per_s", "cpu_s_per_1000", "foreign_share"))
        rows.append(["bare loop", bare["layout"], "", _number(rate, 0), "", "", _number(cpu, 2), f"{share:.0%}"])
        rate, cpu = (bare[f"{name}_without_tokenising"] for name in ("embeddings_per_s", "cpu_s_per_1000"))
        rows.append(["  without tokenising", bare["layout"], "", _number(rate, 0), "", "", _number(cpu, 2), ""])
    for name, system in result["systems"].items():
        for connections, figures in system["at"].items():
            rows.append(
                [
                    name,
                    system["layout"],
                    connections,
                    _number(figures["requests_per_s"], 0),
                    _number(figures["p50_ms"], 1),
                    _number(figures["p95_ms"], 1),
                    _number(figures["cpu_s_per_1000"], 2),
                    f"{figures['foreign_share_max']:.0%}",
                ]
            )
    return table(rows)


def _orders_table(result: Result) -> str:
    rows = [["bare loop, order", "batch", "texts/s", "CPU s per 1,000", "padding"]]
    for one in result["bare_orders"]:
        rate, cpu = _number(one["embeddings_per_s"], 0), _number(one["cpu_s_per_1000"], 2)
        rows.append([one["order"], str(one["batch"]), rate, cpu, f"{one['padding_share']:.0%}"])
    return table(rows)


def aims_table(aims: list[Result]) -> str:
    """Every promise beside its figure; nothing where none was measured."""
    rows = [["figure", "value", "aim", "met"]]
    for aim in aims:
        rows.append([aim["name"], _number(aim["value"], 2), aim["aim"], "yes" if aim["met"] else "no"])
    return table(rows) if aims else ""


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _at_full(systems: Result, name: str, figure: str) -> float | None:
    at: Result = systems.get(name, {}).get("at", {})
    value: float | None = at.get(str(FULL), {}).get(figure)
    return value


def ratio(above: float | None, below: float | None) -> float | None:
    """One over the other, where both were measured."""
    return above / below if above and below else None


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
