"""Queries of every kind give what the oracle gives: the same points, scores, groups and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient
from qdrant_client.http import models

import qdrant
import qdrant_points
from engines import ENGINES
from qdrant import Pair, ids
from qdrant_points import COUNT, DIMENSIONS, INDEXES, SMALL_DIMENSIONS, point_id, vectors

LARGE = vectors(20, DIMENSIONS, seed=11)
SMALL = vectors(20, SMALL_DIMENSIONS, seed=12)
ACTIVE = models.Filter(must=[models.FieldCondition(key="active", match=models.MatchValue(value=True))])
CHEAP = models.Filter(must=[models.FieldCondition(key="price", range=models.Range(lt=300))])
EXACT = models.SearchParams(exact=True)


@pytest.fixture(scope="module", params=ENGINES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with qdrant.pair(tmp_path_factory.mktemp("queries"), request.param) as pair:
        yield pair


@pytest.fixture(scope="module", params=list(models.Distance)[:3], ids=lambda distance: distance.value.lower())
def measured(pair: Pair, request: pytest.FixtureRequest) -> str:
    """The points, near by one distance after the other."""
    return pair.collection(qdrant_points.one_vector(request.param), qdrant_points.points())


@pytest.fixture(scope="module")
def named(pair: Pair) -> str:
    """Points with two vectors, near by the cosine and by the distance of Euclid."""
    name = pair.collection(qdrant_points.named_vectors(), qdrant_points.named_points())
    for key in ("colour", "tags", "count", "active", "serial", "when", "price", "sizes"):
        pair.tested.create_payload_index(name, key, INDEXES[key])
    return name


def asked(pair: Pair, name: str, query: object = None, *, cut_in_tie: bool = False, **more: object) -> list[object]:
    """Asks both; gives the ids that were found."""

    def call(client: QdrantClient) -> models.QueryResponse:
        return client.query_points(name, query=query, **more)  # type: ignore[arg-type]

    return ids(pair.same(call, cut_in_tie=cut_in_tie).points)


# Nearest


@pytest.mark.parametrize("query", range(5))
def test_the_nearest_are_the_nearest(pair: Pair, measured: str, query: int) -> None:
    assert len(asked(pair, measured, LARGE[query], with_vectors=True)) == 10


def test_all_points_are_ranked(pair: Pair, measured: str) -> None:
    assert len(asked(pair, measured, LARGE[5], limit=2 * COUNT)) == COUNT


def test_an_offset_leaves_out_the_first(pair: Pair, measured: str) -> None:
    whole = asked(pair, measured, LARGE[0], limit=30)
    assert asked(pair, measured, LARGE[0], limit=10, offset=20) == whole[20:]
    assert (
        asked(pair, measured, LARGE[0], limit=10, offset=COUNT - 4) == asked(pair, measured, LARGE[0], limit=COUNT)[-4:]
    )
    assert asked(pair, measured, LARGE[0], offset=COUNT) == []


def test_a_filter_and_a_limit_give_the_nearest_that_pass(pair: Pair, measured: str) -> None:
    assert len(asked(pair, measured, LARGE[1], query_filter=ACTIVE, limit=25)) == 25


@pytest.mark.parametrize("place", [0, 5, 200])
def test_a_score_threshold_cuts_the_answer_off(pair: Pair, measured: str, place: int) -> None:
    """The threshold lies between two scores, so that nobody can tell which side is part of it."""
    points = pair.tested.query_points(measured, query=LARGE[2], limit=COUNT).points
    threshold = (points[place].score + points[place + 1].score) / 2
    assert len(asked(pair, measured, LARGE[2], limit=COUNT, score_threshold=threshold)) == place + 1


@pytest.mark.parametrize("place", [1, 30])
def test_a_score_that_is_no_better_than_the_threshold_is_left_out(pair: Pair, measured: str, place: int) -> None:
    """The oracle's rule (`score <= score_threshold` ends its list), with the server's own score, which is exact."""
    points = pair.tested.query_points(measured, query=LARGE[2], limit=COUNT).points
    assert points[place - 1].score != points[place].score
    threshold = points[place].score
    found = pair.tested.query_points(measured, query=LARGE[2], limit=COUNT, score_threshold=threshold).points
    assert [point.id for point in found] == [point.id for point in points[:place]]


@pytest.mark.parametrize("number", [0, 4, 5], ids=["zero", "integer", "uuid"])
def test_a_point_is_not_the_nearest_to_itself(pair: Pair, measured: str, number: int) -> None:
    found = asked(pair, measured, point_id(number), limit=COUNT)
    assert len(found) == COUNT - 1
    assert point_id(number) not in found


@pytest.mark.parametrize(
    "params",
    [EXACT, models.SearchParams(hnsw_ef=COUNT), models.SearchParams(hnsw_ef=COUNT, exact=False, indexed_only=False)],
    ids=["exact", "ef", "all"],
)
def test_params_of_a_search_do_not_change_what_is_exact(pair: Pair, measured: str, params: models.SearchParams) -> None:
    asked(pair, measured, LARGE[3], search_params=params, limit=20)


def test_each_vector_of_a_point_is_searched_for_itself(pair: Pair, named: str) -> None:
    large = asked(pair, named, LARGE[0], using="large", limit=20)
    small = asked(pair, named, SMALL[0], using="small", limit=20)
    assert large != small


def test_points_without_the_vector_are_not_found(pair: Pair, named: str) -> None:
    found = asked(pair, named, SMALL[0], using="small", limit=COUNT)
    assert len(found) == COUNT - len(range(3, COUNT, 7))


@pytest.mark.parametrize("wanted", [True, False, ["small"], ["small", "large"]], ids=str)
def test_the_vectors_that_are_wanted_come_back(pair: Pair, named: str, wanted: bool | list[str]) -> None:
    asked(pair, named, LARGE[1], using="large", with_vectors=wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        True,
        False,
        ["colour", "owner"],
        models.PayloadSelectorInclude(include=["owner.name", "owner.address.city"]),
        models.PayloadSelectorInclude(include=["items[].sku", "tags"]),
        models.PayloadSelectorInclude(include=["weight"]),
        models.PayloadSelectorInclude(include=[]),
        models.PayloadSelectorExclude(exclude=["owner", "text"]),
        models.PayloadSelectorExclude(exclude=["owner.address", "items[].sizes", "weight"]),
        models.PayloadSelectorExclude(exclude=[]),
    ],
    ids=str,
)
def test_the_payload_that_is_wanted_comes_back(pair: Pair, measured: str, wanted: object) -> None:
    asked(pair, measured, LARGE[1], with_payload=wanted)
    pair.same(lambda client: client.retrieve(measured, [point_id(1), point_id(2)], with_payload=wanted))  # type: ignore[arg-type]
    pair.same(lambda client: client.scroll(measured, limit=20, with_payload=wanted))  # type: ignore[arg-type]


def test_an_alias_is_searched_like_its_collection(pair: Pair, named: str) -> None:
    create = models.CreateAlias(collection_name=named, alias_name="searched")
    pair.same(lambda client: client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)]))
    assert asked(pair, "searched", LARGE[2], using="large") == asked(pair, named, LARGE[2], using="large")


def test_a_vector_of_zeros_is_near_to_nothing(pair: Pair, measured: str) -> None:
    points = pair.tested.query_points(measured, query=[0.0] * DIMENSIONS, limit=5).points
    assert len(points) == 5
    assert all(point.score == point.score for point in points), "not a number"


# Recommend, discover


POSITIVE = [point_id(1), point_id(2), LARGE[0]]
NEGATIVE = [point_id(7), LARGE[1]]


@pytest.mark.parametrize("strategy", [None, *models.RecommendStrategy], ids=str)
@pytest.mark.parametrize("negative", [None, NEGATIVE], ids=["likes", "likes and dislikes"])
def test_recommended_are_those_near_to_examples(
    pair: Pair, measured: str, strategy: models.RecommendStrategy | None, negative: list[Any] | None
) -> None:
    """Among them are not the examples themselves."""
    examples = models.RecommendInput(positive=POSITIVE, negative=negative, strategy=strategy)
    found = asked(pair, measured, models.RecommendQuery(recommend=examples), limit=30)
    assert not {1, point_id(2)} & set(found)


@pytest.mark.parametrize(
    "strategy", [models.RecommendStrategy.BEST_SCORE, models.RecommendStrategy.SUM_SCORES], ids=str
)
def test_dislikes_alone_recommend_what_is_far(pair: Pair, measured: str, strategy: models.RecommendStrategy) -> None:
    examples = models.RecommendInput(negative=NEGATIVE, strategy=strategy)
    asked(pair, measured, models.RecommendQuery(recommend=examples), limit=30)


def test_examples_may_be_of_another_collection(pair: Pair, named: str) -> None:
    other = pair.collection(
        {"other": models.VectorParams(size=SMALL_DIMENSIONS, distance=models.Distance.DOT)},
        [models.PointStruct(id=n, vector={"other": SMALL[n]}) for n in range(20)],
    )
    where = models.LookupLocation(collection=other, vector="other")
    asked(pair, named, 7, using="small", lookup_from=where)
    examples = models.RecommendQuery(recommend=models.RecommendInput(positive=[3, 4], negative=[5]))
    asked(pair, named, examples, using="small", lookup_from=where, query_filter=CHEAP)


def test_recommendations_pass_a_filter(pair: Pair, named: str) -> None:
    examples = models.RecommendInput(positive=[1, 4], negative=[6], strategy=models.RecommendStrategy.BEST_SCORE)
    asked(pair, named, models.RecommendQuery(recommend=examples), using="large", query_filter=ACTIVE, limit=20)


# Order and chance


def order(key: str, descending: bool = False, start: Any = None) -> models.OrderByQuery:
    direction = models.Direction.DESC if descending else models.Direction.ASC
    return models.OrderByQuery(order_by=models.OrderBy(key=key, direction=direction, start_from=start))


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
@pytest.mark.parametrize(
    ("key", "start"), [("count", None), ("count", 5), ("price", 300.5), ("when", "2024-06-01T00:00:00Z")], ids=str
)
def test_points_are_ordered_by_a_field(pair: Pair, named: str, key: str, start: object, descending: bool) -> None:
    """Points without the field are left out. Scores say nothing of the order: records of a scroll do."""
    by = order(key, descending, start).order_by
    pair.same(lambda client: client.scroll(named, order_by=by, limit=COUNT, scroll_filter=CHEAP), cut_in_tie=True)
    queried = pair.tested.query_points(named, query=models.OrderByQuery(order_by=by), query_filter=CHEAP, limit=COUNT)
    scrolled, _ = pair.tested.scroll(named, order_by=by, scroll_filter=CHEAP, limit=COUNT)
    assert ids(queried.points) == ids(scrolled)


def test_a_point_comes_once_for_each_value_it_is_ordered_by(pair: Pair, named: str) -> None:
    found, _ = pair.same(lambda client: client.scroll(named, order_by="sizes", limit=5 * COUNT))
    assert len(found) > len(set(ids(found)))


def test_without_a_query_points_come_in_the_order_of_their_ids(pair: Pair, named: str) -> None:
    found = asked(pair, named, limit=50, offset=10, query_filter=ACTIVE)
    scrolled, _ = pair.tested.scroll(named, ACTIVE, limit=60)
    assert found == ids(scrolled)[10:]


def test_a_random_sample_is_of_points_that_pass(pair: Pair, named: str) -> None:
    """How it is drawn is nobody's business; a sample of everything is everything."""
    sample = models.SampleQuery(sample=models.Sample.RANDOM)
    whole = set(ids(pair.tested.scroll(named, ACTIVE, limit=COUNT)[0]))
    drawn = ids(pair.tested.query_points(named, query=sample, query_filter=ACTIVE, limit=20).points)
    assert len(set(drawn)) == 20
    assert set(drawn) < whole
    everything = ids(pair.tested.query_points(named, query=sample, query_filter=ACTIVE, limit=COUNT).points)
    assert set(everything) == whole
    assert any(
        ids(pair.tested.query_points(named, query=sample, query_filter=ACTIVE, limit=20).points) != drawn
        for _ in range(5)
    ), "five samples were the same"


