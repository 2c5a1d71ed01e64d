"""The unmodified `feast` client against Halny's features, on redb and on a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import feast.errors
import feature_projects as projects
import pandas as pd
import pytest
import requests
import stores
from feast import FeatureStore
from feast.data_source import PushMode
from feature_projects import now
from server import Server, halny, wait_for

_STATS = ["rate", "score", "trips", "small", "name", "ok", "seen", "vec", "tags"]


@dataclass
class Shop:
    """A server, its project, and a client."""

    folder: Path
    server: Server
    store: FeatureStore

    def online(self, features: Any, full_feature_names: bool = False, **entities: list[Any]) -> dict[str, list[Any]]:
        """What the client gets."""
        rows = [dict(zip(entities, values)) for values in zip(*entities.values())]
        answer = self.store.get_online_features(features, rows, full_feature_names=full_feature_names)
        return dict(answer.to_dict())

    def raw(self, features: list[str], **entities: list[Any]) -> dict[str, list[tuple[Any, str, str]]]:
        """Value, status and time of each value, by name."""
        answer = self.post("/get-online-features", {"features": features, "entities": entities})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        columns = [list(zip(it["values"], it["statuses"], it["event_timestamps"])) for it in told["results"]]
        return dict(zip(told["metadata"]["feature_names"], columns))

    def post(self, path: str, body: Any) -> requests.Response:
        """A request without a client."""
        return requests.post(f"{self.server.url}{path}", json=body, timeout=60)

    def push(self, source: str, to: str = "online_and_offline", **columns: list[Any]) -> dict[str, int]:
        """Rows that are pushed without a client."""
        answer = self.post("/push", {"push_source_name": source, "df": columns, "to": to})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture(scope="module", params=["redb", "valkey"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A server with files of drivers: two of an hour ago, one of a day before that, one whose values are null."""
    folder = tmp_path_factory.mktemp("shop")
    hour = now() - timedelta(hours=1)
    nulls: dict[str, list[Any]] = {name: [None] for name in _STATS}
    stats = projects.write_stats(
        folder,
        driver_id=[1, 2, 3],
        event_timestamp=[hour, hour, hour - timedelta(days=1)],
        trips=[9_007_199_254_740_993, 8, 9],
    )
    projects.write_stats(folder, "nulls", driver_id=[4], event_timestamp=[hour], **nulls)

    def run(settings: str) -> Iterator[Shop]:
        with projects.start(folder, settings=settings) as server:
            yield Shop(folder, server, projects.client(folder, server, stats))
            server.end()

    if request.param == "redb":
        yield from run("")
        return
    with stores.valkey(folder / "valkey") as url:
        yield from run(f'engine = "redis"\nurl = "{url}"')


@pytest.fixture(scope="module")
def read(shop: Shop) -> Shop:
    """The same, materialised by Halny."""
    answer = shop.post("/materialize-incremental", {"end_ts": now().isoformat()})
    assert answer.status_code == 200, answer.text
    return shop


def test_every_type_is_served_as_it_was_written(read: Shop) -> None:
    found = read.online([f"stats:{name}" for name in _STATS], driver_id=[1])
    assert found == {
        "driver_id": [1],
        "rate": [pytest.approx(0.1)],
        "score": [1.0],
        "trips": [9_007_199_254_740_993],
        "small": [3],
        "name": ["x"],
        "ok": [True],
        "seen": [1_767_312_000],
        "vec": [[1.5, 2.0]],
        "tags": [["a", "b"]],
    }
    assert [type(found[name][0]) for name in ("score", "trips", "ok")] == [float, int, bool]


def test_several_views_full_names_and_missing_entities(read: Shop) -> None:
    read.push("ups", driver_id=[1], u=[5], trips=[6])
    features = ["stats:trips", "ups:u", "ups:trips"]
    found = read.online(features, full_feature_names=True, driver_id=[1, 77])
    expected = {
        "driver_id": [1, 77],
        "stats__trips": [9_007_199_254_740_993, None],
        "ups__u": [5, None],
        "ups__trips": [6, None],
    }
    assert found == expected
    with pytest.raises(feast.errors.FeatureNameCollisionError, match="full_feature_names"):
        read.online(features, driver_id=[1])


