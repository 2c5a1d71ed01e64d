"""The table of `make bench-features`: views of features for the same entities, as Parquet files.

A fifth of a view's features are strings, two fifths whole numbers, two fifths 32-bit numbers. All events
are of one hour ago, so that a time to live of a day expires none of them while it is measured.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KEY = "user_id"
TIMESTAMP = "event_timestamp"
#: In the order in which they take turns.
KINDS = (pa.float32(), pa.int64(), pa.float32(), pa.int64(), pa.string())
_SEED = 5


def view_name(number: int) -> str:
    """`view_0` and so on."""
    return f"view_{number}"


def features_of(number: int, count: int) -> dict[str, pa.DataType]:
    """The features of a view and their types; no two views share a name."""
    return {f"f{number}_{index:03}": KINDS[index % len(KINDS)] for index in range(count)}


def write(folder: Path, entities: int, views: int, features: int) -> dict[str, Path]:
    """Writes a file for each view; gives them by its name."""
    generator = np.random.default_rng(_SEED)
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    files = {}
    for number in range(views):
        columns: dict[str, pa.Array] = {
            KEY: pa.array(np.arange(entities, dtype=np.int64)),
            TIMESTAMP: pa.array([at] * entities, pa.timestamp("us", tz="UTC")),
        }
        for name, kind in features_of(number, features).items():
            columns[name] = _column(kind, entities, generator)
        files[view_name(number)] = folder / f"{view_name(number)}.parquet"
        pq.write_table(pa.table(columns), files[view_name(number)])
    return files


def _column(kind: pa.DataType, rows: int, generator: np.random.Generator) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.array([f"category-{value}" for value in generator.integers(0, 1_000, rows)])
    if pa.types.is_integer(kind):
        return pa.array(generator.integers(0, 1_000_000, rows, dtype=np.int64))
    return pa.array(generator.random(rows, dtype=np.float32))
