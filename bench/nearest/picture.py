"""The figures as one SVG picture: queries a second over recall, graphs on the left, compact indexes on the right.

Near the top of the scale one more hit in a thousand costs as much as ten further down: the distance to
1 is on a logarithmic scale, and so is the speed.
"""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

from nearest.curves import Measured, frontier
from nearest.work import measured

_Json = dict[str, Any]
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 440, 300, 74, 72, 60
_COLOURS = {
    "halny-fast": "#1b6ca8",
    "halny-compact": "#1b6ca8",
    "hnswlib": "#d98e04",
    "usearch": "#7a9e3a",
    "faiss-hnsw": "#a05195",
    "pgvector": "#444444",
    "faiss-ivfpq": "#a05195",
    "faiss-ivfpq-single": "#d98e04",
}
_RECALLS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_LEAST, _MOST = 0.5, 0.9995


def picture(result: _Json) -> str:
    """An SVG document: a row of two panels for each table."""
    names = list(result["tables"])
    width, height = 2 * (_LEFT + _WIDTH) + 24, len(names) * (_TOP + _HEIGHT + _BOTTOM)
    machine = result["machine"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>',
    ]
    for row, name in enumerate(names):
        one, top = result["tables"][name], row * (_TOP + _HEIGHT + _BOTTOM) + _TOP
        title = f"{name}, {one['rows']:,} rows, one thread of {machine['processor']}, {machine['date']}"
        parts.append(_text(_LEFT, top - 50, title, size=14))
        for column, (kind, heading) in enumerate((("graph", "graphs"), ("compact", "compact indexes"))):
            chosen = {
                system: frontier(point for point in measured(points) if point.recall >= _LEAST)
                for system, points in one["curves"].items()
                if one["loaded"][system]["kind"] == kind
            }
            chosen = {system: points for system, points in chosen.items() if points}
            if chosen:
                parts += _panel(_LEFT + column * (_LEFT + _WIDTH), top, heading, chosen)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: int, top: int, heading: str, systems: dict[str, list[Measured]]) -> list[str]:
    speeds = [point.qps for points in systems.values() for point in points]
    low, high = math.log10(min(speeds)) - 0.1, math.log10(max(speeds)) + 0.1
    floor = top + _HEIGHT

    def x(recall: float) -> float:
        far, near = _distance(_LEAST), _distance(_MOST)
        return left + _WIDTH * (_distance(min(recall, _MOST)) - far) / (near - far)

    def y(qps: float) -> float:
        return floor - _HEIGHT * (math.log10(qps) - low) / (high - low)

    found = [_text(left, top - 8, f"{heading}: queries a second over recall@10", size=12)]
    for recall in _RECALLS:
        found.append(_line(x(recall), top, x(recall), floor, "#ddd"))
        found.append(_text(x(recall), floor + 15, f"{recall:g}", "middle"))
    for power in range(math.floor(low), math.ceil(high) + 1):
        for factor in (1, 2, 5):
            qps = factor * 10.0**power
            if low <= math.log10(qps) <= high:
                found.append(_line(left, y(qps), left + _WIDTH, y(qps), "#ddd"))
                found.append(_text(left - 6, y(qps) + 4, f"{qps:,.0f}", "end"))
    for place, (name, points) in enumerate(systems.items()):
        colour = _COLOURS.get(name, "#000")
        path = " ".join(f"{x(point.recall):.1f},{y(point.qps):.1f}" for point in points)
        found.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in points:
            shown = f"{name}, {point.setting}: {point.qps:,.0f}/s at {point.recall:.4f}"
            found.append(
                f'<circle cx="{x(point.recall):.1f}" cy="{y(point.qps):.1f}" r="3" fill="{colour}">'
                f"<title>{escape(shown)}</title></circle>"
            )
        found.append(f'<rect x="{left + 90 * place}" y="{top - 36}" width="11" height="11" fill="{colour}"/>')
        found.append(_text(left + 15 + 90 * place, top - 26, name))
    return found


def _distance(recall: float) -> float:
    return -math.log10(1 - recall)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
