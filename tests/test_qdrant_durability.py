"""What was acknowledged is there after the worst end of the process; and snapshots bring back what was."""

from __future__ import annotations

import contextlib
import io
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from qdrant_client import QdrantClient
from qdrant_client.http import models
from qdrant_client.http.exceptions import UnexpectedResponse

import qdrant
import qdrant_points
from qdrant import Pair, refused
from qdrant_points import DIMENSIONS, INDEXES, point_id, vectors
from server import Server, wait_for

RED = models.Filter(must=[models.FieldCondition(key="colour", match=models.MatchValue(value="red"))])


@contextlib.contextmanager
def started(folder: Path, ports: tuple[int, int] | None = None) -> Iterator[tuple[Server, QdrantClient]]:
    """A server on this folder, with a client; killed at the end."""
    with qdrant.start(folder, ports) as server, contextlib.closing(qdrant.connect(server)) as client:
        yield server, client
        server.kill()


def again(server: Server) -> contextlib.AbstractContextManager[tuple[Server, QdrantClient]]:
    """A new server in the place of one that ended."""
    return started(server.project.parent, (server.port, server.admin_port))


# Restarts


def test_everything_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    """Writes of every kind, collections, aliases and payload indexes; killed at once and more than once."""
    oracle = QdrantClient(":memory:")
    with started(tmp_path) as (server, tested):
        pair = Pair(oracle, tested)
        single = pair.collection(qdrant_points.one_vector(), qdrant_points.points())
        named = pair.collection(qdrant_points.named_vectors(), qdrant_points.named_points(200))
        gone = pair.collection(qdrant_points.one_vector(), qdrant_points.points(10))
        for key, kind in INDEXES.items():
            tested.create_payload_index(single, key, kind)
        alias = models.CreateAlias(collection_name=single, alias_name="current")
        pair.same(lambda client: client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)]))
        pair.same(lambda client: client.delete_collection(gone))
        write_of_each_kind(pair, single, named)
    for turn in range(3):
        with again(server) as (_, tested):
            pair = Pair(oracle, tested)
            assert {one.name for one in tested.get_collections().collections} == {single, named}
            for name in (single, named, "current"):
                pair.same_points(name)
            assert set(tested.get_collection(single).payload_schema) == set(INDEXES)
            pair.same(lambda client: client.get_aliases())
            pair.same(lambda client: client.scroll(single, RED, limit=500))
            query = vectors(1, DIMENSIONS, seed=50 + turn)[0]
            pair.same(lambda client, query=query: client.query_points(single, query=query, limit=500))
            new = models.PointStruct(id=10_000 + turn, vector=query, payload={"colour": "red"})
            pair.same(lambda client, new=new: client.upsert(single, [new]))


def write_of_each_kind(pair: Pair, single: str, named: str) -> None:
    """One write of each kind on points of the two collections."""
    some = [point_id(n) for n in range(20, 40)]
    pair.same(lambda client: client.delete(single, [point_id(n) for n in range(10)]))
    pair.same(lambda client: client.delete(named, RED))
    pair.same(lambda client: client.set_payload(single, {"new": {"a": [1, None]}}, points=some))
    pair.same(lambda client: client.overwrite_payload(single, {"colour": "red"}, points=some[:5]))
    pair.same(lambda client: client.delete_payload(single, ["owner.address", "tags"], points=RED))
    pair.same(lambda client: client.clear_payload(single, points_selector=some[-3:]))
    pair.same(lambda client: client.delete_vectors(named, ["small"], points=models.Filter()))
    changed = [models.PointVectors(id=point_id(11), vector=[0.5] * DIMENSIONS)]
    pair.same(lambda client: client.update_vectors(single, changed))


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_in_the_midst_of_writes_loses_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    """Of the writes that were under way each is whole or not there at all."""
    size, least = 20, 15
    chance = random.Random(seed)
    acknowledged: list[int] = []
    with started(tmp_path) as (server, tested):
        name = Pair(QdrantClient(":memory:"), tested).collection(qdrant_points.one_vector())

        def write() -> None:
            for batch in range(10_000):
                drawn = vectors(size, DIMENSIONS, seed=batch)
                points = [
                    models.PointStruct(id=batch * size + n, vector=drawn[n], payload={"batch": batch})
                    for n in range(size)
                ]
                with contextlib.suppress(Exception):
                    tested.upsert(name, points, wait=True)
                    acknowledged.append(batch)
                    continue
                return

        writer = threading.Thread(target=write)
        writer.start()
        wanted = least + chance.randrange(10)
        wait_for("some writes", lambda: len(acknowledged) >= wanted or not writer.is_alive())
        server.kill()
        writer.join(60)
    assert len(acknowledged) >= least
    with again(server) as (_, tested):
        found, _ = tested.scroll(name, limit=1_000_000)
        batches: dict[int, int] = {}
        for point in found:
            batch = (point.payload or {})["batch"]
            batches[batch] = batches.get(batch, 0) + 1
        assert set(batches.values()) == {size}, "a write was done in part"
        assert set(acknowledged) <= batches.keys()
        assert len(batches) <= len(acknowledged) + 1


# Snapshots: the oracle has none


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with qdrant.pair(tmp_path_factory.mktemp("snapshots")) as pair:
        yield pair