# Several queries in one


def prefetches(limit: int = 40) -> list[models.Prefetch]:
    """What is near by one vector, what is near by the other, and what is near to a point."""
    return [
        models.Prefetch(query=LARGE[4], using="large", limit=limit),
        models.Prefetch(query=SMALL[4], using="small", limit=limit, filter=CHEAP),
        models.Prefetch(query=point_id(8), using="large", limit=limit // 2, params=EXACT),
    ]


FUSIONS: dict[str, models.Query] = {
    "rrf": models.FusionQuery(fusion=models.Fusion.RRF),
    "dbsf": models.FusionQuery(fusion=models.Fusion.DBSF),
    "rrf of a constant": models.RrfQuery(rrf=models.Rrf(k=30)),
    "rrf of weights": models.RrfQuery(rrf=models.Rrf(k=5, weights=[1.0, 3.0, 0.5])),
}


@pytest.mark.parametrize("query", FUSIONS.values(), ids=FUSIONS)
def test_ranks_are_fused(pair: Pair, named: str, query: models.Query) -> None:
    whole = asked(pair, named, query, prefetch=prefetches(), limit=COUNT)
    assert len(whole) > 40
    assert len(asked(pair, named, query, prefetch=prefetches(), limit=15, cut_in_tie=True)) == 15


@pytest.mark.parametrize("query", FUSIONS.values(), ids=FUSIONS)
def test_a_fusion_passes_the_filter_of_the_query(pair: Pair, named: str, query: models.Query) -> None:
    asked(pair, named, query, prefetch=prefetches(), query_filter=ACTIVE, limit=COUNT)


def test_a_fusion_is_cut_at_a_score(pair: Pair, named: str) -> None:
    points = pair.tested.query_points(named, query=FUSIONS["dbsf"], prefetch=prefetches(), limit=COUNT).points
    threshold = (points[20].score + points[21].score) / 2
    asked(pair, named, FUSIONS["dbsf"], prefetch=prefetches(), limit=COUNT, score_threshold=threshold)


def test_what_one_vector_finds_is_ranked_by_the_other(pair: Pair, named: str) -> None:
    first = models.Prefetch(query=SMALL[6], using="small", limit=60)
    found = asked(pair, named, LARGE[6], using="large", prefetch=first, limit=20)
    assert set(found) <= set(asked(pair, named, SMALL[6], using="small", limit=60))


def test_prefetches_are_nested(pair: Pair, named: str) -> None:
    inner = models.Prefetch(query=SMALL[7], using="small", limit=80)
    middle = models.Prefetch(prefetch=[inner], query=LARGE[7], using="large", limit=30)
    fused = models.Prefetch(prefetch=prefetches(), query=FUSIONS["rrf of weights"], limit=200)  # type: ignore[arg-type]
    asked(pair, named, SMALL[8], using="small", prefetch=[middle, fused], limit=COUNT)


def test_a_prefetch_of_nothing_finds_nothing(pair: Pair, named: str) -> None:
    none = models.Filter(must=[models.HasIdCondition(has_id=[])])
    first = models.Prefetch(query=SMALL[6], using="small", filter=none)
    assert asked(pair, named, LARGE[6], using="large", prefetch=first) == []
    assert asked(pair, named, FUSIONS["rrf"], prefetch=[first]) == []


def test_a_prefetch_has_its_own_threshold(pair: Pair, named: str) -> None:
    first = models.Prefetch(query=SMALL[6], using="small", score_threshold=2.5, limit=COUNT)
    asked(pair, named, LARGE[6], using="large", prefetch=first, limit=COUNT)


def test_a_batch_answers_each_of_its_queries(pair: Pair, named: str) -> None:
    requests = [
        models.QueryRequest(query=LARGE[0], using="large", limit=5),
        models.QueryRequest(query=SMALL[0], using="small", filter=CHEAP, limit=7, with_payload=True),
        models.QueryRequest(query=point_id(4), using="large", limit=3, offset=2, with_vector=["small"]),
        models.QueryRequest(query=FUSIONS["rrf"], prefetch=prefetches(), limit=COUNT),
        models.QueryRequest(limit=4, with_payload=["colour"]),
    ]
    answers = pair.same(lambda client: client.query_batch_points(named, requests))
    assert [len(answer.points) for answer in answers[:3]] == [5, 7, 3]


# Groups


@pytest.mark.parametrize("key", ["colour", "count", "owner.address.city", "serial"])
def test_the_nearest_of_each_group_are_given(pair: Pair, named: str, key: str) -> None:
    answer = pair.same(
        lambda client: client.query_points_groups(
            named, group_by=key, query=LARGE[3], using="large", limit=8, group_size=4, with_payload=[key]
        )
    )
    assert 0 < len(answer.groups) <= 8
    assert all(0 < len(group.hits) <= 4 for group in answer.groups)


def test_a_point_is_in_a_group_for_each_value_of_a_list(pair: Pair, named: str) -> None:
    answer = pair.same(
        lambda client: client.query_points_groups(
            named, group_by="tags", query=LARGE[3], using="large", limit=10, group_size=10, query_filter=ACTIVE
        )
    )
    assert {group.id for group in answer.groups} == {"a", "b", "c", "d", "e"}


def test_groups_of_a_fusion(pair: Pair, named: str) -> None:
    query = FUSIONS["dbsf"]
    pair.same(
        lambda client: client.query_points_groups(
            named, group_by="owner.name", query=query, prefetch=prefetches(COUNT), limit=7, group_size=2
        )
    )


def test_a_group_brings_the_point_of_its_name(pair: Pair, named: str) -> None:
    other = pair.collection(
        models.VectorParams(size=2, distance=models.Distance.DOT),
        [models.PointStruct(id=n, vector=[1.0, n], payload={"of": f"count {n}", "more": n}) for n in range(0, 40, 2)],
    )
    lookup = models.WithLookup(collection=other, with_payload=["of"], with_vectors=True)
    for wanted in (other, lookup):
        answer = pair.same(
            lambda client, wanted=wanted: client.query_points_groups(
                named, group_by="count", query=LARGE[3], using="large", limit=20, with_lookup=wanted
            )
        )
        assert {group.lookup is None for group in answer.groups} == {True, False}


# Facets, and distances of points


@pytest.mark.parametrize("key", ["colour", "tags", "count", "active", "serial", "sizes"])
@pytest.mark.parametrize("wanted", [None, CHEAP], ids=["all", "filter"])
def test_values_of_a_field_are_counted(pair: Pair, named: str, key: str, wanted: models.Filter | None) -> None:
    answer = pair.same(lambda client: client.facet(named, key, facet_filter=wanted, limit=COUNT, exact=True))
    assert answer.hits
    few = pair.same(lambda client: client.facet(named, key, facet_filter=wanted, limit=3, exact=True), cut_in_tie=True)
    assert len(few.hits) == min(3, len(answer.hits))


def matrix_offsets(client: QdrantClient, name: str, wanted: models.Filter) -> models.SearchMatrixPairsResponse:
    """The pairs that an answer of offsets stands for."""
    answer = client.search_matrix_offsets(name, query_filter=wanted, sample=100, limit=4, using="large")
    assert set(answer.offsets_row) <= set(range(len(answer.ids)))
    pairs = zip(answer.offsets_row, answer.offsets_col, answer.scores, strict=True)
    return models.SearchMatrixPairsResponse(
        pairs=[models.SearchMatrixPair(a=answer.ids[a], b=answer.ids[b], score=score) for a, b, score in pairs]
    )


@pytest.mark.parametrize("form", ["pairs", "offsets"])
def test_the_matrix_of_all_points_has_the_nearest_of_each(pair: Pair, named: str, form: str) -> None:
    """With a sample that is larger than the points that pass, no chance is left."""
    wanted = models.Filter(must=[models.HasIdCondition(has_id=[point_id(n) for n in range(0, 90, 3)])])

    def pairs(client: QdrantClient) -> models.SearchMatrixPairsResponse:
        return client.search_matrix_pairs(named, query_filter=wanted, sample=100, limit=4, using="large")

    forms: dict[str, Callable[[QdrantClient], models.SearchMatrixPairsResponse]] = {
        "pairs": pairs,
        "offsets": lambda client: matrix_offsets(client, named, wanted),
    }
    assert len(pair.same(forms[form]).pairs) == 4 * 30


# Many points: an index is used


@pytest.fixture(scope="module")
def many(pair: Pair) -> str:
    """Six thousand points, twice: enough for segments and graphs."""
    name = pair.collection(models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE))
    drawn = vectors(6_000, DIMENSIONS, seed=21)
    payloads = [{"part": n % 50} for n in range(len(drawn))]
    pair.same(
        lambda client: client.upload_collection(
            name, vectors=drawn, payload=payloads, ids=range(len(drawn)), batch_size=500, wait=True
        )
    )
    return name


@pytest.mark.parametrize("part", [None, 7], ids=["all", "filtered"])
def test_an_exact_search_among_many_misses_none(pair: Pair, many: str, part: int | None) -> None:
    for query in LARGE:
        asked(pair, many, query, search_params=EXACT, query_filter=of_part(part), limit=30)


@pytest.mark.parametrize("part", [None, 7], ids=["all", "filtered"])
def test_a_search_by_an_index_misses_few(pair: Pair, many: str, part: int | None) -> None:
    found, missed = 0, 0
    for query in LARGE:
        wanted = ids(pair.oracle.query_points(many, query=query, query_filter=of_part(part), limit=30).points)
        given = ids(
            pair.tested.query_points(
                many, query=query, query_filter=of_part(part), limit=30, search_params=models.SearchParams(hnsw_ef=256)
            ).points
        )
        assert len(given) == 30
        found, missed = found + len(set(wanted) & set(given)), missed + len(set(wanted) - set(given))
    assert found / (found + missed) > 0.95


def of_part(part: int | None) -> models.Filter | None:
    if part is None:
        return None
    return models.Filter(must=[models.FieldCondition(key="part", match=models.MatchValue(value=part))])