def test_statuses_say_why_there_is_no_value(read: Shop) -> None:
    found = read.raw(["stats:name"], driver_id=[1, 3, 4, 77, 1])["name"]
    values = [value for value, _, _ in found]
    statuses = [status for _, status, _ in found]
    assert values == ["x", None, None, None, "x"]
    assert statuses == ["PRESENT", "OUTSIDE_MAX_AGE", "NULL_VALUE", "NOT_FOUND", "PRESENT"]
    assert found[3][2] == "1970-01-01T00:00:00Z"
    assert found[0][2] == (pd.Timestamp(found[0][2])).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_service_computes_on_demand(read: Shop) -> None:
    read.push("ups", driver_id=[2], u=[50], trips=[6])
    service = read.store.get_feature_service("svc")
    found = read.online(service, driver_id=[2, 4], add=[10, 20])
    assert found == {
        "driver_id": [2, 4],
        "rate": [pytest.approx(0.1), None],
        "trips": [8, None],
        "u": [50, None],
        "plus": [18, None],
    }
    with pytest.raises(feast.errors.RequestDataNotFoundInEntityRowsException, match="add"):
        read.online(service, driver_id=[2])


def test_the_client_pushes_and_an_older_event_does_not_win(shop: Shop) -> None:
    at = now() - timedelta(minutes=5)
    for n, event in ((5, at), (4, at - timedelta(minutes=1))):
        row = {"driver_id": [21], "shop_id": ["s"], "n": [n], "event_timestamp": [event]}
        shop.store.push("clicks_push", pd.DataFrame(row), to=PushMode.ONLINE)
    assert shop.online(["clicks:n"], driver_id=[21], shop_id=["s"])["n"] == [5]
    row = {"driver_id": [21], "shop_id": ["s"], "n": [6], "event_timestamp": [at.replace(microsecond=250_000)]}
    shop.store.push("clicks_push", pd.DataFrame(row), to=PushMode.ONLINE)
    ((value, status, time),) = shop.raw(["clicks:n"], driver_id=[21], shop_id=["s"])["n"]
    assert (value, status) == (6, "PRESENT")
    assert time.endswith(".250Z")


def test_the_client_writes_rows_and_nulls(shop: Shop) -> None:
    rows = {"driver_id": [31, 32], "u": [1, None], "trips": [2, 3], "event_timestamp": [now()] * 2}
    shop.store.write_to_online_store("ups", pd.DataFrame(rows).astype({"u": "Int64"}))
    assert shop.online(["ups:u", "ups:trips"], driver_id=[31, 32]) == {
        "driver_id": [31, 32],
        "u": [1, None],
        "trips": [2, 3],
    }
    assert [status for _, status, _ in shop.raw(["ups:u"], driver_id=[31, 32])["u"]] == ["PRESENT", "NULL_VALUE"]


def test_the_client_materialises(shop: Shop) -> None:
    at = now() - timedelta(hours=2)
    ids = list(range(1_000_000, 1_003_000))
    projects.write_stats(shop.folder, "many", driver_id=ids, event_timestamp=[at] * len(ids), trips=ids)
    # With a remote online store the client has the server read its own files.
    shop.store.materialize(at - timedelta(minutes=1), at - timedelta(seconds=1), feature_views=["stats"])
    features = ["stats:trips", "stats:vec"]
    assert shop.online(features, driver_id=[ids[0], ids[-1]])["trips"] == [None, None]
    shop.store.materialize(at, now(), feature_views=["stats"])
    found = shop.online(features, driver_id=[ids[0], ids[-1]])
    assert found["trips"] == [ids[0], ids[-1]]
    assert found["vec"] == [[1.5, 2.0]] * 2
    more = [id + 10_000_000 for id in ids]
    projects.write_stats(shop.folder, "more", driver_id=more, event_timestamp=[at] * len(more), trips=more)
    shop.store.materialize_incremental(now(), feature_views=["stats"])
    assert shop.online(features, driver_id=[more[0], more[-1]])["trips"] == [more[0], more[-1]]


