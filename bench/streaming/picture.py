"""The figures as one SVG picture: tokens a second and times to and between tokens, by concurrency."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP = 320, 220, 58, 64
_COLOURS = {"halny": "#1b6ca8", "llama-server": "#d98e04"}
_PANELS = (
    ("tokens a second", "tokens_per_s"),
    ("time to first token, P50, ms", "first_token_p50_ms"),
    ("time between tokens, P95, ms", "gap_p95_ms"),
)


def picture(result: dict[str, Any]) -> str:
    """An SVG document."""
    width = len(_PANELS) * (_LEFT + _WIDTH) + 20
    machine, settings = result["machine"], result["settings"]
    title = f"{settings['model']}, {settings['threads']} threads of {machine['processor']}, {machine['date']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_TOP + _HEIGHT + 50}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>',
        _text(_LEFT, 20, title, size=14),
    ]
    for index, name in enumerate(result["systems"]):
        parts.append(f'<rect x="{_LEFT + 110 * index}" y="31" width="11" height="11" fill="{_COLOURS[name]}"/>')
        parts.append(_text(_LEFT + 15 + 110 * index, 41, name))
    for index, (heading, figure) in enumerate(_PANELS):
        parts += _panel(_LEFT + index * (_LEFT + _WIDTH), heading, result["systems"], figure)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: int, heading: str, systems: dict[str, Any], figure: str) -> list[str]:
    clients = sorted(int(part[1:]) for part in next(iter(systems.values())) if part.startswith("a"))
    if not clients:
        return []
    most = max(parts[f"a{count}"][figure] for parts in systems.values() for count in clients) or 1.0
    floor = _TOP + _HEIGHT
    found = [
        _text(left, _TOP - 6, heading),
        f'<line x1="{left}" x2="{left + _WIDTH}" y1="{floor}" y2="{floor}" stroke="#444"/>',
    ]
    group, bar = _WIDTH / len(clients), _WIDTH / len(clients) / (len(systems) + 1)
    for place, count in enumerate(clients):
        x = left + place * group
        found.append(_text(x + group / 2, floor + 16, f"{count} clients", "middle"))
        for number, (name, parts) in enumerate(systems.items()):
            value = parts[f"a{count}"][figure]
            height = value / most * (_HEIGHT - 20)
            at = x + bar / 2 + number * bar
            found.append(
                f'<rect x="{at:.1f}" y="{floor - height:.1f}" width="{bar - 3:.1f}" height="{height:.1f}" '
                f'fill="{_COLOURS[name]}"/>'
            )
            found.append(_text(at + bar / 2, floor - height - 4, f"{value:.0f}", "middle"))
    return found


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
