"""Projects with features, and the unmodified `feast` client with the same definitions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import projects
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig
from feast import RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from server import Server

#: The views and services that both sides know.
DEFINITIONS = """
[[entities]]
name = "driver"
join_key = "driver_id"
value_type = "int64"

[[entities]]
name = "shop"
join_key = "shop_id"

[[feature_views]]
name = "stats"
entities = ["driver"]
ttl_s = 86400
features = [
  { name = "rate", type = "float32" }, { name = "score", type = "float64" }, { name = "trips", type = "int64" },
  { name = "small", type = "int32" }, { name = "name", type = "string" }, { name = "ok", type = "bool" },
  { name = "seen", type = "unix_timestamp" }, { name = "vec", type = "list<float32>" },
  { name = "tags", type = "list<string>" },
]
source = { batch = { path = "data/stats", created = "created" } }

[[feature_views]]
name = "clicks"
entities = ["driver", "shop"]
ttl_s = 86400
features = [{ name = "n", type = "int64" }]
source = { push = true }

[[feature_views]]
name = "ups"
entities = ["driver"]
features = [{ name = "u", type = "int64" }, { name = "trips", type = "int64" }]
source = { push = true }

[[on_demand_views]]
name = "sums"
sources = ["stats"]
request = { add = "int64" }
features = [{ name = "plus", type = "int64", expression = "stats.trips + request.add" }]

[[feature_services]]
name = "svc"
features = ["stats:rate", "stats:trips", "ups:u", "sums:plus"]
log_sample = 1.0
"""


def now() -> datetime:
    """This moment, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def start(folder: Path, definitions: str = DEFINITIONS, settings: str = "", **variables: str) -> Server:
    """A server of these features, on redb unless `settings` says otherwise; use it in a `with` statement."""
    return projects.serve(projects.write(folder, [], more=f"[features]\n{settings}\n{definitions}"), **variables)


def write_stats(folder: Path, file: str = "first", /, **columns: list[Any]) -> Path:
    """A file of the view `stats`; what is not given is the same for every row."""
    rows = len(columns["driver_id"])
    fill: dict[str, list[Any]] = {
        "rate": [0.1] * rows,
        "score": [1.0] * rows,
        "trips": [7] * rows,
        "small": [3] * rows,
        "name": ["x"] * rows,
        "ok": [True] * rows,
        "seen": [datetime(2026, 1, 2, tzinfo=UTC)] * rows,
        "vec": [[1.5, 2.0]] * rows,
        "tags": [["a", "b"]] * rows,
        "created": [now()] * rows,
    }
    kinds = {
        "driver_id": pa.int64(),
        "rate": pa.float32(),
        "score": pa.float64(),
        "trips": pa.int64(),
        "small": pa.int32(),
        "name": pa.string(),
        "ok": pa.bool_(),
        "seen": pa.timestamp("us", tz="UTC"),
        "vec": pa.list_(pa.float32()),
        "tags": pa.list_(pa.string()),
        "event_timestamp": pa.timestamp("us", tz="UTC"),
        "created": pa.timestamp("us", tz="UTC"),
    }
    data = folder / "data" / "stats"
    data.mkdir(parents=True, exist_ok=True)
    values = fill | columns
    path = data / f"{file}.parquet"
    pq.write_table(pa.table({key: pa.array(values[key], kind) for key, kind in kinds.items()}), path)
    return path


def client(folder: Path, server: Server, stats: Path) -> FeatureStore:
    """The `feast` client of that server: `online_store: type: remote`, its registry a file."""
    folder.mkdir(parents=True, exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="shop",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "remote", "path": server.url},
            offline_store={"type": "dask"},
            entity_key_serialization_version=3,
        )
    )
    store.apply(_objects(stats))
    return store


def _objects(stats_file: Path) -> list[Any]:
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
    shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
    source = FileSource(
        name="stats_source",
        path=str(stats_file),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    kinds = {
        "rate": Float32,
        "score": Float64,
        "trips": Int64,
        "small": Int32,
        "name": String,
        "ok": Bool,
        "seen": UnixTimestamp,
        "vec": Array(Float32),
        "tags": Array(String),
    }
    key = Field(name="driver_id", dtype=Int64)
    stats = FeatureView(
        name="stats",
        entities=[driver],
        ttl=timedelta(days=1),
        source=source,
        schema=[key, *(Field(name=name, dtype=kind) for name, kind in kinds.items())],
    )
    clicks = FeatureView(
        name="clicks",
        entities=[driver, shop],
        ttl=timedelta(days=1),
        source=_pushed("clicks_push", stats_file),
        schema=[key, Field(name="shop_id", dtype=String), Field(name="n", dtype=Int64)],
    )
    ups = FeatureView(
        name="ups",
        entities=[driver],
        source=_pushed("ups_push", stats_file),
        schema=[key, Field(name="u", dtype=Int64), Field(name="trips", dtype=Int64)],
    )
    asked = RequestSource(name="asked", schema=[Field(name="add", dtype=Int64)])

    # It is called once, for its types: what is computed on demand is computed by the server.
    @on_demand_feature_view(sources=[stats, asked], schema=[Field(name="plus", dtype=Int64)], mode="python")
    def sums(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"plus": [-1 for _ in inputs["trips"]]}

    service = FeatureService(name="svc", features=[stats[["rate", "trips"]], ups[["u"]], sums])
    return [driver, shop, stats, clicks, ups, sums, service]


def _pushed(name: str, file: Path) -> PushSource:
    return PushSource(
        name=name, batch_source=FileSource(name=f"{name}_batch", path=str(file), timestamp_field="event_timestamp")
    )