def test_the_client_writes_what_it_materialised_itself(shop: Shop) -> None:
    """Rows of a view that takes no pushes, thousands at once, as the client's own engines write them."""
    ids = list(range(2_000_000, 2_003_000))
    times = {"event_timestamp": [now() - timedelta(hours=2)] * len(ids), "created": [now()] * len(ids)}
    seen = pd.Timestamp("2026-01-02", tz="UTC")
    fixed = {"rate": 0.5, "score": 1.0, "small": 3, "name": "x", "ok": True, "seen": seen}
    frame = pd.DataFrame({"driver_id": ids} | times).assign(**fixed, trips=ids)
    frame["vec"], frame["tags"] = [[1.5, 2.0]] * len(ids), [["a"]] * len(ids)
    shop.store.write_to_online_store("stats", frame)
    found = shop.online(["stats:trips", "stats:seen", "stats:vec"], driver_id=[ids[0], ids[-1]])
    assert found["trips"] == [ids[0], ids[-1]]
    assert found["seen"] == [1_767_312_000] * 2
    assert found["vec"] == [[1.5, 2.0]] * 2


def test_late_files_and_late_rows_are_not_missed(shop: Shop) -> None:
    def incrementally() -> dict[str, Any]:
        answer = shop.post("/materialize-incremental", {"end_ts": now().isoformat(), "feature_views": ["stats"]})
        assert answer.status_code == 200, answer.text
        (view,) = answer.json()["feature_views"]
        return dict(view)

    incrementally()
    assert incrementally()["files"] == 0, "what was read is not read again"
    # It came today, and is about yesterday.
    late = now() - timedelta(hours=23)
    projects.write_stats(shop.folder, "late", driver_id=[51, 1], event_timestamp=[late] * 2, trips=[1, 1])
    told = incrementally()
    assert (told["files"], told["rows"], told["served"]) == (1, 2, 1)
    assert shop.online(["stats:trips"], driver_id=[51, 1])["trips"] == [1, 9_007_199_254_740_993]


def test_a_time_is_materialised(shop: Shop) -> None:
    at = now() - timedelta(hours=5)
    projects.write_stats(
        shop.folder, "day", driver_id=[61, 62], event_timestamp=[at, at - timedelta(hours=1)], trips=[1, 1]
    )
    span = {"start_ts": (at - timedelta(minutes=1)).isoformat(), "end_ts": at.isoformat(), "feature_views": ["stats"]}
    assert shop.post("/materialize", span).status_code == 200
    assert shop.online(["stats:trips"], driver_id=[61, 62])["trips"] == [1, None]
    everything = {"disable_event_timestamp": True, "feature_views": ["stats"]}
    assert shop.post("/materialize", everything).status_code == 200
    assert shop.online(["stats:trips"], driver_id=[61, 62])["trips"] == [1, 1]
    for wrong in ({"start_ts": "x", "end_ts": "y"}, {"feature_views": ["stats"]}, span | {"start_ts": "2999-01-01"}):
        answer = shop.post("/materialize", wrong)
        assert answer.status_code == 400, answer.text
        assert len(answer.json()["detail"]) > 8


def test_nothing_of_the_future_is_served_until_it_has_come(shop: Shop) -> None:
    shop.push("ups", driver_id=[71], u=[1], trips=[1], event_timestamp=[now().isoformat()])
    soon = now() + timedelta(seconds=4)
    told = shop.push("ups", driver_id=[71], u=[2], trips=[2], event_timestamp=[soon.isoformat()])
    assert told == {"rows": 1, "served": 0, "to_come": 1}
    assert shop.online(["ups:u"], driver_id=[71])["u"] == [1]
    wait_for("the row's time to come", lambda: shop.online(["ups:u"], driver_id=[71])["u"] == [2])
    assert now() >= soon