@pytest.fixture
def collection(pair: Pair) -> str:
    name = pair.collection(qdrant_points.named_vectors(), qdrant_points.named_points(120))
    pair.tested.create_payload_index(name, "colour", INDEXES["colour"])
    return name


def url_of(pair: Pair, collection: str, snapshot: str) -> str:
    return f"{pair.tested.init_options['url']}/collections/{collection}/snapshots/{snapshot}"


def taken(pair: Pair, collection: str) -> str:
    """The name of a new snapshot."""
    snapshot = pair.tested.create_snapshot(collection, wait=True)
    assert snapshot is not None
    assert snapshot.size > 0
    return snapshot.name


def test_snapshots_are_listed_until_they_are_deleted(pair: Pair, collection: str) -> None:
    assert pair.tested.list_snapshots(collection) == []
    first, second = taken(pair, collection), taken(pair, collection)
    assert {one.name for one in pair.tested.list_snapshots(collection)} == {first, second}
    assert pair.tested.delete_snapshot(collection, first)
    assert [one.name for one in pair.tested.list_snapshots(collection)] == [second]


def test_a_collection_recovers_what_its_snapshot_has(pair: Pair, collection: str) -> None:
    snapshot = taken(pair, collection)
    pair.tested.delete(collection, RED)
    pair.tested.clear_payload(collection, points_selector=models.Filter())
    pair.tested.upsert(collection, [models.PointStruct(id=5_000, vector={})])
    assert pair.tested.recover_snapshot(collection, location=url_of(pair, collection, snapshot), wait=True)
    pair.same_points(collection)
    pair.same(lambda client: client.scroll(collection, RED, limit=120))
    assert "colour" in pair.tested.get_collection(collection).payload_schema
    new = qdrant_points.named_points(130)[120:]
    pair.same(lambda client: client.upsert(collection, new))
    pair.same_points(collection)


def test_a_snapshot_that_was_downloaded_makes_a_collection_of_another_name(pair: Pair, collection: str) -> None:
    """What is written after the snapshot is not part of it."""
    snapshot = taken(pair, collection)
    content = requests.get(url_of(pair, collection, snapshot), timeout=60)
    assert content.status_code == 200
    pair.tested.delete(collection, models.FilterSelector(filter=models.Filter()))
    upload = pair.tested.http.snapshots_api.recover_from_uploaded_snapshot
    assert upload(
        "restored", wait=True, priority=models.SnapshotPriority.SNAPSHOT, snapshot=io.BytesIO(content.content)
    ).result
    found, _ = pair.tested.scroll("restored", limit=1_000, with_vectors=True)
    expected, _ = pair.oracle.scroll(collection, limit=1_000, with_vectors=True)
    qdrant.assert_same(expected, found)
    assert pair.tested.count(collection).count == 0


def test_a_snapshot_stays_after_a_restart(tmp_path: Path) -> None:
    with started(tmp_path) as (server, tested):
        pair = Pair(QdrantClient(":memory:"), tested)
        name = pair.collection(qdrant_points.one_vector(), qdrant_points.points(40))
        snapshot = taken(pair, name)
        tested.delete(name, models.FilterSelector(filter=models.Filter()))
    with again(server) as (_, tested):
        pair = Pair(pair.oracle, tested)
        assert [one.name for one in tested.list_snapshots(name)] == [snapshot]
        assert tested.recover_snapshot(name, location=url_of(pair, name, snapshot), wait=True)
        pair.same_points(name)


@pytest.mark.parametrize("snapshot", ["no-such.snapshot", "../../halny.toml", "%2e%2e"], ids=str)
def test_an_unknown_snapshot_is_refused(pair: Pair, collection: str, snapshot: str) -> None:
    message = refused(pair.tested, lambda client: client.delete_snapshot(collection, snapshot), 404)
    assert str(Path.home()) not in message
    location = url_of(pair, collection, snapshot)
    with pytest.raises(UnexpectedResponse) as caught:
        pair.tested.recover_snapshot(collection, location=location)
    assert caught.value.status_code in (400, 404)
    pair.same_points(collection)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "http://169.254.169.254/latest",
        "http://localhost:1/x.snapshot",
        "ftp://x/y",
        "",
    ],
    ids=str,
)
def test_a_snapshot_of_another_place_is_not_fetched(pair: Pair, collection: str, location: str) -> None:
    """A server that fetched what a client names would be the client's way into the network behind it."""
    with pytest.raises(UnexpectedResponse) as caught:
        pair.tested.recover_snapshot(collection, location=location)
    assert caught.value.status_code in (400, 403, 404, 501)
    assert b"root:" not in caught.value.content
    pair.same_points(collection)


def test_a_damaged_snapshot_brings_nothing_back_that_was_not_there(pair: Pair, collection: str) -> None:
    """Bytes at even distances over the file are other ones, or its end is missing."""
    whole = requests.get(url_of(pair, collection, taken(pair, collection)), timeout=60).content
    step = len(whole) // 40 + 1
    damaged = [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(0, len(whole), step)]
    damaged += [whole[: len(whole) * part // 8] for part in range(8)]
    upload = pair.tested.http.snapshots_api.recover_from_uploaded_snapshot
    refusals = 0
    for content in damaged:
        try:
            upload(collection, wait=True, snapshot=io.BytesIO(content))
        except UnexpectedResponse as error:
            assert error.status_code in (400, 422), error
            refusals += 1
        pair.same_points(collection)
    assert refusals >= len(damaged) // 2
