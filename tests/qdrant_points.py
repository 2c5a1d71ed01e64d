"""About five hundred points with payloads of every kind, and fields that are missing, empty or of a wrong type."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from qdrant_client import models

from qdrant import uuid_of

COUNT = 500
DIMENSIONS = 16
SMALL_DIMENSIONS = 6

COLOURS = ("red", "green", "blue", "żółty", "Red", "light blue")
CITIES = ("Kraków", "Berlin", "Zürich", "Tōkyō")
WORDS = ("halny", "wind", "blows", "over", "the", "Tatra", "mountains", "Straße", "naïve", "snow", "42", "warm")
#: Each names the same kind of moment in another of the forms that are read.
MOMENTS = (
    "2024-{:02d}-{:02d}T{:02d}:30:00Z",
    "2024-{:02d}-{:02d}T{:02d}:30:00+02:00",
    "2024-{:02d}-{:02d} {:02d}:30:00",
    "2024-{:02d}-{:02d}T{:02d}:30:00.250Z",
)

#: The kinds of the payload indexes that the indexed collection has.
INDEXES: dict[str, models.PayloadSchemaType] = {
    "colour": models.PayloadSchemaType.KEYWORD,
    "tags": models.PayloadSchemaType.KEYWORD,
    "count": models.PayloadSchemaType.INTEGER,
    "sizes": models.PayloadSchemaType.INTEGER,
    "price": models.PayloadSchemaType.FLOAT,
    "active": models.PayloadSchemaType.BOOL,
    "when": models.PayloadSchemaType.DATETIME,
    "place": models.PayloadSchemaType.GEO,
    "text": models.PayloadSchemaType.TEXT,
    "serial": models.PayloadSchemaType.UUID,
    "owner.name": models.PayloadSchemaType.KEYWORD,
    "owner.address.city": models.PayloadSchemaType.KEYWORD,
    "items[].sku": models.PayloadSchemaType.KEYWORD,
    "items[].quantity": models.PayloadSchemaType.INTEGER,
    "sometimes": models.PayloadSchemaType.KEYWORD,
}


def point_id(number: int) -> Any:
    """Two of three points have an integer, the third a UUID."""
    return uuid_of(number) if number % 3 == 2 else number


def place(chance: random.Random) -> dict[str, float]:
    """Somewhere around the Alps and the Carpathians."""
    return {"lon": chance.uniform(5.0, 25.0), "lat": chance.uniform(44.0, 54.0)}


def item(chance: random.Random) -> dict[str, Any]:
    """Something that was bought."""
    return {
        "sku": chance.choice("ABCDE"),
        "quantity": chance.randrange(10),
        "sizes": [chance.randrange(30, 50) for _ in range(chance.randrange(3))],
    }


def payload(number: int) -> dict[str, Any]:
    """The payload of a point: the same for each number, whenever it is asked for."""
    chance = random.Random(number)
    fields: dict[str, Any] = {
        "number": number,
        "colour": chance.choice(COLOURS),
        "tags": chance.sample(["a", "b", "c", "d", "e"], chance.randrange(5)),
        "count": chance.randrange(-20, 50),
        "sizes": [chance.randrange(100) for _ in range(chance.randrange(4))],
        "price": round(chance.uniform(0.0, 1_000.0), 2),
        "active": chance.random() < 0.4,
        "when": chance.choice(MOMENTS).format(chance.randint(1, 12), chance.randint(1, 28), chance.randrange(24)),
        "place": place(chance) if chance.random() < 0.8 else [place(chance), place(chance)],
        "text": " ".join(chance.choices(WORDS, k=chance.randint(1, 8))) + chance.choice(["", ".", "! (snow)"]),
        "serial": uuid_of(1_000 + number % 50),
        "owner": {"name": f"owner {number % 7}", "age": 20 + number % 40, "address": {"city": CITIES[number % 4]}},
        "items": [item(chance) for _ in range(chance.randrange(4))],
        "sometimes": chance.choice(["here", "", None, [], ["here", None], [None], {}, ["x", "y"]]),
        "mixed": chance.choice([1, 1.0, "1", True, False, None, 0, [1, "1"], {"1": 1}, -7, 2.5, [[1]]]),
        "dotted.key": chance.choice(["one", "two"]),
    }
    for name in ("colour", "tags", "count", "price", "active", "when", "place", "text", "owner", "items", "sometimes"):
        if chance.random() < 0.08:
            del fields[name]
    return fields


def vectors(count: int, dimensions: int, seed: int) -> list[list[float]]:
    """Random vectors in 32-bit numbers, of different lengths."""
    chance = np.random.default_rng(seed)
    drawn = chance.normal(size=(count, dimensions)) * chance.uniform(0.5, 2.0, size=(count, 1))
    return [[float(value) for value in vector] for vector in drawn.astype(np.float32)]


def points(count: int = COUNT) -> list[models.PointStruct]:
    """Points with one vector each."""
    drawn = vectors(count, DIMENSIONS, seed=1)
    return [models.PointStruct(id=point_id(n), vector=drawn[n], payload=payload(n)) for n in range(count)]


def named_points(count: int = COUNT) -> list[models.PointStruct]:
    """Points with the vectors `large` and `small`, but for every seventh, which has no `small` one."""
    large, small = vectors(count, DIMENSIONS, seed=1), vectors(count, SMALL_DIMENSIONS, seed=2)
    return [
        models.PointStruct(
            id=point_id(n),
            vector={"large": large[n]} if n % 7 == 3 else {"large": large[n], "small": small[n]},
            payload=payload(n),
        )
        for n in range(count)
    ]


def one_vector(distance: models.Distance = models.Distance.COSINE) -> models.VectorParams:
    """The configuration that `points` fit."""
    return models.VectorParams(size=DIMENSIONS, distance=distance)


def named_vectors() -> dict[str, models.VectorParams]:
    """The configuration that `named_points` fit."""
    return {
        "large": models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE),
        "small": models.VectorParams(size=SMALL_DIMENSIONS, distance=models.Distance.EUCLID),
    }
