"""Filters that pass a share of the points: by chance, or those near to a place among the vectors.

What a filter that has nothing to do with the vectors passes is everywhere; a walk finds it on its way.
What passes because of what it is lies together, and queries may come from there or from far away: from
far away a walk finds nothing of it for long.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nearest.datasets import Dataset

_Json = dict[str, Any]
_SEED = 23
SHARES = (0.2, 0.04, 0.01, 0.0001)
#: Of the queries, those nearest to the place and those farthest from it.
_QUERIES_SHARE = 0.25


@dataclass(frozen=True)
class Filtered:
    """A filter, and the queries that are asked with it."""

    share: float
    #: `chance`, `near` or `far`.
    kind: str
    filter: _Json
    #: Which rows pass, `[rows]`.
    passing: npt.NDArray[np.bool_]
    queries: npt.NDArray[np.float32]
    queries_path: Path

    @property
    def name(self) -> str:
        """For the report."""
        where = {"chance": "", "near": ", near the query", "far": ", far from the query"}[self.kind]
        return f"{100 * self.share:g} %{where}"


def write_payloads(data: Dataset, scratch: Path) -> _Json:
    """A payload for every row, one a line, and the fields of it that are indexed."""
    groups, order = _groups(len(data.table)), _order(data)
    fields = [*(f"chance_{place}" for place in range(len(SHARES))), *(f"there_{place}" for place in range(len(SHARES)))]
    columns = [groups % _every(share) for share in SHARES]
    columns += [(order >= _count(share, len(order))).astype(np.int64) for share in SHARES]
    path = scratch / f"{data.name}-payloads.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for values in zip(*(column.tolist() for column in columns)):
            file.write(json.dumps(dict(zip(fields, values))) + "\n")
    return {"path": path, "fields": {field: {"type": "integer"} for field in fields}}


def filters(data: Dataset, scratch: Path) -> list[Filtered]:
    """Every filter, of a zero in one of the fields."""
    groups, order = _groups(len(data.table)), _order(data)
    nearness = data.queries @ _place(data)
    by_nearness = np.argsort(-nearness)
    count = int(len(by_nearness) * _QUERIES_SHARE)
    asked = {"near": by_nearness[:count], "far": by_nearness[-count:]}
    found = []
    for place, share in enumerate(SHARES):
        passing = groups % _every(share) == 0
        found.append(Filtered(share, "chance", _zero(f"chance_{place}"), passing, data.queries, data.queries_path))
        for kind, chosen in asked.items():
            path = scratch / f"{data.name}-queries-{kind}.f32"
            queries = data.queries[np.sort(chosen)]
            queries.tofile(path)
            passing = order < _count(share, len(order))
            found.append(Filtered(share, kind, _zero(f"there_{place}"), passing, queries, path))
    return sorted(found, key=lambda one: one.kind != "chance")


def _zero(field: str) -> _Json:
    return {"must": [{"key": field, "match": {"value": 0}}]}


def _every(share: float) -> int:
    return round(1 / share)


def _count(share: float, rows: int) -> int:
    return max(1, round(share * rows))


def _groups(rows: int) -> npt.NDArray[np.int64]:
    """A number for every row that has nothing to do with it."""
    return np.random.default_rng(_SEED).permutation(rows)


def _place(data: Dataset) -> npt.NDArray[np.float32]:
    """A place among the vectors: one of them."""
    place: npt.NDArray[np.float32] = data.table[np.random.default_rng(_SEED).integers(len(data.table))]
    return place


def _order(data: Dataset) -> npt.NDArray[np.int64]:
    """For every row, how many are nearer to the place."""
    order = np.empty(len(data.table), np.int64)
    order[np.argsort(-(data.table @ _place(data)), kind="stable")] = np.arange(len(data.table))
    return order
