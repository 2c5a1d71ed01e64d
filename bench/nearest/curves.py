"""Curves of speed over recall, and what is read off them: never beyond what was measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """One setting of one system: the recall it reaches and the queries it answers in a second."""

    setting: str
    recall: float
    qps: float


@dataclass(frozen=True)
class AtRecall:
    """Queries a second at a recall, or why there is no such figure."""

    qps: float | None
    why: str = ""


def frontier(points: Iterable[Measured]) -> list[Measured]:
    """The settings that no other beats in both, by rising recall and falling speed."""
    best: list[Measured] = []
    for point in sorted(points, key=lambda point: (-point.recall, -point.qps)):
        if not best or point.qps > best[-1].qps:
            best.append(point)
    return best[::-1]


def at_recall(points: Iterable[Measured], wanted: float) -> AtRecall:
    """Between the two settings on either side of the wanted recall, the logarithm of the speed on a straight line."""
    points = list(points)
    curve = frontier(points)
    if not curve:
        return AtRecall(None, "nothing was measured")
    if curve[-1].recall < wanted:
        return AtRecall(None, f"its recall is at most {curve[-1].recall:.4f}")
    if curve[0].recall > wanted:
        least = min(point.recall for point in points)
        # Where a setting with less recall was slower, this one serves both.
        return AtRecall(curve[0].qps) if least <= wanted else AtRecall(None, f"its recall is at least {least:.4f}")
    for low, high in itertools.pairwise(curve):
        if low.recall <= wanted <= high.recall:
            part = (wanted - low.recall) / (high.recall - low.recall)
            return AtRecall(math.exp((1 - part) * math.log(low.qps) + part * math.log(high.qps)))
    # One setting alone, and exactly at it.
    return AtRecall(curve[0].qps)


def fastest_from(points: Iterable[Measured], wanted: float) -> Measured | None:
    """The fastest setting that was measured and reaches the wanted recall."""
    return max((point for point in points if point.recall >= wanted), key=lambda point: point.qps, default=None)
