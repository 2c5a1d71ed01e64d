"""The result of `make bench-llm` as text, and as the files that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from results import Aim, aims_table, machine_lines, table, write

_Json = dict[str, Any]

#: What each column shows, and how many digits follow the point. Lengths of time are in milliseconds.
_WORK = {
    "tokens_per_s": ("tokens/s", 1),
    "first_token_p50_ms": ("first token P50", 0),
    "first_token_p95_ms": ("P95", 0),
    "gap_p50_ms": ("between tokens P50", 1),
    "gap_p95_ms": ("P95", 1),
}
_LONG = {
    "gap_p95_before_ms": ("between tokens P95, before", 1),
    "gap_p95_during_ms": ("while it is read", 1),
    "gap_growth": ("growth", 2),
    "long_first_token_ms": ("its first token", 0),
}
_LONG_PARTS = ("c",)
_NAMES = {
    "a1": "conversations, 1 client",
    "a4": "4 clients",
    "a8": "8 clients",
    "a16": "16 clients",
    "b": "16 prompts that begin alike",
    "c": "a long prompt beside streams",
}


def tables(result: _Json) -> str:
    """The figures as Markdown, which reads well in a terminal too."""
    parts = result["systems"]["halny"]
    found = [
        _table(result, [part for part in parts if part not in _LONG_PARTS], _WORK),
        _table(result, [part for part in parts if part in _LONG_PARTS], _LONG),
    ]
    found.append(aims_table([aim.as_json() for aim in aims(result["keys"])]))
    return "\n\n".join(text for text in found if text)


def aims(keys: dict[str, float]) -> list[Aim]:
    """Every promise that was measured, beside its figure."""
    promised = [("tps_ratio_1", 0.97, False), ("tps_ratio_8", 1.05, False), ("tps_ratio_16", 1.05, False)]
    promised += [("shared_prefix_time_ratio", 0.5, True), ("long_prompt_gap_growth", 2.0, True)]
    return [Aim(name, keys[name], limit, at_most) for name, limit, at_most in promised if name in keys]


def last_line(keys: dict[str, float]) -> str:
    """`bench-llm: key=value ...`."""
    return " ".join(["bench-llm:", *(f"{key}={value}" for key, value in keys.items())])


def keep(result: _Json, picture: str, folder: Path, name: str) -> None:
    """Writes `NAME.json`, `NAME.md` and `NAME.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{name}.json", json.dumps(result, indent=1) + "\n")
    write(folder / f"{name}.svg", picture)
    settings = result["settings"]
    lines = [
        f"# {settings['model']}, on {settings['device']}, {result['machine']['date']}",
        "",
        *machine_lines(result["machine"]),
        f"- {settings['threads']} threads, {settings['cells']:,} cells, {settings['slots']} requests at once, lengths of the "
        f"conversations divided by {settings['scale']}, medians of {settings['rounds']} rounds",
        "",
        tables(result),
        "",
        f"![Tokens a second, and the times to the first token and between tokens]({name}.svg)",
        "",
        f"    {last_line(result['keys'])}",
    ]
    write(folder / f"{name}.md", "\n".join(lines) + "\n")


def _table(result: _Json, parts: list[str], columns: dict[str, tuple[str, int]]) -> str:
    rows = [["work", "server", *(title for title, _ in columns.values())]]
    for part in parts:
        for name, figures in result["systems"].items():
            shown = [f"{figures[part][key]:,.{digits}f}" for key, (_, digits) in columns.items()]
            rows.append([_NAMES[part], name, *shown])
    return table(rows) if parts else ""
