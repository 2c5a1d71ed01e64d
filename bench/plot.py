"""The figures as one SVG picture: throughput, P95 and processor time by system and concurrency.

Drawn by hand, because three groups of bars are less code than a plotting library is dependency.
"""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

_PANEL_WIDTH, _PANEL_HEIGHT = 330, 250
_LEFT, _TOP, _BOTTOM, _GAP = 58, 70, 56, 66
_COLOURS = ("#1b6ca8", "#8fbbd9", "#d98e04", "#7a9e3a", "#a05195", "#665191", "#444444")
_PANELS = (
    ("texts a second", "requests_per_s"),
    ("P95, ms", "p95_ms"),
    ("server's CPU seconds per 1,000 texts", "cpu_s_per_1000"),
)


def picture(result: dict[str, Any]) -> str:
    """An SVG document."""
    width = len(_PANELS) * (_LEFT + _PANEL_WIDTH) + _GAP
    height = _TOP + _PANEL_HEIGHT + _BOTTOM
    bare = result.get("bare") or {}
    limits = {"requests_per_s": bare.get("embeddings_per_s"), "cpu_s_per_1000": bare.get("cpu_s_per_1000")}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="white"/>',
        _text(_LEFT, 20, _title(result), "start", 14),
        *_legend(list(result["systems"]), bool(bare)),
    ]
    for index, (title, figure) in enumerate(_PANELS):
        left = _LEFT + index * (_LEFT + _PANEL_WIDTH)
        parts += _panel(left, title, result["systems"], figure, limits.get(figure))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _title(result: dict[str, Any]) -> str:
    machine, settings = result["machine"], result["settings"]
    return (
        f"Embeddings with all-MiniLM-L6-v2, {settings['precision']}, {machine['cores']} cores of "
        f"{machine['processor']}, {machine['date']}"
    )


def _legend(names: list[str], with_bare: bool) -> list[str]:
    parts, x = [], _LEFT
    for index, name in enumerate(names):
        parts.append(f'<rect x="{x}" y="31" width="11" height="11" fill="{_colour(index)}"/>')
        parts.append(_text(x + 15, 41, name, "start"))
        x += 34 + 7 * len(name)
    if with_bare:
        parts.append(f'<line x1="{x}" x2="{x + 22}" y1="37" y2="37" stroke="#c0392b" stroke-dasharray="5 3"/>')
        parts.append(_text(x + 27, 41, "bare ONNX Runtime loop", "start"))
    return parts


def _panel(left: int, title: str, systems: dict[str, Any], figure: str, limit: float | None) -> list[str]:
    concurrency = sorted({int(at) for system in systems.values() for at in system["at"]})
    values = [one[figure] or 0 for system in systems.values() for one in system["at"].values()]
    top = 1.08 * max([*values, limit or 0, 1e-9])
    base = _TOP + _PANEL_HEIGHT

    def y(value: float) -> float:
        return base - _PANEL_HEIGHT * value / top

    parts = [_text(left, _TOP - 10, title, "start", 12)]
    step = _round_step(top / 5)
    for tick in range(int(top / step) + 1):
        height = y(tick * step)
        parts.append(_across(left, height, 'stroke="#ddd"'))
        parts.append(_text(left - 5, height + 4, f"{tick * step:g}", "end"))
    group = _PANEL_WIDTH / max(1, len(concurrency))
    bar = min(34.0, 0.8 * group / max(1, len(systems)))
    for place, connections in enumerate(concurrency):
        begin = left + place * group + (group - bar * len(systems)) / 2
        parts.append(_text(left + (place + 0.5) * group, base + 16, str(connections), "middle"))
        for index, system in enumerate(systems.values()):
            value = system["at"].get(str(connections), {}).get(figure)
            if value:
                parts.append(_bar(begin + index * bar, y(value), bar, base, _colour(index), value))
    parts.append(_text(left + _PANEL_WIDTH / 2, base + 34, "requests in flight", "middle"))
    if limit:
        parts.append(_across(left, y(limit), 'stroke="#c0392b" stroke-dasharray="5 3"'))
    return parts


def _across(left: int, y: float, style: str) -> str:
    return f'<line x1="{left}" x2="{left + _PANEL_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" {style}/>'


def _bar(x: float, y: float, width: float, base: float, colour: str, value: float) -> str:
    label = f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    rectangle = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 1.5:.1f}" height="{base - y:.1f}" fill="{colour}"/>'
    return rectangle + _text(x + width / 2, y - 3, label, "middle", 8)


def _text(x: float, y: float, text: str, anchor: str, size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 1e-6
    while power * 10 <= step:
        power *= 10
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
