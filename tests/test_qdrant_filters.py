"""Filters of every kind find what the oracle finds, with and without payload indexes."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator

import pytest
from qdrant_client import models

import qdrant
import qdrant_points
from engines import ENGINES
from qdrant import Pair, ids
from qdrant_points import CITIES, COUNT, INDEXES, point_id, vectors

VIENNA = models.GeoPoint(lon=16.37, lat=48.21)


def field(key: str, **condition: object) -> models.FieldCondition:
    """A condition on a field of the payload."""
    return models.FieldCondition.model_validate({"key": key, **condition})


def value(key: str, wanted: str | int | bool) -> models.FieldCondition:
    return field(key, match={"value": wanted})


def any_of(key: str, *wanted: str | int) -> models.FieldCondition:
    return field(key, match={"any": list(wanted)})


def none_of(key: str, *wanted: str | int) -> models.FieldCondition:
    return field(key, match={"except": list(wanted)})


def text(key: str, words: str) -> models.FieldCondition:
    return field(key, match={"text": words})


def between(key: str, **bounds: float) -> models.FieldCondition:
    return field(key, range=models.Range(**bounds))


def moments(key: str, **bounds: str) -> models.FieldCondition:
    return field(key, range=models.DatetimeRange.model_validate(bounds))


def count_of(key: str, **bounds: int) -> models.FieldCondition:
    return field(key, values_count=models.ValuesCount(**bounds))


def around(key: str, radius_m: float, center: models.GeoPoint = VIENNA) -> models.FieldCondition:
    return field(key, geo_radius=models.GeoRadius(center=center, radius=radius_m))


def box(key: str, north: float, west: float, south: float, east: float) -> models.FieldCondition:
    corners = models.GeoPoint(lon=west, lat=north), models.GeoPoint(lon=east, lat=south)
    return field(key, geo_bounding_box=models.GeoBoundingBox(top_left=corners[0], bottom_right=corners[1]))


def ring(*places: tuple[float, float]) -> models.GeoLineString:
    return models.GeoLineString(points=[models.GeoPoint(lon=lon, lat=lat) for lon, lat in places])


def inside(key: str, outer: models.GeoLineString, *holes: models.GeoLineString) -> models.FieldCondition:
    return field(key, geo_polygon=models.GeoPolygon(exterior=outer, interiors=list(holes) or None))


def empty(key: str) -> models.IsEmptyCondition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def null(key: str) -> models.IsNullCondition:
    return models.IsNullCondition(is_null=models.PayloadField(key=key))


def nested(key: str, *must: models.Condition) -> models.NestedCondition:
    return models.NestedCondition(nested=models.Nested(key=key, filter=models.Filter(must=list(must))))


def has_id(*numbers: int) -> models.HasIdCondition:
    return models.HasIdCondition(has_id=[point_id(number) for number in numbers])


def at_least(count: int, *conditions: models.Condition) -> models.Filter:
    return models.Filter(min_should=models.MinShould(conditions=list(conditions), min_count=count))


TRIANGLE = ring((8.0, 45.0), (22.0, 46.0), (15.0, 53.0), (8.0, 45.0))
HOLE = ring((13.0, 47.0), (17.0, 47.5), (15.0, 50.0), (13.0, 47.0))

CONDITIONS: dict[str, models.Condition] = {
    "keyword": value("colour", "red"),
    "keyword of other letters": value("colour", "żółty"),
    "keyword in capitals": value("colour", "RED"),
    "keyword with a space": value("colour", "light blue"),
    "keyword that nothing has": value("colour", "mauve"),
    "field that nothing has": value("weight", 1),
    "one of a list": value("tags", "c"),
    "integer": value("count", 7),
    "negative integer": value("count", -3),
    "integer in a list": value("sizes", 42),
    "true": value("active", True),
    "false": value("active", False),
    "uuid": value("serial", qdrant.uuid_of(1_007)),
    "field in an object": value("owner.name", "owner 3"),
    "field in an object in an object": value("owner.address.city", CITIES[2]),
    "field of objects in a list": value("items[].sku", "B"),
    "field of the first object in a list": value("items[0].sku", "B"),
    "list in objects in a list": value("items[].sizes", 33),
    "list as if it were none": value("tags[]", "a"),
    "object as if it were a value": value("owner", "owner 3"),
    "name with a dot": value('"dotted.key"', "one"),
    "integer among values of all types": value("mixed", 1),
    "text among values of all types": value("mixed", "1"),
    "true among values of all types": value("mixed", True),
    "zero among values of all types": value("mixed", 0),
    "keywords": any_of("colour", "red", "blue", "mauve"),
    "integers": any_of("count", 1, 2, 3, -4, 1_000),
    "any of nothing": any_of("colour"),
    "keywords of a list": any_of("tags", "a", "e"),
    "all keywords but some": none_of("colour", "red", "blue"),
    "all keywords of a list but some": none_of("tags", "a", "b", "c"),
    "all integers but some": none_of("count", 1, 2, 3),
    "all but none": none_of("colour"),
    "all values of all types but some": none_of("mixed", 1, 0),
    "null is not another value": none_of("sometimes", "here"),
    "word": text("text", "Tatra"),
    "word in capitals": text("text", "SNOW"),
    "words in any order": text("text", "wind halny"),
    "word of other letters": text("text", "straße"),
    "part of a word": text("text", "tat"),
    "word behind a bracket": text("text", "(snow)"),
    "no words": text("text", ""),
    "digits as a word": text("text", "42"),
    "any of some words": field("text", match={"text_any": "naïve mauve warm"}),
    "words of a keyword": text("owner.name", "3 owner"),
    "above": between("price", gt=500.0),
    "from and to": between("price", gte=100.5, lte=400.25),
    "from an integer to itself": between("count", gte=7, lte=7),
    "between fractions of integers": between("count", gt=2.5, lt=4.5),
    "from more to less": between("count", gt=4, lt=2),
    "without bounds": between("count"),
    "range of a list": between("sizes", gte=90),
    "range in an object": between("owner.age", gt=50),
    "range in objects in a list": between("items[].quantity", gte=8),
    "range of a keyword": between("colour", gt=0),
    "range of values of all types": between("mixed", gte=0, lte=1),
    "range of moments": moments("when", gte="2024-03-01T00:00:00Z", lt="2024-06-01T00:00:00Z"),
    "moments in another zone": moments("when", gt="2024-03-01T00:00:00-05:00"),
    "moments without a zone": moments("when", gt="2024-08-01T12:00:00"),
    "one moment": moments("when", gte="2024-01-01T00:00:00Z", lte="2024-01-01T00:00:00Z"),
    "moments of a day": moments("when", gte="2024-05-05", lt="2024-05-20"),
    "moments of a keyword": moments("colour", gt="2020-01-01T00:00:00Z"),
    "places around": around("place", 200_000),
    "places far around": around("place", 700_000),
    "places nowhere around": around("place", 1.0),
    "places around the pole": around("place", 5_000_000, models.GeoPoint(lon=-100.0, lat=89.0)),
    "places in a box": box("place", 50.0, 10.0, 46.0, 18.0),
    "places in a box over the date line": box("place", 60.0, 170.0, 40.0, 12.0),
    "places in no box": box("place", 46.0, 10.0, 50.0, 18.0),
    "places in a ring": inside("place", TRIANGLE),
    "places in a ring with a hole": inside("place", TRIANGLE, HOLE),
    "places of a keyword": around("colour", 700_000),
    "values, two": count_of("tags", gte=2, lte=2),
    "values, more than two": count_of("tags", gt=2),
    "values, less than one": count_of("tags", lt=1),
    "values of one": count_of("colour", gte=1),
    "values, two or null": count_of("sometimes", gte=2),
    "values in objects in a list": count_of("items[].sizes", gte=2),
    "empty": empty("sometimes"),
    "empty list": empty("tags"),
    "empty in an object": empty("owner.address.city"),
    "empty in objects in a list": empty("items[].sizes"),
    "empty where nothing has it": empty("weight"),
    "not empty, as a field's condition": field("tags", is_empty=False),
    "empty, as a field's condition": field("tags", is_empty=True),
    "null": null("sometimes"),
    "null where nothing is": null("weight"),
    "not null, as a field's condition": field("sometimes", is_null=False),
    "ids": has_id(0, 2, 3, 5, 8, 499),
    "ids that are none": models.HasIdCondition(has_id=[10**15, qdrant.uuid_of(10**6), point_id(4)]),
    "no ids": models.HasIdCondition(has_id=[]),
    "vector": models.HasVectorCondition(has_vector=""),
    "objects in a list": nested("items", value("sku", "B"), between("quantity", gte=5)),
    "objects in a list, by brackets": nested("items[]", value("sku", "B"), between("quantity", gte=5)),
    "objects that are not": nested("items", models.Filter(must_not=[value("sku", "B")])),
    "objects of lists": nested("items", any_of("sizes", 33, 34), none_of("sku", "A", "B")),
    "an object is no list": nested("owner", value("name", "owner 3")),
    "filter as a condition": models.Filter(should=[value("colour", "red"), value("count", 7)]),
    "at least two": at_least(2, value("colour", "red"), value("active", True), between("price", gt=500)),
    "at least as many as there are": at_least(2, value("colour", "red"), value("active", True)),
    "at least more than there are": at_least(3, value("colour", "red"), value("active", True)),
}

FILTERS: dict[str, models.Filter] = {
    "nothing": models.Filter(),
    "no conditions": models.Filter(must=[], should=[], must_not=[]),
    "one condition without a list": models.Filter(must=value("colour", "red")),
    "all": models.Filter(must=[value("active", True), between("price", lt=700), any_of("tags", "a", "b")]),
    "any": models.Filter(should=[value("colour", "red"), between("price", lt=100)]),
    "none": models.Filter(must_not=[value("colour", "red"), null("sometimes")]),
    "all, any and none": models.Filter(
        must=[between("count", gte=0)],
        should=[value("colour", "red"), value("colour", "blue")],
        must_not=[value("active", True), empty("tags")],
    ),
    "none of a filter of none": models.Filter(must_not=[models.Filter(must_not=[value("colour", "red")])]),
    "contradiction": models.Filter(must=[value("colour", "red")], must_not=[value("colour", "red")]),
    "at least one of filters": at_least(
        1,
        models.Filter(must=[value("colour", "red"), value("active", True)]),
        models.Filter(must=[has_id(*range(0, 60, 2))], must_not=[null("sometimes")]),
    ),
    "one key with two conditions": models.Filter(must=[between("sizes", lt=20), between("sizes", gt=80)]),
}


@pytest.fixture(scope="module", params=ENGINES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with qdrant.pair(tmp_path_factory.mktemp("filters"), request.param) as pair:
        yield pair


@pytest.fixture(scope="module", params=["plain", "indexed"])
def collection(pair: Pair, request: pytest.FixtureRequest) -> str:
    """The points, once without payload indexes and once with all of them, made when half of the points were there."""
    points = qdrant_points.points()
    name = pair.collection(qdrant_points.one_vector(), points[: COUNT // 2])
    if request.param == "indexed":
        for key, kind in INDEXES.items():
            pair.tested.create_payload_index(name, key, kind)
    pair.same(lambda client: client.upsert(name, points[COUNT // 2 :]))
    return name


def assert_found(pair: Pair, collection: str, wanted: models.Filter) -> list[object]:
    """Scrolling, counting and searching agree on what passes; gives it."""
    found, _ = pair.same(
        lambda client: client.scroll(collection, wanted, limit=COUNT, with_payload=False, with_vectors=False)
    )
    assert pair.same(lambda client: client.count(collection, wanted)).count == len(found)
    query = vectors(1, qdrant_points.DIMENSIONS, seed=5)[0]
    nearest = pair.same(
        lambda client: client.query_points(
            collection, query=query, query_filter=wanted, limit=COUNT, with_payload=False
        )
    )
    assert sorted(map(str, ids(nearest.points))) == sorted(map(str, ids(found)))
    return ids(found)


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_and_its_opposite_part_the_points(pair: Pair, collection: str, name: str) -> None:
    condition = CONDITIONS[name]
    passed = assert_found(pair, collection, models.Filter(must=[condition]))
    others = assert_found(pair, collection, models.Filter(must_not=[condition]))
    assert len(passed) + len(others) == COUNT
    assert not set(passed) & set(others)


@pytest.mark.parametrize("name", FILTERS)
def test_conditions_are_combined(pair: Pair, collection: str, name: str) -> None:
    assert_found(pair, collection, FILTERS[name])


def some_filter(chance: random.Random, depth: int) -> models.Filter:
    """A filter of up to three clauses with up to three conditions each, of which some are filters."""

    def conditions() -> list[models.Condition]:
        return [
            some_filter(chance, depth - 1) if depth and chance.random() < 0.3 else CONDITIONS[chance.choice(plain)]
            for _ in range(chance.randint(1, 3))
        ]

    plain = list(CONDITIONS)
    clauses: dict[str, object] = {
        clause: conditions() for clause in ("must", "should", "must_not") if chance.random() < 0.5
    }
    if chance.random() < 0.2:
        clauses["min_should"] = models.MinShould(conditions=conditions(), min_count=chance.randint(1, 2))
    return models.Filter.model_validate(clauses)


@pytest.mark.parametrize("seed", range(60))
def test_any_combination_finds_what_the_oracle_finds(pair: Pair, collection: str, seed: int) -> None:
    assert_found(pair, collection, some_filter(random.Random(seed), depth=2))


def test_a_filter_follows_what_is_written(pair: Pair, collection: str) -> None:
    """Points enter and leave an index as their payload changes."""
    wanted = models.Filter(must=[value("colour", "ultramarine"), between("count", gte=900)])
    assert assert_found(pair, collection, wanted) == []
    chosen = [point_id(number) for number in (10, 11, 12, 13)]
    before = pair.tested.retrieve(collection, chosen, with_payload=["colour", "count"])
    pair.same(lambda client: client.set_payload(collection, {"colour": "ultramarine", "count": 901}, points=chosen))
    assert len(assert_found(pair, collection, wanted)) == 4
    pair.same(lambda client: client.delete_payload(collection, ["count"], points=chosen[:1]))
    pair.same(lambda client: client.set_payload(collection, {"colour": ["red", "blue"]}, points=chosen[1:2]))
    assert len(assert_found(pair, collection, wanted)) == 2
    pair.same(lambda client: client.delete_payload(collection, ["colour", "count"], points=chosen))
    assert assert_found(pair, collection, wanted) == []
    for point in before:
        changed = point.payload or {}
        pair.same(lambda client, id=point.id, changed=changed: client.set_payload(collection, changed, points=[id]))


def test_moments_of_the_client_are_understood(pair: Pair, collection: str) -> None:
    """`datetime` objects, with and without a zone."""
    zone = datetime.timezone(datetime.timedelta(hours=3))
    for start in (datetime.datetime(2024, 6, 1, 12), datetime.datetime(2024, 6, 1, 12, 0, 0, 1, tzinfo=zone)):
        condition = models.FieldCondition(key="when", range=models.DatetimeRange(gte=start))
        assert assert_found(pair, collection, models.Filter(must=[condition]))


def test_text_is_found_by_an_index_of_other_settings(pair: Pair) -> None:
    """The oracle has no text indexes: what is expected is written here."""
    texts = ["Halny blows", "halnyblows", "the warm wind", "wind-warm", "HALNY"]
    points = [models.PointStruct(id=n, vector=[1.0, n], payload={"text": text}) for n, text in enumerate(texts)]
    name = pair.collection(models.VectorParams(size=2, distance=models.Distance.DOT), points)
    pair.tested.create_payload_index(
        name,
        "text",
        models.TextIndexParams(
            type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True, min_token_len=2
        ),
    )
    for words, expected in {"halny": [0, 4], "WARM wind": [2, 3], "blows halny": [0], "calm": []}.items():
        found, _ = pair.tested.scroll(name, models.Filter(must=[text("text", words)]))
        assert ids(found) == expected, words
