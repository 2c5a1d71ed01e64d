"""Points are written, read, changed and deleted as the oracle does it."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.http import models

import qdrant
import qdrant_points
from engines import ENGINES
from qdrant import PATIENCE_S, Pair, ids, refused, uuid_of
from qdrant_points import COUNT, DIMENSIONS, INDEXES, SMALL_DIMENSIONS, point_id, vectors

Wanted = list[Any] | models.Filter

RED = models.Filter(must=[models.FieldCondition(key="colour", match=models.MatchValue(value="red"))])
#: The two ways to say which points a write is about.
SELECTORS = pytest.mark.parametrize("wanted", [[point_id(n) for n in (1, 2, 3, 5, 8)], RED], ids=["ids", "filter"])


@pytest.fixture(scope="module", params=ENGINES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with qdrant.pair(tmp_path_factory.mktemp("points"), request.param) as pair:
        yield pair


@pytest.fixture
def single(pair: Pair) -> str:
    """A new collection of points with one vector, whose payload indexes follow every write."""
    name = pair.collection(qdrant_points.one_vector(), qdrant_points.points(60))
    for key in ("colour", "tags", "count"):
        pair.tested.create_payload_index(name, key, INDEXES[key])
    return name


@pytest.fixture
def named(pair: Pair) -> str:
    """A new collection of points with two vectors."""
    return pair.collection(qdrant_points.named_vectors(), qdrant_points.named_points(60))


def changed(pair: Pair, name: str, write: Callable[[QdrantClient], object]) -> None:
    """Writes on both sides, and finds the same afterwards, by scrolling and by a filter."""
    pair.same(write)
    pair.same_points(name)
    pair.same(lambda client: client.count(name, RED))


# Upsert


def test_what_was_written_is_read(pair: Pair, single: str) -> None:
    pair.same_points(single)
    points, _ = pair.tested.scroll(single, limit=100)
    assert {point.id: point.payload for point in points} == {
        point.id: point.payload for point in qdrant_points.points(60)
    }


def test_every_form_of_an_id_names_the_same_point(pair: Pair, single: str) -> None:
    one = uuid.UUID(uuid_of(2))
    for form in (str(one), one.hex, str(one).upper(), one.urn, one):
        found = pair.same(lambda client, form=form: client.retrieve(single, [form]))
        assert ids(found) == [str(one)]


def test_the_least_and_the_greatest_id(pair: Pair) -> None:
    name = pair.collection(models.VectorParams(size=2, distance=models.Distance.DOT))
    points = [models.PointStruct(id=id, vector=[1.0, 2.0]) for id in (0, 2**63, 2**64 - 1, str(uuid.UUID(int=0)))]
    changed(pair, name, lambda client: client.upsert(name, points))
    assert len(pair.tested.retrieve(name, [2**64 - 1, 2**63])) == 2


def test_a_second_write_replaces_the_whole_point(pair: Pair, named: str) -> None:
    """Fields and vectors that are not in the second are gone."""
    new = models.PointStruct(id=point_id(4), vector={"small": [0.5] * SMALL_DIMENSIONS}, payload={"only": "this"})
    changed(pair, named, lambda client: client.upsert(named, [new]))
    assert pair.tested.retrieve(named, [point_id(4)])[0].payload == {"only": "this"}


def test_of_a_point_twice_in_one_write_the_last_counts(pair: Pair, single: str) -> None:
    points = [models.PointStruct(id=7, vector=[float(n)] * DIMENSIONS, payload={"n": n}) for n in (1, 2, 3)]
    changed(pair, single, lambda client: client.upsert(single, points))
    assert pair.tested.retrieve(single, [7])[0].payload == {"n": 3}


def test_columns_are_points(pair: Pair, single: str) -> None:
    drawn = vectors(4, DIMENSIONS, seed=31)
    batch = models.Batch(ids=[100, uuid_of(101), 102, 3], vectors=drawn, payloads=[{"a": 1}, {}, {"b": [None]}, {}])
    changed(pair, single, lambda client: client.upsert(single, batch))


def test_columns_without_payloads_are_points(pair: Pair, single: str) -> None:
    batch = models.Batch(ids=[100, 101], vectors=vectors(2, DIMENSIONS, seed=32))
    changed(pair, single, lambda client: client.upsert(single, batch))


def test_columns_of_named_vectors_are_points(pair: Pair, named: str) -> None:
    columns: Any = {"large": vectors(3, DIMENSIONS, seed=33), "small": vectors(3, SMALL_DIMENSIONS, seed=34)}
    batch = models.Batch(ids=[100, 101, 0], vectors=columns, payloads=[{"a": 1}, {"a": 2}, {"a": 3}])
    changed(pair, named, lambda client: client.upsert(named, batch))


def test_a_payload_is_any_json(pair: Pair, single: str) -> None:
    payload: dict[str, Any] = {
        "": "no name",
        "żółć 🏔": ["\u202e", "𐍈", '"\\/'],
        "numbers": [0, -1, 2**53, 2**63 - 1, -(2**63), 1.5e300, 5e-324, 0.1, -0.5],
        "nothing": None,
        "deep": {"a": [{"b": [[], {}, [[[]]]]}]},
        "a.b": {"c[]": 1},
    }
    point = models.PointStruct(id=1, vector=[1.0] * DIMENSIONS, payload=payload)
    changed(pair, single, lambda client: client.upsert(single, [point]))
    found = pair.tested.retrieve(single, [1])[0].payload
    assert found == payload
    assert isinstance(found["numbers"][2], int), "an integer became a fraction"


def test_a_payload_with_a_nul_is_kept_or_refused(pair: Pair, single: str) -> None:
    """PostgreSQL holds no U+0000; a client is told so, and nothing is written."""
    point = models.PointStruct(id=1, vector=[1.0] * DIMENSIONS, payload={"a": ["\0"]})
    if pair.engine == "postgres":
        refused(pair.tested, lambda client: client.upsert(single, [point]), 400, "U+0000")
        pair.same_points(single)
    else:
        changed(pair, single, lambda client: client.upsert(single, [point]))


def test_vectors_of_a_cosine_come_back_at_length_one_and_others_as_they_were(pair: Pair) -> None:
    for distance in list(models.Distance)[:3]:
        name = pair.collection(qdrant_points.one_vector(distance), qdrant_points.points(20))
        found, _ = pair.tested.scroll(name, limit=20, with_vectors=True)
        given = {point.id: np.array(point.vector, dtype=np.float32) for point in qdrant_points.points(20)}
        for point in found:
            wanted = given[point.id]
            if distance == models.Distance.COSINE:
                np.testing.assert_allclose(np.array(point.vector), wanted / np.linalg.norm(wanted), atol=1e-6)
            else:
                np.testing.assert_array_equal(np.array(point.vector, dtype=np.float32), wanted)


# Read


def test_points_that_there_are_not_are_left_out(pair: Pair, single: str) -> None:
    wanted = [3, 10**9, point_id(2), uuid_of(10**9)]
    found = pair.same(lambda client: client.retrieve(single, wanted, with_vectors=True))
    assert ids(found) == [3, point_id(2)]


@pytest.mark.parametrize("with_vectors", [False, True, ["small"]], ids=str)
@pytest.mark.parametrize("with_payload", [False, True, ["colour", "owner.name"]], ids=str)
def test_only_what_is_wanted_of_a_point_is_given(
    pair: Pair, named: str, with_payload: bool | list[str], with_vectors: bool | list[str]
) -> None:
    wanted = [point_id(n) for n in range(10)]
    found = pair.same(
        lambda client: client.retrieve(named, wanted, with_payload=with_payload, with_vectors=with_vectors)
    )
    assert all((point.payload is None) == (with_payload is False) for point in found)
    assert all((point.vector is None) == (with_vectors is False) for point in found)


@pytest.mark.parametrize("wanted", [None, RED], ids=["all", "filter"])
@pytest.mark.parametrize("limit", [1, 7, 60, 61])
def test_pages_of_a_scroll_have_every_point_once(
    pair: Pair, single: str, limit: int, wanted: models.Filter | None
) -> None:
    """By ascending ids: the integers first, and then the UUIDs."""
    seen: list[int | str] = []
    after = None
    while True:
        page, after = pair.same(lambda client, after=after: client.scroll(single, wanted, limit=limit, offset=after))
        seen += ids(page)
        if after is None:
            break
    assert seen == sorted(seen, key=lambda id: (isinstance(id, str), id))
    assert len(seen) == pair.tested.count(single, wanted).count


def test_a_page_begins_at_an_offset_that_is_no_point(pair: Pair, single: str) -> None:
    for offset in (2, 50, 10**9, uuid_of(2), str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1))):
        pair.same(lambda client, offset=offset: client.scroll(single, limit=5, offset=offset))


def test_a_count_that_need_not_be_exact_is_of_all_points_too(pair: Pair, single: str) -> None:
    for exact in (True, False):
        assert pair.same(lambda client, exact=exact: client.count(single, exact=exact)).count == 60


def test_one_point_is_read_by_its_path(pair: Pair, single: str) -> None:
    answer = pair.tested.http.points_api.get_point(single, point_id(2))
    qdrant.assert_same(pair.oracle.retrieve(single, [point_id(2)], with_vectors=True)[0], answer.result)


# Delete


@SELECTORS
def test_deleted_points_are_gone(pair: Pair, single: str, wanted: Wanted) -> None:
    changed(pair, single, lambda client: client.delete(single, wanted))
    assert pair.tested.count(single).count < 60
    query = vectors(1, DIMENSIONS, seed=35)[0]
    pair.same(lambda client: client.query_points(single, query=query, limit=60))


def test_a_deleted_point_can_be_written_again(pair: Pair, single: str) -> None:
    pair.same(lambda client: client.delete(single, [3, 4]))
    changed(pair, single, lambda client: client.upsert(single, [models.PointStruct(id=3, vector=[1.0] * DIMENSIONS)]))
    assert pair.tested.retrieve(single, [3, 4])[0].payload == {}


def test_deleting_what_is_not_there_changes_nothing(pair: Pair, single: str) -> None:
    changed(pair, single, lambda client: client.delete(single, [10**9, uuid_of(10**9)]))


def test_a_filter_without_conditions_deletes_every_point(pair: Pair, single: str) -> None:
    changed(pair, single, lambda client: client.delete(single, models.FilterSelector(filter=models.Filter())))
    assert pair.tested.count(single).count == 0


# Payload


@SELECTORS
def test_set_fields_join_the_others(pair: Pair, single: str, wanted: Wanted) -> None:
    new = {"colour": "blue", "new": {"a": [1]}, "tags": None}
    changed(pair, single, lambda client: client.set_payload(single, new, points=wanted))


@pytest.mark.parametrize(
    "key",
    ["owner", "owner.address", "owner.new.deeper", "items[]", "items[0]", "items[].more", "tags[0]", '"a.b"', "count"],
)
def test_fields_are_set_at_a_path(pair: Pair, single: str, key: str) -> None:
    wanted = [point_id(n) for n in range(30)]
    changed(pair, single, lambda client: client.set_payload(single, {"age": 1, "x": {"y": 2}}, points=wanted, key=key))


@SELECTORS
def test_an_overwritten_payload_is_the_new_one_alone(pair: Pair, single: str, wanted: Wanted) -> None:
    changed(pair, single, lambda client: client.overwrite_payload(single, {"colour": "blue"}, points=wanted))


@SELECTORS
def test_deleted_fields_are_gone_and_the_others_stay(pair: Pair, single: str, wanted: Wanted) -> None:
    keys = ["colour", "owner.address.city", "items[].sku", "weight", "owner.weight"]
    changed(pair, single, lambda client: client.delete_payload(single, keys, points=wanted))


@SELECTORS
def test_a_cleared_payload_is_empty(pair: Pair, single: str, wanted: Wanted) -> None:
    changed(pair, single, lambda client: client.clear_payload(single, points_selector=wanted))


# Vectors


def test_an_updated_vector_leaves_the_rest_of_the_point(pair: Pair, named: str) -> None:
    new = vectors(3, SMALL_DIMENSIONS, seed=36)
    points = [models.PointVectors(id=point_id(n), vector={"small": new[n - 2]}) for n in (2, 3, 4)]
    changed(pair, named, lambda client: client.update_vectors(named, points))
    found = pair.same(lambda client: client.query_points(named, query=new[0], using="small", limit=60))
    assert found.points[0].id == point_id(2)


def test_an_updated_vector_without_a_name(pair: Pair, single: str) -> None:
    points = [models.PointVectors(id=3, vector=[0.25] * DIMENSIONS)]
    changed(pair, single, lambda client: client.update_vectors(single, points))


@SELECTORS
def test_deleted_vectors_are_gone_and_the_others_stay(pair: Pair, named: str, wanted: Wanted) -> None:
    changed(pair, named, lambda client: client.delete_vectors(named, vectors=["small"], points=wanted))
    has = models.Filter(must=[models.HasVectorCondition(has_vector="small")])
    found, _ = pair.same(lambda client: client.scroll(named, has, limit=60))
    query = vectors(1, SMALL_DIMENSIONS, seed=37)[0]
    nearest = pair.same(lambda client: client.query_points(named, query=query, using="small", limit=60))
    assert len(nearest.points) == len(found) < 60


# Several writes in one


def test_operations_of_a_batch_are_done_one_after_the_other(pair: Pair, named: str) -> None:
    new: Any = {"large": [0.5] * DIMENSIONS, "small": [0.5] * SMALL_DIMENSIONS}
    operations: list[models.UpdateOperation] = [
        models.UpsertOperation(
            upsert=models.PointsList(points=[models.PointStruct(id=70, vector=new, payload={"colour": "red", "n": 1})])
        ),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"n": 2}, points=[70, 0])),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"in": 3}, points=[70], key="sub")),
        models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"colour": "red"}, points=[1])),
        models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["count"], filter=RED)),
        models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[3])),
        models.UpdateVectorsOperation(
            update_vectors=models.UpdateVectors(
                points=[models.PointVectors(id=4, vector={"large": [1.0] * DIMENSIONS})]
            )
        ),
        models.DeleteVectorsOperation(delete_vectors=models.DeleteVectors(points=[70, 6], vector=["small"])),
        models.DeleteOperation(delete=models.PointIdsList(points=[7, 9])),
        models.UpsertOperation(
            upsert=models.PointsBatch(batch=models.Batch(ids=[7], vectors={"large": [[2.0] * DIMENSIONS]}))
        ),
    ]
    changed(pair, named, lambda client: client.batch_update_points(named, operations))
    assert pair.tested.retrieve(named, [70])[0].payload == {"colour": "red", "n": 2, "sub": {"in": 3}}


def test_writes_without_waiting_are_seen_by_the_next_that_waits(pair: Pair, single: str) -> None:
    """Writes are done in the order in which they came."""
    for n in range(20):
        pair.tested.set_payload(single, {"turn": n}, points=[3], wait=False)
    pair.tested.set_payload(single, {"last": True}, points=[3], wait=True)
    payload = pair.tested.retrieve(single, [3], with_payload=["turn", "last"])[0].payload
    assert payload == {"turn": 19, "last": True}


# Many points


@pytest.mark.parametrize("parallel", [1, 4])
def test_uploaded_points_are_all_there(pair: Pair, parallel: int) -> None:
    points = qdrant_points.points()
    name = pair.collection(qdrant_points.one_vector())
    pair.same(
        lambda client: client.upload_points(name, points, batch_size=33, parallel=parallel, wait=True, max_retries=0)
    )
    pair.same_points(name)


def test_an_uploaded_collection_is_all_there(pair: Pair) -> None:
    columns: Any = {
        "large": np.array(vectors(COUNT, DIMENSIONS, seed=38), dtype=np.float32),
        "small": np.array(vectors(COUNT, SMALL_DIMENSIONS, seed=39), dtype=np.float32),
    }
    name = pair.collection(qdrant_points.named_vectors())
    payloads = [qdrant_points.payload(n) for n in range(COUNT)]
    numbers = [point_id(n) for n in range(COUNT)]
    pair.same(
        lambda client: client.upload_collection(
            name, vectors=columns, payload=payloads, ids=numbers, batch_size=50, wait=True, max_retries=0
        )
    )
    pair.same_points(name)


def test_points_without_ids_get_ids_of_their_own(pair: Pair) -> None:
    name = pair.collection(models.VectorParams(size=DIMENSIONS, distance=models.Distance.DOT))
    pair.tested.upload_collection(
        name, vectors=np.array(vectors(200, DIMENSIONS, seed=40), dtype=np.float32), wait=True
    )
    assert pair.tested.count(name).count == 200


def test_threads_that_write_and_search_at_once_lose_nothing(pair: Pair) -> None:
    """Each thread writes points of its own, and searches; readers see whole points."""
    threads, each = 6, 150
    name = pair.collection(models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE))
    drawn = vectors(threads * each, DIMENSIONS, seed=41)
    failures: list[str] = []

    def work(thread: int) -> None:
        try:
            for n in range(thread, len(drawn), threads):
                point = models.PointStruct(id=n, vector=drawn[n], payload={"n": n})
                pair.tested.upsert(name, [point])
                found = pair.tested.query_points(name, query=drawn[n], limit=3).points
                assert found[0].id == n, f"{n} is not the nearest to itself"
                assert all(one.payload == {"n": one.id} for one in found)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_S)
    assert failures == []
    assert pair.tested.count(name).count == len(drawn)


def test_the_asynchronous_client_does_the_same(pair: Pair) -> None:
    name = pair.collection(qdrant_points.one_vector())
    points = qdrant_points.points(100)
    query = vectors(1, DIMENSIONS, seed=42)[0]
    pair.oracle.upsert(name, points)

    async def use() -> models.QueryResponse:
        url = pair.tested.init_options["url"]
        client = AsyncQdrantClient(url=url, timeout=PATIENCE_S, check_compatibility=False)
        parts = [points[start : start + 10] for start in range(0, 100, 10)]
        await asyncio.gather(*(client.upsert(name, part) for part in parts))
        assert (await client.count(name, RED)).count == pair.oracle.count(name, RED).count
        found = await client.query_points(name, query=query, limit=50, with_vectors=True)
        await client.close()
        return found

    qdrant.assert_same(pair.oracle.query_points(name, query=query, limit=50, with_vectors=True), asyncio.run(use()))
    pair.same_points(name)