def test_where_a_push_goes_is_what_it_says(shop: Shop) -> None:
    shop.push("ups", to="offline", driver_id=[81], u=[1], trips=[1])
    assert shop.online(["ups:u"], driver_id=[81])["u"] == [None]
    shop.push("ups", to="online", driver_id=[81], u=[1], trips=[1])
    assert shop.online(["ups:u"], driver_id=[81])["u"] == [1]


def test_times_and_columns_are_taken_as_clients_write_them(shop: Shop) -> None:
    texts = ["2026-11-28 09:00:00", "2026-11-28T09:00:00", "2026-11-28T10:00:00+01:00", "2026-11-28T09:00:00.000001Z"]
    ids = list(range(91, 91 + len(texts)))
    ones = [1] * len(texts)
    told = shop.push("ups", driver=ids, u=ones, trips=ones, event_timestamp=texts, more=ones)
    assert told["rows"] == len(texts)
    times = [time for _, _, time in shop.raw(["ups:u"], driver=ids)["u"]]
    assert times == ["2026-11-28T09:00:00Z"] * 3 + ["2026-11-28T09:00:00.000001Z"]
    # A time by a name that the view does not know is not taken for no time.
    df = {"driver": ids, "u": ones, "trips": ones, "event_time": texts}
    answer = shop.post("/push", {"push_source_name": "ups", "df": df})
    assert (answer.status_code, "knows no event_time" in answer.text) == (422, True), answer.text


def test_the_clients_own_exceptions_are_raised(shop: Shop) -> None:
    with pytest.raises(feast.errors.FeatureViewNotFoundException, match="nope"):
        shop.online(["nope:rate"], driver_id=[1])
    with pytest.raises(feast.errors.FeastObjectNotFoundException, match="it has rate, score"):
        shop.online(["stats:nope"], driver_id=[1])
    with pytest.raises(RuntimeError, match="400.*driver_id.* is missing"):
        shop.online(["stats:rate"], shop_id=["s"])
    answer = shop.post("/push", {"push_source_name": "stats", "df": {"driver_id": [1]}})
    assert (answer.status_code, "PushSourceNotFoundException" in answer.json()) == (422, True)
    answer = shop.post("/get-online-features", {"feature_service": "none", "entities": {}})
    assert (answer.status_code, "FeatureServiceNotFoundException" in answer.json()) == (404, True)
    answer = shop.post("/write-to-online-store", {"feature_view_name": "none", "df": {"driver_id": [1]}})
    assert (answer.status_code, "NotFoundException" in answer.json()) == (404, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": 1}}),
        ("/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": ["1"]}}),
        ("/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": [1.5]}}),
        ("/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": [True]}}),
        ("/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": [2**63]}}),
        ("/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": [[1]]}}),
        ("/get-online-features", {"features": ["stats:rate"], "entities": {}}),
        ("/get-online-features", {"features": ["stats:rate"], "entities": [1]}),
        ("/get-online-features", {"features": "stats:rate", "entities": {"driver_id": [1]}}),
        ("/get-online-features", {"features": [], "entities": {"driver_id": [1]}}),
        ("/get-online-features", {"entities": {"driver_id": [1]}}),
        ("/get-online-features", {"features": ["clicks:n"], "entities": {"driver_id": [1, 2], "shop_id": ["s"]}}),
        ("/get-online-features", {"feature_service": "svc@x", "entities": {"driver_id": [1], "add": [1]}}),
        ("/get-online-features", {"feature_service": "svc", "entities": {"driver_id": [1], "add": ["1"]}}),
        ("/get-online-features", {"features": ["rate"], "entities": {"driver_id": [1]}}),
        ("/get-online-features", {"features": ["st\0ats:rate"], "entities": {"driver_id": [1]}}),
        ("/get-online-features", {"features": ["x" * 100_000 + ":y"], "entities": {"driver_id": [1]}}),
        ("/get-online-features", {"features": ["stats:rate"] * 2_000, "entities": {"driver_id": [1]}}),
        ("/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": [1] * 10_001}}),
        ("/push", {"push_source_name": "ups", "df": [{"driver_id": 1}]}),
        ("/push", {"push_source_name": "ups", "df": {"driver_id": [1], "u": [1], "trips": [1, 2]}}),
        ("/push", {"push_source_name": "ups", "df": {"driver_id": [1], "u": [1]}}),
        ("/push", {"push_source_name": "ups", "df": {"u": [1], "trips": [1]}}),
        ("/push", {"push_source_name": "ups", "df": {"driver_id": [None], "u": [1], "trips": [1]}}),
        ("/push", {"push_source_name": "ups", "df": {"driver_id": ["a"], "u": [1], "trips": [1]}}),
        ("/push", {"push_source_name": "ups", "df": {"driver_id": [1], "u": [1.5], "trips": [1]}}),
        ("/push", {"push_source_name": "ups", "df": {"driver_id": [1], "u": [2**64], "trips": [1]}}),
        ("/push", {"push_source_name": "ups", "df": {}, "to": "elsewhere"}),
        ("/push", {"push_source_name": "ups"}),
        ("/materialize", {"start_ts": "2026-01-01", "end_ts": "2026-01-02", "feature_views": ["nope"]}),
        ("/materialize-incremental", {}),
        ("/materialize-incremental", {"end_ts": 7}),
    ],
)
def test_mistakes_are_told_with_a_status_that_is_not_tried_again(shop: Shop, path: str, body: Any) -> None:
    answer = shop.post(path, body)
    assert answer.status_code in (400, 404, 413, 422), (answer.status_code, answer.text)
    told = answer.json()
    text = told if isinstance(told, str) else told["detail"]
    assert 8 < len(text) < 600, text


