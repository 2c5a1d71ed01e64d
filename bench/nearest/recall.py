"""How many of the nearest were found, with ties: a row as near as the tenth counts, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ids = Sequence[Sequence[int]]

#: Two sums of the same products in another order differ by less; two rows that are told apart differ by more.
TIE = 1e-6
_BLOCK = 250


@dataclass(frozen=True)
class Truth:
    """What is to be found: the score of the last of the nearest, by query, and how many there are."""

    #: `[queries]`; a row with this score or more is one of the nearest.
    least: npt.NDArray[np.float32]
    #: How many of the nearest there are: fewer than asked for where a filter passes fewer.
    count: int


def truth(table: Vectors, queries: Vectors, limit: int, passing: npt.NDArray[np.bool_] | None = None) -> Truth:
    """Compares every query with every row (of those that pass) by their dot product."""
    rows = table if passing is None else table[passing]
    count = min(limit, len(rows))
    if count == 0:
        return Truth(np.full(len(queries), np.inf, np.float32), 0)
    least = [
        np.partition(queries[begin : begin + _BLOCK] @ rows.T, len(rows) - count, axis=1)[:, len(rows) - count]
        for begin in range(0, len(queries), _BLOCK)
    ]
    return Truth(np.concatenate(least), count)


def recall(
    table: Vectors, queries: Vectors, found: Ids, right: Truth, passing: npt.NDArray[np.bool_] | None = None
) -> float:
    """The share of the nearest that was found. Scores are computed here: nobody's own are believed.

    Of an id that comes twice one counts, and none of a row that is not there or does not pass.
    """
    if len(found) != len(queries):
        raise ValueError(f"{len(queries)} queries were asked, {len(found)} answered")
    if right.count == 0:
        return 1.0
    hits = 0
    for query, ids, least in zip(queries, found, right.least):
        distinct = np.asarray(sorted(set(ids)), np.int64)
        distinct = distinct[(distinct >= 0) & (distinct < len(table))]
        if passing is not None:
            distinct = distinct[passing[distinct]]
        near = int(np.count_nonzero(table[distinct] @ query >= least - TIE))
        hits += min(near, right.count)
    return hits / (right.count * len(queries))
