"""Pictures drawn for the tests: gradients, shapes and noise, in the formats and modes that clients send."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def landscape(width: int, height: int, seed: int = 1) -> Image.Image:
    """Hills under a sky with some grain: large areas, edges and texture, as photographs have."""
    random = np.random.default_rng(seed)
    rows = np.linspace(0.0, 1.0, height)[:, None, None]
    top, bottom = random.uniform(60, 220, (2, 3))
    levels = np.broadcast_to(top * (1 - rows) + bottom * rows, (height, width, 3))
    picture = Image.fromarray(levels.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for ridge in range(4):
        base = height * (0.4 + 0.15 * ridge)
        swing = [np.sin(x / width * (9 + ridge * 5) + random.uniform(0, 6)) for x in range(width)]
        outline = [(x, base + swing[x] * height * 0.06) for x in range(width)]
        pen.polygon([*outline, (width, height), (0, height)], fill=tuple(int(c) for c in random.integers(0, 256, 3)))
    x, y = random.uniform(0.1, 0.9, 2) * (width, height * 0.4)
    pen.ellipse((x, y, x + width / 8, y + width / 8), fill=(250, 230, 160))
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(1)), np.float32)
    return Image.fromarray(np.clip(soft + random.normal(0, 6, soft.shape), 0, 255).astype(np.uint8))


def warm_shapes(width: int, height: int, seed: int = 1) -> Image.Image:
    """Soft round shapes in skin tones: what the image model is less sure about than about landscapes."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), tuple(int(c) for c in random.integers(20, 120, 3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(8):
        x, y = random.uniform(-0.2, 0.8, 2) * (width, height)
        across, down = random.uniform(0.3, 0.8, 2) * (width, height)
        tone = random.uniform(0.75, 1.15)
        pen.ellipse((x, y, x + across, y + down), fill=(int(215 * tone), int(165 * tone), int(135 * tone)))
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(width / 40)), np.float32)
    return Image.fromarray(np.clip(soft + random.normal(0, 3, soft.shape), 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The file of a picture: `PNG`, `JPEG` or `WEBP`."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def empty_png(width: int, height: int) -> bytes:
    """A PNG that claims a size, and holds one line's worth of compressed zeros at most."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(600))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