@pytest.mark.parametrize(
    "event", ["yesterday", "", None, True, 1e300, -1e300, 2**63, 10**30, "9999999-01-01", "2026-13-01", [1]]
)
def test_times_that_are_none_are_refused(shop: Shop, event: Any) -> None:
    body = {
        "push_source_name": "ups",
        "df": {"driver_id": [1], "u": [1], "trips": [1], "event_timestamp": [event]},
    }
    assert shop.post("/push", body).status_code == 400


@pytest.mark.parametrize("event", [-62_135_596_800, 0, -1, "0001-01-01T00:00:00Z"])
def test_the_far_past_is_a_time(shop: Shop, event: Any) -> None:
    shop.push("ups", driver_id=[4_000], u=[1], trips=[1], event_timestamp=[event])
    assert shop.raw(["ups:u"], driver_id=[4_000])["u"][0][1] == "PRESENT"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{nope",
        b'{"features":["stats:rate"],"entities":{"driver_id":[NaN]}}',
        b"[" * 100_000,
        b'{"entities":' * 50_000,
        b"\xff\xfe",
        b'{"features":["stats:rate"],"entities":{"driver_id":[1]}}\0',
    ],
)
@pytest.mark.parametrize("path", ["/get-online-features", "/push", "/write-to-online-store", "/materialize"])
def test_what_is_no_json_of_ours_is_refused(shop: Shop, path: str, body: bytes) -> None:
    answer = requests.post(f"{shop.server.url}{path}", data=body, timeout=60)
    assert answer.status_code == 400
    assert "detail" in answer.json()


def test_bodies_of_millions_of_values_take_no_memory(shop: Shop) -> None:
    before_mib = shop.server.resident_mib()
    shop.server.forget_peak()
    body = b'{"push_source_name":"ups","df":{"u":[' + b",".join([b"1"] * 7_000_000) + b"]}}"
    answer = requests.post(f"{shop.server.url}/push", data=body, timeout=60)
    assert answer.status_code == 413, answer.text
    assert shop.server.peak_mib() < before_mib + 64


def test_keys_may_hold_any_text(shop: Shop) -> None:
    keys = ["", "\0", "a\0b", "\x7f", "ü" * 100, "🌧"]
    count = len(keys)
    shop.push("clicks", driver_id=[7] * count, shop_id=keys, n=list(range(count)))
    assert shop.online(["clicks:n"], driver_id=[7] * count, shop_id=keys)["n"] == list(range(count))
    long = {"driver_id": [7], "shop_id": ["x" * (1 << 20)], "n": [1]}
    answer = shop.post("/push", {"push_source_name": "clicks", "df": long})
    assert answer.status_code == 413, answer.text


def test_many_ask_at_once_while_others_push(shop: Shop) -> None:
    shop.push("ups", driver_id=list(range(10_000, 10_100)), u=[0] * 100, trips=[0] * 100)

    def ask(number: int) -> list[Any]:
        if number % 10 == 0:
            shop.push("ups", driver_id=[10_000 + number % 100], u=[number], trips=[number])
        found = shop.raw(["ups:u", "ups:trips"], driver_id=list(range(10_000, 10_100)))
        return [(u[0], trips[0]) for u, trips in zip(found["u"], found["trips"])]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(200)))
    assert all(u == trips for answer in answers for u, trips in answer), "a row was read in part"


def test_what_is_there_is_listed_and_counted(read: Shop) -> None:
    told = requests.get(f"{read.server.url}/halny/v1/features", timeout=30).json()
    assert [view["name"] for view in told["feature_views"]] == ["clicks", "stats", "ups"]
    assert told["feature_services"] == [
        {
            "name": "svc",
            "version": 1,
            "features": ["stats:rate", "stats:trips", "ups:u", "sums:plus"],
            "log_sample": 1.0,
        }
    ]
    before = read.server.metric("halny_feature_values", status="PRESENT")
    missing = read.server.metric("halny_feature_values", status="NOT_FOUND")
    read.online(["stats:name", "stats:ok"], driver_id=[1, 777])
    assert read.server.metric("halny_feature_values", status="PRESENT") == before + 2
    assert read.server.metric("halny_feature_values", status="NOT_FOUND") == missing + 2
    for name in ("pushed_rows", "materialised_rows", "logged_rows"):
        assert read.server.metric(f"halny_feature_{name}") > 0, name
    assert read.server.metric("halny_http_requests", route="/get-online-features") > 0


def test_statistics_tell_what_values_are_like(read: Shop) -> None:
    url = f"{read.server.url}/halny/v1/features"
    told = requests.get(f"{url}/stats/statistics", params={"start": "2026-01-01"}, timeout=60)
    assert told.status_code == 200, told.text
    features = {feature["name"]: feature for feature in told.json()["features"]}
    assert list(features) == _STATS
    assert features["name"]["nulls"] == 1
    assert features["score"]["numbers"]["mean"] == 1.0
    assert features["name"]["top"][0]["value"] == "x"
    nothing = requests.get(f"{url}/stats/statistics", params={"end": "1971-01-01"}, timeout=60).json()
    assert [feature["count"] for feature in nothing["features"]] == [0] * len(_STATS)
    for path, status in (("nope/statistics", 404), ("stats/statistics?start=x", 400), ("stats/statistics?a=1", 400)):
        assert requests.get(f"{url}/{path}", timeout=60).status_code == status, path


def test_replay_finds_no_skew_and_a_skew_that_there_is(read: Shop) -> None:
    read.push("ups", driver_id=[1, 2], u=[5, 6], trips=[5, 6])
    service = read.store.get_feature_service("svc")
    for _ in range(5):
        read.online(service, driver_id=[1, 2], add=[10, 20])

    def replay() -> str:
        ended = halny("features", "replay", "svc", "--project", read.folder)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    told = replay()
    assert "ups__u" in told, told
    before = next(line for line in told.splitlines() if "ups__u" in line).split()
    # A row that became known only after others had been served: they would have been served with it.
    late = (now() - timedelta(days=300)).isoformat()
    read.push("ups", to="offline", driver_id=[999], u=[5], trips=[5], event_timestamp=[late])
    read.online(service, driver_id=[999], add=[1])
    after = next(line for line in replay().splitlines() if "ups__u" in line).split()
    assert int(after[1]) == int(before[1]) + 1, (before, after)
