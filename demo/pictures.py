"""Two pictures for the demo, drawn with the standard library: a landscape and an abstract pattern."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable

Level = tuple[int, int, int]


def landscape(width: int = 480, height: int = 320) -> bytes:
    """Hills under an evening sky, as a PNG file."""

    def at(x: int, y: int) -> Level:
        for ridge in range(3, 0, -1):
            top = height * (0.45 + 0.14 * ridge) - height * 0.05 * math.sin(x / (30 + 20 * ridge) + 2 * ridge)
            if y > top:
                return (70 - 16 * ridge, 110 - 20 * ridge, 95 - 20 * ridge)
        if (x - width * 0.75) ** 2 + (y - height * 0.22) ** 2 < (width * 0.06) ** 2:
            return (255, 240, 190)
        share = y / height
        return (int(90 + 160 * share), int(150 + 70 * share), int(215 - 40 * share))

    return png(width, height, at)


def pattern(width: int = 320, height: int = 320) -> bytes:
    """Interfering waves in two colours, as a PNG file."""

    def at(x: int, y: int) -> Level:
        wave = math.sin(math.hypot(x - 90, y - 120) / 9) + math.sin(math.hypot(x - 240, y - 210) / 13)
        level = int(63 * (wave + 2))
        return (level, 120, 252 - level)

    return png(width, height, at)


def png(width: int, height: int, at: Callable[[int, int], Level]) -> bytes:
    """A PNG file of 8-bit RGB (ISO/IEC 15948)."""
    rows = (b"\0" + bytes(level for x in range(width) for level in at(x, y)) for y in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )
