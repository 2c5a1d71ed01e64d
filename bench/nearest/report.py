"""The result of `make bench-vectors` as keys, as tables, and as the files that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from results import Aim, aims_table, machine_lines, ratio, table, write

from nearest.curves import AtRecall, at_recall
from nearest.work import measured

_Json = dict[str, Any]
SCHEMA = "halny-bench-vectors/1"
#: The recall at which speeds are compared.
RECALL = 0.99
_FAST, _COMPACT, _FAISS, _FAISS_SINGLE = "halny-fast", "halny-compact", "faiss-ivfpq", "faiss-ivfpq-single"
_KEYED_PEERS = ("hnswlib", "usearch", "pgvector")
_PEERS = (*_KEYED_PEERS, "faiss-hnsw")
_MIB = 2**20


def keys(result: _Json) -> dict[str, float]:
    """The figures of the last line, those that were measured, of the first table."""
    first = next(iter(result["tables"].values()))
    found: dict[str, float | None] = {}
    ours = _at(first, _FAST).qps
    for peer in _KEYED_PEERS:
        found[f"qps_r99_vs_{peer}"] = ratio(ours, _at(first, peer).qps)
    found["ivfpq_bytes_share"] = first["loaded"].get(_COMPACT, {}).get("f32_share")
    if first["compact_default"]:
        found["ivfpq_recall"] = first["compact_default"]["recall"]
    found["ivfpq_qps_vs_faiss"] = _compact_ratio(first, _FAISS)
    rows = [row for rows in first["filtered"].values() for row in rows]
    found["filtered_recall_min"] = min((row["recall"] for row in rows), default=None)
    found["http_added_p50_ms"] = (result.get("http") or {}).get("added_p50_ms")
    found["p99_rebuild_vs_idle"] = (result["rebuilt"].get(_FAST) or {}).get("p99_vs_idle")
    return {name: value for name, value in found.items() if value is not None}


def aims(result: _Json) -> list[Aim]:
    """Every promise that was measured, beside its figure."""
    values, first = result["keys"], next(iter(result["tables"].values()))
    rows = [row for one in result["tables"].values() for rows in one["filtered"].values() for row in rows]
    slowest = min((row["vs_exact"] for row in rows), default=None)
    found = [Aim(name, value, 1.0, False) for name, value in values.items() if name.startswith("qps_r99_vs_")]
    found += [
        Aim("ivfpq_qps_vs_faiss", values.get("ivfpq_qps_vs_faiss"), 1.0, False),
        Aim("ivfpq_qps_vs_faiss, one query a call", _compact_ratio(first, _FAISS_SINGLE), 1.0, False),
        # The same work twice is never quite the same time.
        Aim("filters: the planner's speed over a scan's, at least", slowest, 0.95, False),
        Aim("p99_rebuild_vs_idle", values.get("p99_rebuild_vs_idle"), 3.0, True),
    ]
    return [aim for aim in found if aim.value is not None]


def notes(result: _Json) -> list[str]:
    """Why figures are not there."""
    found = []
    for name, one in result["tables"].items():
        for system in (_FAST, *_PEERS):
            if system in one["curves"] and (at := _at(one, system)).qps is None:
                found.append(f"{name}: {system} has no speed at recall {RECALL}: {at.why}")
        default = one["compact_default"]
        if default and _FAISS in one["curves"]:
            at = at_recall(measured(one["curves"][_FAISS]), default["recall"])
            if at.qps is None:
                found.append(f"{name}: {_FAISS} has no speed at {_COMPACT}'s recall: {at.why}")
    return found


def last_line(values: dict[str, float]) -> str:
    """`bench-vectors: key=value ...`."""
    return " ".join(["bench-vectors:", *(f"{name}={_short(value)}" for name, value in values.items())])


def tables(result: _Json) -> str:
    """The figures as Markdown, which reads well in a terminal too."""
    parts = []
    for name, one in result["tables"].items():
        parts += [f"{name}, {one['rows']:,} rows", _systems_table(one), _curves_table(one)]
        parts += [_filters_table(system, rows) for system, rows in one["filtered"].items()]
    parts += [_rebuilt_table(result["rebuilt"]), _http_table(result.get("http")), aims_table(result["aims"])]
    for title in ("notes", "problems"):
        if result[title]:
            parts.append(f"{title.capitalize()}:\n" + "\n".join(f"- {line}" for line in result[title]))
    return "\n\n".join(part for part in parts if part)


def keep(result: _Json, picture: str, folder: Path, name: str) -> None:
    """Writes `NAME.json`, `NAME.md` and `NAME.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{name}.json", json.dumps(result, indent=1) + "\n")
    write(folder / f"{name}.svg", picture)
    settings = result["settings"]
    lines = [
        f"# Nearest vectors, {result['machine']['date']}",
        "",
        *machine_lines(result["machine"]),
        f"- {settings['queries']:,} queries by one thread, medians of {settings['rounds']} rounds; indexes built by "
        f"{settings['threads']} threads{', a quick run' if settings['quick'] else ''}",
        "",
        tables(result),
        "",
        f"![Queries a second over recall]({name}.svg)",
        "",
        f"    {last_line(result['keys'])}",
    ]
    write(folder / f"{name}.md", "\n".join(lines) + "\n")


def _systems_table(one: _Json) -> str:
    rows = [
        [
            "system",
            "built, s",
            "index, MiB",
            "bytes a row",
            "resident, MiB",
            f"queries/s at {RECALL}",
            "a CPU second",
            "spread",
        ]
    ]
    for name, loaded in one["loaded"].items():
        at = _at(one, name)
        size = loaded["size_bytes"]
        rows.append(
            [
                name,
                f"{loaded['built_s']:.1f}",
                f"{size / _MIB:.1f}",
                f"{size / one['rows']:.0f}",
                f"{loaded['resident_bytes'] / _MIB:.0f}" if loaded.get("resident_bytes") else "",
                f"{at.qps:,.0f}" if at.qps else at.why if one["curves"] else "",
                _cpu(one, name),
                _spread(one["curves"].get(name, [])),
            ]
        )
    return table(rows)


def _cpu(one: _Json, name: str) -> str:
    """Queries at the recall in a second of processor time: what strangers on the machine take less from."""
    at = at_recall(measured(one["curves"].get(name, []), "per_cpu_s"), RECALL)
    return f"{at.qps:,.0f}" if at.qps else ""


def _spread(points: list[_Json]) -> str:
    """How far rounds lay from each other, in the middle of all settings."""
    ratios = sorted(point["qps_spread"][1] / point["qps_spread"][0] for point in points)
    return f"{ratios[len(ratios) // 2]:.2f}" if ratios else ""


def _curves_table(one: _Json) -> str:
    rows = [["system", "setting", "recall@10", "queries/s"]]
    for name, points in one["curves"].items():
        for point in points:
            setting = ", ".join(f"{key} {value}" for key, value in point["params"].items()) or "as by default"
            rows.append([name, setting, f"{point['recall']:.4f}", f"{point['qps']:,.0f}"])
    return table(rows) if one["curves"] else ""


def _filters_table(system: str, found: list[_Json]) -> str:
    rows = [[f"{system}, filter passes", "rows", "recall@10", "queries/s", "of a scan", "the planner's over it"]]
    for row in found:
        numbers = [f"{row['passing']:,}", f"{row['recall']:.4f}", f"{row['qps']:,.0f}", f"{row['exact_qps']:,.0f}"]
        rows.append([row["filter"], *numbers, f"{row['vs_exact']:.2f}"])
    return table(rows) if found else ""


def _rebuilt_table(rebuilt: _Json) -> str:
    rows = [["search", "while", "searches", "P50, ms", "P99, ms", "longest, ms", "P99 of CPU, ms"]]
    for name, told in rebuilt.items():
        for phase, title in _PHASES.items():
            seen = told[phase]
            figures = [f"{seen[key] / 1e3:.3f}" if seen[key] else "" for key in _TIMES]
            rows.append([name, title, f"{seen['searches']:,}", *figures])
    return table(rows) if rebuilt else ""


_TIMES = ("p50_us", "p99_us", "max_us", "cpu_p99_us")
_PHASES = {
    "idle": "nothing else happens",
    "writing": "points are written, sealed and indexed",
    "building": "the last are indexed and merged",
}


def _http_table(http: _Json | None) -> str:
    if not http:
        return ""
    rows = [["P50 in process, ms", "over HTTP, ms", "added, ms"]]
    rows.append([f"{http[key]:.3f}" for key in ("in_process_p50_ms", "http_p50_ms", "added_p50_ms")])
    return table(rows)


def _compact_ratio(one: _Json, peer: str) -> float | None:
    """The compact tier's speed with what it does by default, over a peer's at the same recall."""
    default = one["compact_default"]
    if not default:
        return None
    return ratio(default["qps"], at_recall(measured(one["curves"].get(peer, [])), default["recall"]).qps)


def _at(one: _Json, name: str) -> AtRecall:
    return at_recall(measured(one["curves"].get(name, [])), RECALL)


def _short(value: float) -> str:
    return f"{value:.4f}" if value < 1 else f"{value:.2f}"
