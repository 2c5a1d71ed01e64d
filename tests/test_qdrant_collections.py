"""Collections, their aliases and payload indexes; and what is refused by the name of what was wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient
from qdrant_client.http import models
from qdrant_client.http.exceptions import UnexpectedResponse

import qdrant
import qdrant_points
from engines import ENGINES
from qdrant import Pair, ids, refused, uuid_of
from qdrant_points import DIMENSIONS, INDEXES, SMALL_DIMENSIONS

SMALL = models.VectorParams(size=2, distance=models.Distance.DOT)


@pytest.fixture(scope="module", params=ENGINES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with qdrant.pair(tmp_path_factory.mktemp("collections"), request.param) as pair:
        yield pair


@pytest.fixture(scope="module")
def single(pair: Pair) -> str:
    return pair.collection(qdrant_points.one_vector(), qdrant_points.points(30))


@pytest.fixture(scope="module")
def named(pair: Pair) -> str:
    return pair.collection(qdrant_points.named_vectors(), qdrant_points.named_points(30))


def create(collection: str, alias: str) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=alias))


def rename(old: str, new: str) -> models.RenameAliasOperation:
    return models.RenameAliasOperation(rename_alias=models.RenameAlias(old_alias_name=old, new_alias_name=new))


def delete(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


# Collections


def test_the_server_says_which_version_it_speaks(pair: Pair) -> None:
    """The client warns of a version that is further than one minor from its own, 1.20."""
    major, minor, *_ = pair.tested.info().version.split(".")
    assert (major, minor) in {("1", "19"), ("1", "20"), ("1", "21")}


@pytest.mark.parametrize("distance", list(models.Distance)[:3], ids=str)
def test_a_collection_is_what_it_was_created_as(pair: Pair, distance: models.Distance) -> None:
    name = pair.collection(qdrant_points.one_vector(distance), qdrant_points.points(12))
    info = pair.tested.get_collection(name)
    vectors = info.config.params.vectors
    assert isinstance(vectors, models.VectorParams)
    assert (vectors.size, vectors.distance) == (DIMENSIONS, distance)
    assert info.points_count == 12
    assert info.status in (models.CollectionStatus.GREEN, models.CollectionStatus.YELLOW)
    assert info.payload_schema == {}


def test_a_collection_with_named_vectors_names_them(pair: Pair, named: str) -> None:
    found = pair.tested.get_collection(named).config.params.vectors
    assert isinstance(found, dict)
    assert {name: (one.size, one.distance) for name, one in found.items()} == {
        name: (one.size, one.distance) for name, one in qdrant_points.named_vectors().items()
    }


def test_settings_of_a_graph_are_kept_and_changed(pair: Pair) -> None:
    name = pair.collection(SMALL, hnsw_config=models.HnswConfigDiff(m=24, ef_construct=90))
    config = pair.tested.get_collection(name).config.hnsw_config
    assert (config.m, config.ef_construct) == (24, 90)
    assert pair.tested.update_collection(name, hnsw_config=models.HnswConfigDiff(ef_construct=150))
    config = pair.tested.get_collection(name).config.hnsw_config
    assert (config.m, config.ef_construct) == (24, 150)


def test_metadata_is_kept_as_it_is_and_changed_key_by_key(pair: Pair) -> None:
    written = {"team": "search", "run": {"epochs": 3, "notes": ["ä", None]}, "gone": 1}
    name = pair.collection(SMALL, metadata=written)
    assert pair.tested.get_collection(name).config.metadata == written
    assert pair.tested.update_collection(name, metadata={"run": {"epochs": 4}, "gone": None, "new": True})
    assert pair.tested.get_collection(name).config.metadata == {"team": "search", "run": {"epochs": 4}, "new": True}
    assert pair.tested.update_collection(name, metadata={"team": None, "run": None, "new": None})
    assert pair.tested.get_collection(name).config.metadata is None
    bare = pair.collection(SMALL)
    assert pair.tested.get_collection(bare).config.metadata is None


def test_metadata_has_a_bound(pair: Pair) -> None:
    name = pair.collection(SMALL, metadata={"kept": "x"})
    large = {"text": "x" * (64 << 10)}
    refused(pair.tested, lambda client: client.update_collection(name, metadata=large), 400, "metadata", 64 << 10)
    assert pair.tested.get_collection(name).config.metadata == {"kept": "x"}
    refused(pair.tested, lambda client: client.create_collection("large", SMALL, metadata=large), 400, "metadata")
    assert not pair.tested.collection_exists("large")


@pytest.mark.parametrize("asked, told", [("x4", "x8"), ("x8", "x8"), ("x16", "x16"), ("x32", "x32"), ("x64", "x64")])
def test_product_quantisation_is_told_as_it_was_asked_for(pair: Pair, asked: str, told: str) -> None:
    """`x4` takes as little as `x8`: found vectors are compared at full precision whatever was asked for."""
    product = models.ProductQuantizationConfig(compression=models.CompressionRatio(asked), always_ram=True)
    params = models.VectorParams(size=64, distance=models.Distance.COSINE)
    quantisation = models.ProductQuantization(product=product)
    if pair.engine == "postgres":
        asking = {"vectors_config": params, "quantization_config": quantisation}
        refused(pair.tested, lambda client: client.create_collection("no", **asking), 501, "product quantisation")
        return
    name = pair.collection(params, quantization_config=quantisation)
    config = pair.tested.get_collection(name).config
    assert isinstance(config.quantization_config, models.ProductQuantization)
    assert config.quantization_config.product.compression == told
    own = config.params.vectors
    assert isinstance(own, models.VectorParams) and isinstance(own.quantization_config, models.ProductQuantization)


def test_a_vector_with_product_quantisation_of_its_own_finds_what_the_others_find(pair: Pair) -> None:
    product = models.ProductQuantizationConfig(compression=models.CompressionRatio.X16)
    vectors = {
        name: params.model_copy(update={"quantization_config": models.ProductQuantization(product=product)})
        for name, params in qdrant_points.named_vectors().items()
    }
    if pair.engine == "postgres":
        refused(pair.tested, lambda client: client.create_collection("no", vectors), 501, "product quantisation")
        return
    name = pair.collection(vectors, qdrant_points.named_points(30))
    for using, params in vectors.items():
        thorough = models.SearchParams(quantization=models.QuantizationSearchParams(oversampling=4.0))
        pair.same(
            lambda client, using=using, size=params.size: [
                point.id
                for point in client.query_points(
                    name, query=[1.0] * size, using=using, limit=5, search_params=thorough
                ).points
            ]
        )


def test_collections_are_listed_until_they_are_deleted(pair: Pair) -> None:
    first, second = pair.collection(SMALL), pair.collection(SMALL)

    def listed(client: QdrantClient) -> set[str]:
        return {one.name for one in client.get_collections().collections}

    assert {first, second} <= pair.same(listed)
    assert pair.same(lambda client: client.delete_collection(first))
    assert second in pair.same(listed)
    for name, there in ((first, False), (second, True)):
        assert pair.same(lambda client, name=name: client.collection_exists(name)) == there


def test_deleting_a_collection_that_is_not_there_says_so(pair: Pair) -> None:
    assert pair.same(lambda client: client.delete_collection("nowhere")) is False


def test_a_collection_of_a_deleted_one_s_name_is_empty(pair: Pair) -> None:
    name = pair.collection(SMALL, [models.PointStruct(id=1, vector=[1.0, 2.0], payload={"old": 1})])
    pair.same(lambda client: client.delete_collection(name))
    larger = models.VectorParams(size=3, distance=models.Distance.EUCLID)
    pair.same(lambda client: client.create_collection(name, vectors_config=larger))
    pair.same_points(name)
    pair.same(lambda client: client.upsert(name, [models.PointStruct(id=1, vector=[1.0, 2.0, 3.0])]))
    pair.same_points(name)


@pytest.mark.parametrize("name", ["a", "9", "a.b", "With_All-3.kinds", "x" * 73, "x" * 96, "collections", "points"])
def test_a_name_is_of_letters_digits_dots_and_dashes(pair: Pair, name: str) -> None:
    if pair.engine == "qdrant" and len(name) > 73:
        # What its spaces are called in the cluster is longer.
        refused(pair.tested, lambda client: client.create_collection(name, vectors_config=SMALL), 400, 73)
        return
    pair.same(lambda client: client.create_collection(name, vectors_config=SMALL))
    pair.same(lambda client: client.upsert(name, [models.PointStruct(id=1, vector=[1.0, 2.0])]))
    pair.same_points(name)
    assert pair.same(lambda client: client.delete_collection(name))


@pytest.mark.parametrize(
    "name", ["żółć", "with space", "...", ".hidden", "-x", "x" * 97, "a/b", "a%2Fb", "a\0b"], ids=repr
)
def test_any_other_name_is_refused(pair: Pair, single: str, name: str) -> None:
    """The oracle takes more."""
    refused(pair.tested, lambda client: client.create_collection(name, vectors_config=SMALL), 400)
    refused(pair.tested, lambda client: client.update_collection_aliases([create(single, name)]), 400)
    assert name not in {one.name for one in pair.tested.get_collections().collections}


# Aliases


def test_an_alias_is_read_and_written_like_its_collection(pair: Pair) -> None:
    name = pair.collection(SMALL)
    pair.same(lambda client: client.update_collection_aliases([create(name, "current")]))
    pair.same(lambda client: client.upsert("current", [models.PointStruct(id=1, vector=[1.0, 2.0])]))
    pair.same_points(name)
    pair.same_points("current")
    assert pair.same(lambda client: client.collection_exists("current"))
    assert pair.tested.get_collection("current").points_count == 1


def test_aliases_are_listed_renamed_and_deleted(pair: Pair) -> None:
    name, other = pair.collection(SMALL), pair.collection(SMALL)
    pair.same(
        lambda client: client.update_collection_aliases([create(name, "a"), create(name, "b"), create(other, "c")])
    )
    assert len(pair.same(lambda client: client.get_collection_aliases(name)).aliases) == 2
    pair.same(lambda client: client.update_collection_aliases([rename("a", "d"), delete("b")]))
    assert [one.alias_name for one in pair.tested.get_collection_aliases(name).aliases] == ["d"]
    pair.same(lambda client: client.get_aliases())
    pair.refused(lambda client: client.count("a"), 404, "a")


def test_actions_on_aliases_happen_all_or_not_at_all(pair: Pair) -> None:
    name, other = pair.collection(SMALL), pair.collection(SMALL)
    pair.same(lambda client: client.update_collection_aliases([create(name, "whole")]))
    actions: list[models.AliasOperations] = [delete("whole"), create(other, "whole"), create("nowhere", "part")]
    pair.refused(lambda client: client.update_collection_aliases(actions), 404, "nowhere")
    pair.same(lambda client: client.get_aliases())
    assert [one.alias_name for one in pair.tested.get_collection_aliases(name).aliases] == ["whole"]
    pair.same(lambda client: client.update_collection_aliases(actions[:2]))
    assert [one.alias_name for one in pair.tested.get_collection_aliases(other).aliases] == ["whole"]


def test_aliases_of_a_deleted_collection_are_gone(pair: Pair) -> None:
    name = pair.collection(SMALL)
    pair.same(lambda client: client.update_collection_aliases([create(name, "orphan")]))
    pair.same(lambda client: client.delete_collection(name))
    pair.same(lambda client: client.get_aliases())
    assert not pair.tested.collection_exists("orphan")


def test_an_alias_does_not_take_a_collection_s_name(pair: Pair, single: str, named: str) -> None:
    pair.refused(lambda client: client.update_collection_aliases([create(single, named)]), 409, named)
    pair.same(lambda client: client.update_collection_aliases([create(single, "taken")]))
    pair.refused(lambda client: client.create_collection("taken", vectors_config=SMALL), 409, "taken")


# Payload indexes


def test_payload_indexes_are_listed_until_they_are_deleted(pair: Pair) -> None:
    name = pair.collection(qdrant_points.one_vector(), qdrant_points.points(50))
    for key, kind in INDEXES.items():
        assert pair.tested.create_payload_index(name, key, kind).status == models.UpdateStatus.COMPLETED
    schema = pair.tested.get_collection(name).payload_schema
    assert {key: one.data_type for key, one in schema.items()} == INDEXES
    for key in INDEXES:
        pair.tested.delete_payload_index(name, key)
    assert pair.tested.get_collection(name).payload_schema == {}
    pair.same_points(name)


def test_an_index_may_be_of_settings_and_made_twice(pair: Pair, single: str) -> None:
    number = models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=True)
    for _ in range(2):
        pair.tested.create_payload_index(single, "count", number)
    assert pair.tested.get_collection(single).payload_schema["count"].data_type == models.PayloadSchemaType.INTEGER
    pair.tested.delete_payload_index(single, "count")


# What is refused


VECTOR = [0.5] * DIMENSIONS
POINT = models.PointStruct(id=1, vector=VECTOR)

CALLS: dict[str, Callable[[QdrantClient, str], object]] = {
    "get": lambda client, name: client.get_collection(name),
    "count": lambda client, name: client.count(name),
    "scroll": lambda client, name: client.scroll(name),
    "retrieve": lambda client, name: client.retrieve(name, [1]),
    "query": lambda client, name: client.query_points(name, query=VECTOR),
    "batch of queries": lambda client, name: client.query_batch_points(name, [models.QueryRequest(query=VECTOR)]),
    "groups": lambda client, name: client.query_points_groups(name, group_by="colour", query=VECTOR),
    "facet": lambda client, name: client.facet(name, "colour"),
    "upsert": lambda client, name: client.upsert(name, [POINT]),
    "delete": lambda client, name: client.delete(name, [1]),
    "set payload": lambda client, name: client.set_payload(name, {"a": 1}, points=[1]),
    "clear payload": lambda client, name: client.clear_payload(name, [1]),
    "update vectors": lambda client, name: client.update_vectors(name, [models.PointVectors(id=1, vector=VECTOR)]),
    "batch of writes": lambda client, name: client.batch_update_points(
        name, [models.DeleteOperation(delete=models.PointIdsList(points=[1]))]
    ),
    "alias": lambda client, name: client.update_collection_aliases([create(name, "b")]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_unknown_collection_is_named(pair: Pair, call: Callable[[QdrantClient, str], object]) -> None:
    pair.refused(lambda client: call(client, "no-such-collection"), 404, "no-such-collection")


def test_a_collection_is_not_created_twice(pair: Pair, single: str) -> None:
    pair.refused(lambda client: client.create_collection(single, vectors_config=SMALL), 409, single)
    pair.same_points(single)


def written(vector: Any) -> list[Callable[[QdrantClient, str], object]]:
    """The ways in which a vector comes to a collection."""
    return [
        lambda client, name: client.upsert(name, [POINT, models.PointStruct(id=2, vector=vector)]),
        lambda client, name: client.upsert(name, models.Batch(ids=[2], vectors=[vector])),
        lambda client, name: client.update_vectors(name, [models.PointVectors(id=1, vector=vector)]),
    ]


@pytest.mark.parametrize("size", [1, DIMENSIONS - 1, DIMENSIONS + 1, 4 * DIMENSIONS])
def test_a_vector_of_the_wrong_size_is_refused_with_both_sizes(pair: Pair, single: str, size: int) -> None:
    """Nothing of the write is done."""
    for write in written([0.5] * size):
        pair.refused(lambda client, write=write: write(client, single), 400, size, DIMENSIONS)
    refused(pair.tested, lambda client: client.query_points(single, query=[0.5] * size), 400, size, DIMENSIONS)
    pair.same_points(single)


def test_a_named_vector_of_the_wrong_size_is_named(pair: Pair, named: str) -> None:
    wrong = models.PointStruct(id=1, vector={"small": [0.5] * DIMENSIONS})
    pair.refused(lambda client: client.upsert(named, [wrong]), 400, "small", SMALL_DIMENSIONS, DIMENSIONS)
    pair.same_points(named)


def test_an_unknown_vector_is_named(pair: Pair, named: str) -> None:
    wrong = models.PointStruct(id=1, vector={"medium": VECTOR})
    pair.refused(lambda client: client.upsert(named, [wrong]), 400, "medium")
    pair.refused(lambda client: client.query_points(named, query=VECTOR, using="medium"), 400, "medium")
    pair.refused(lambda client: client.delete_vectors(named, ["medium"], points=[1]), 400, "medium")
    pair.refused(lambda client: client.query_points(named, query=VECTOR), 400)
    pair.same_points(named)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39], ids=str)
def test_a_vector_that_is_not_finite_is_refused(pair: Pair, single: str, value: float) -> None:
    """The client itself sends no bare NaN: it fails, or sends null."""
    vector = [value, *VECTOR[1:]]
    for write in written(vector):
        with pytest.raises(Exception, match=r".+") as caught:
            write(pair.tested, single)
        assert "Unexpected Response: 4" in str(caught.value) or isinstance(caught.value, ValueError)
    pair.same_points(single)


def test_a_point_that_is_not_there_has_no_neighbours(pair: Pair, single: str) -> None:
    for id in (10**9, uuid_of(10**9)):
        pair.refused(lambda client, id=id: client.query_points(single, query=id), 404, id)


def test_a_point_without_the_vector_has_no_neighbours_by_it(pair: Pair, named: str) -> None:
    pair.refused(lambda client: client.query_points(named, query=3, using="small"), 400, "small")


def test_a_change_of_a_point_that_is_not_there_is_refused_whole(pair: Pair, single: str) -> None:
    """The oracle changes the other points all the same."""
    points: list[Any] = [1, 10**9, 3]
    changes: list[Callable[[QdrantClient], object]] = [
        lambda client: client.set_payload(single, {"partly": 1}, points=points),
        lambda client: client.overwrite_payload(single, {"partly": 1}, points=points),
        lambda client: client.update_vectors(single, [models.PointVectors(id=id, vector=VECTOR) for id in points]),
    ]
    for change in changes:
        refused(pair.tested, change, 404, 10**9)
    pair.same_points(single)


@pytest.mark.parametrize("id", ["", "x", "123", "00000000-0000-0000-0000-00000000000g"], ids=repr)
def test_an_id_that_is_no_uuid_is_refused(pair: Pair, single: str, id: str) -> None:
    refused(pair.tested, lambda client: client.upsert(single, [models.PointStruct(id=id, vector=VECTOR)]), 400)
    refused(pair.tested, lambda client: client.retrieve(single, [id]), 400)
    refused(pair.tested, lambda client: client.delete(single, [id]), 400)
    pair.same_points(single)


SPARSE = models.SparseVector(indices=[1, 5], values=[0.5, 0.25])
MULTI = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
UNSUPPORTED: dict[str, Callable[[QdrantClient, str], object]] = {
    "sparse_vectors": lambda client, _: client.create_collection(
        "new", vectors_config=SMALL, sparse_vectors_config={"words": models.SparseVectorParams()}
    ),
    "multivector_config": lambda client, _: client.create_collection(
        "new", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT, multivector_config=MULTI)
    ),
    "formula": lambda client, name: client.query_points(
        name,
        prefetch=models.Prefetch(query=VECTOR),
        query=models.FormulaQuery(formula=models.SumExpression(sum=["$score", 1.0])),
    ),
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_what_is_not_supported_is_named(pair: Pair, single: str, field: str) -> None:
    refused(pair.tested, lambda client: UNSUPPORTED[field](client, single), 501, field)
    assert not pair.tested.collection_exists("new")


def test_sparse_and_multiple_vectors_are_not_taken_for_others(pair: Pair, single: str) -> None:
    vectors: list[Any] = [{"words": SPARSE}, [VECTOR, VECTOR]]
    for vector in vectors:
        point = models.PointStruct(id=1, vector=vector)
        with pytest.raises(UnexpectedResponse) as caught:
            pair.tested.upsert(single, [point])
        assert caught.value.status_code in (400, 501)
    pair.same_points(single)


BAD_FILTERS = {
    "fewer than one": models.Filter(min_should=models.MinShould(conditions=[], min_count=0)),
    "path": models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="a["))]),
    "empty path": models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key=""))]),
}


@pytest.mark.parametrize("wanted", BAD_FILTERS.values(), ids=BAD_FILTERS)
def test_a_filter_that_is_none_is_refused(pair: Pair, single: str, wanted: models.Filter) -> None:
    pair.refused(lambda client: client.count(single, wanted), 400)
    refused(pair.tested, lambda client: client.delete(single, wanted), 400)
    pair.same_points(single)


BAD_QUERIES: dict[str, dict[str, Any]] = {
    "limit of zero": {"query": VECTOR, "limit": 0},
    "fusion of nothing": {"query": models.FusionQuery(fusion=models.Fusion.RRF)},
    "prefetch for nothing": {"prefetch": models.Prefetch(query=VECTOR)},
    "threshold for nothing": {"score_threshold": 0.5, "prefetch": [models.Prefetch(query=VECTOR)]},
    "weights of others": {
        "query": models.RrfQuery(rrf=models.Rrf(weights=[1.0, 2.0])),
        "prefetch": models.Prefetch(query=VECTOR),
    },
    "no examples": {"query": models.RecommendQuery(recommend=models.RecommendInput(positive=[]))},
}


@pytest.mark.parametrize("query", BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_a_query_that_is_none_is_refused(pair: Pair, single: str, query: dict[str, Any]) -> None:
    pair.refused(lambda client: client.query_points(single, **query), 400)


def test_an_order_has_no_offset(pair: Pair, single: str) -> None:
    pair.refused(lambda client: client.scroll(single, order_by="count", offset=3), 400)


def test_a_batch_with_one_wrong_operation_does_none(pair: Pair, single: str) -> None:
    operations: list[models.UpdateOperation] = [
        models.DeleteOperation(delete=models.PointIdsList(points=[0])),
        models.UpsertOperation(upsert=models.PointsList(points=[models.PointStruct(id=1, vector=[1.0])])),
    ]
    pair.refused(lambda client: client.batch_update_points(single, operations), 400, 1, DIMENSIONS)
    pair.same_points(single)
    assert ids(pair.tested.retrieve(single, [0])) == [0]
