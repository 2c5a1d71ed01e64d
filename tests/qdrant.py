"""The vector database as `qdrant-client` sees it, beside an oracle: the client's own local mode.

Tests make the same calls on both, and what the server answers has to be what the oracle answers: the
same points with the same scores in the same order, where equal scores may stand in any.
"""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from qdrant_client import QdrantClient

# Not `qdrant_client.models`, whose `QueryResponse` is another one.
from qdrant_client.http import models
from qdrant_client.http.exceptions import UnexpectedResponse

import engines
import projects
from server import Server

T = TypeVar("T")

#: Scores are sums of 32-bit numbers, in whichever order.
SCORE_TOLERANCE = 1e-4
#: A vector of a cosine comes back at length 1, which both sides compute.
VECTOR_TOLERANCE = 1e-5
#: Far beyond what any call here takes.
PATIENCE_S = 120


def start(
    folder: Path, ports: tuple[int, int] | None = None, vectors: projects.Table | None = None, **server: Any
) -> Server:
    """A server with an empty vector database, or with the one that an earlier server left in the folder.

    `vectors` says what keeps its collections, where that is not the folder.
    """
    return projects.start(folder, [], ports=ports, vectors=vectors or {"folder": str(folder / "vectors")}, **server)


def connect(server: Server) -> QdrantClient:
    """The unmodified client, over REST."""
    return QdrantClient(url=server.url, timeout=PATIENCE_S, check_compatibility=False)


def names() -> Iterator[str]:
    """Names for collections, all different."""
    number = 0
    while True:
        number += 1
        yield f"collection-{number}"


@dataclass
class Pair:
    """Two clients that get the same calls."""

    oracle: QdrantClient
    tested: QdrantClient
    engine: str = "embedded"
    _names: Iterator[str] = field(default_factory=names)

    def same(self, call: Callable[..., T], *, cut_in_tie: bool = False) -> T:
        """Calls both and compares the answers; gives the server's.

        Where the limit may fall among points of equal scores, each side takes those it likes (`cut_in_tie`).
        """
        expected, found = call(self.oracle), call(self.tested)
        assert_same(expected, found, cut_in_tie=cut_in_tie)
        return found

    def refused(self, call: Callable[..., object], status: int, *texts: object) -> str:
        """Both refuse the call, the server with this status and a message that has these texts in it."""
        with pytest.raises((ValueError, KeyError, TypeError)):
            call(self.oracle)
        return refused(self.tested, call, status, *texts)

    def collection(self, vectors: Any, points: Sequence[models.PointStruct] = (), **more: Any) -> str:
        """A new collection with these points on both sides; gives its name."""
        name = next(self._names)
        self.same(lambda client: client.create_collection(name, vectors_config=vectors, **more))
        if points:
            self.same(lambda client: client.upsert(name, list(points)))
        return name

    def same_points(self, collection: str) -> None:
        """Both hold the same points, with the same payloads and vectors."""
        found, after = self.same(
            lambda client: client.scroll(collection, limit=100_000, with_payload=True, with_vectors=True)
        )
        assert after is None
        assert self.same(lambda client: client.count(collection)).count == len(found)


@contextlib.contextmanager
def pair(folder: Path, engine: str = "embedded") -> Iterator[Pair]:
    """An oracle beside a server that starts, and has to live until its tests are over."""
    with engines.settings(engine, folder) as vectors, start(folder, vectors=vectors) as server:
        with contextlib.closing(connect(server)) as tested, contextlib.closing(QdrantClient(":memory:")) as oracle:
            yield Pair(oracle, tested, engine)
        server.end()


def refused(client: QdrantClient, call: Callable[..., object], status: int, *texts: object) -> str:
    """The server refuses the call with this status and a message that has these texts in it; gives the message."""
    with pytest.raises(UnexpectedResponse) as caught:
        call(client)
    assert caught.value.status_code == status, caught.value
    message = caught.value.structured()["status"]["error"]
    assert isinstance(message, str)
    for text in texts:
        assert str(text) in message, f"{text} is not named: {message}"
    return message


# What is the same


class Ranked(NamedTuple):
    """What an answer says of one point, value or group."""

    id: Any
    score: float | None
    rest: Any


def assert_same(expected: Any, found: Any, *, cut_in_tie: bool = False) -> None:
    """The two answers say the same."""
    match expected:
        case models.QueryResponse():
            assert_ranked(ranked(expected.points), ranked(found.points), cut_in_tie)
        case models.GroupsResult():
            assert_same_groups(expected.groups, found.groups)
        case models.FacetResponse():
            ours, theirs = (
                [Ranked(hit.value, hit.count, (None, None)) for hit in one.hits] for one in (found, expected)
            )
            assert_ranked(theirs, ours, cut_in_tie)
        case models.UpdateResult():
            assert found.status == expected.status
        case models.CollectionsAliasesResponse():
            assert _aliases(found) == _aliases(expected)
        case models.SearchMatrixPairsResponse():
            assert _distances(found) == pytest.approx(_distances(expected), abs=SCORE_TOLERANCE)
        case (list() as records, after):
            assert found[1] == after
            if records and records[0].order_value is not None:
                assert_ranked(ranked(records), ranked(found[0]), cut_in_tie)
            else:
                assert_same(records, found[0])
        case list():
            assert len(found) == len(expected)
            for one, other in zip(expected, found):
                assert_same(one, other, cut_in_tie=cut_in_tie)
        case models.Record() | models.ScoredPoint():
            assert found.id == expected.id
            assert_same_rest(_rest(expected), _rest(found), expected.id)
        case _:
            assert found == expected


def ranked(points: Iterable[models.ScoredPoint | models.Record]) -> list[Ranked]:
    """Points with what they are ranked by."""
    return [
        Ranked(point.id, point.order_value if isinstance(point, models.Record) else point.score, _rest(point))
        for point in points
    ]


def assert_ranked(expected: Sequence[Ranked], found: Sequence[Ranked], cut_in_tie: bool = False) -> None:
    """The same in the same order; those of equal scores in any."""
    ids = [one.id for one in found]
    assert len(ids) == len(expected), f"{len(ids)} where there are {len(expected)}"
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=SCORE_TOLERANCE)
    ties = list(_ties(expected))
    for tie in ties:
        if not (cut_in_tie and tie == ties[-1]):
            assert set(ids[tie.start : tie.stop]) == {expected[place].id for place in tie}, f"places {tie}"
    # A point has several places where it is ordered by a field of several values.
    rest = {one.id: one.rest for one in found}
    for one in expected:
        if one.id in rest:
            assert_same_rest(one.rest, rest[one.id], one.id)


def assert_same_groups(expected: Sequence[models.PointGroup], found: Sequence[models.PointGroup]) -> None:
    """The same groups with the same hits, those with the better first hit first."""
    best = [group.hits[0].score for group in expected]
    assert [group.hits[0].score for group in found] == pytest.approx(best, abs=SCORE_TOLERANCE)
    by_id = {(type(group.id), group.id): group for group in found}
    assert by_id.keys() == {(type(group.id), group.id) for group in expected}
    for group in expected:
        other = by_id[type(group.id), group.id]
        assert_ranked(ranked(group.hits), ranked(other.hits))
        assert (other.lookup is None) == (group.lookup is None)
        if group.lookup is not None:
            assert_same(group.lookup, other.lookup)


def assert_same_rest(expected: Any, found: Any, of: object) -> None:
    """The same payload, and the same vectors but for the last digits."""
    assert found[0] == expected[0], f"payload of {of}"
    assert_same_vectors(expected[1], found[1])


def assert_same_vectors(expected: Any, found: Any) -> None:
    """The same vectors but for the last digits."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for name, vector in expected.items():
            assert_same_vectors(vector, found[name])
    elif expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=VECTOR_TOLERANCE, abs=VECTOR_TOLERANCE)


def _rest(point: models.ScoredPoint | models.Record) -> tuple[Any, Any]:
    return point.payload, point.vector


def _aliases(answer: models.CollectionsAliasesResponse) -> dict[str, str]:
    return {alias.alias_name: alias.collection_name for alias in answer.aliases}


def _distances(answer: models.SearchMatrixPairsResponse) -> dict[Any, float]:
    return {(pair.a, pair.b): pair.score for pair in answer.pairs}


def _ties(points: Sequence[Ranked]) -> Iterator[range]:
    """Runs of places whose scores do not differ by more than the tolerance."""
    start = 0
    for place in range(1, len(points) + 1):
        if place == len(points) or not _tied(points[place - 1].score, points[place].score):
            yield range(start, place)
            start = place


def _tied(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=0, abs_tol=SCORE_TOLERANCE)


def uuid_of(number: int) -> str:
    """The UUID that stands for a number."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


def ids(points: Iterable[models.ScoredPoint | models.Record]) -> list[Any]:
    """Their ids, in their order."""
    return [point.id for point in points]
