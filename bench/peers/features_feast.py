"""The `feast` feature server with Valkey as its Redis: `python features_feast.py FOLDER --port PORT`.

Makes the table, materialises it, then serves until it is stopped; `/health` answers 200 from then on,
and one line of JSON says how long it took. Two feature services hold all features: `wide` as feast does
it by default, and `wide_precomputed`, for which feast keeps a finished vector of each entity; it answers
the latter only with `"full_feature_names": true`, else with an error. The settings are its best: as many
workers as cores, no access log, no restart of workers after 1,000 requests (its default), the registry
read once an hour, the log of Valkey off, uvloop, httptools and hiredis installed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import features_data as data
import pyarrow as pa
import redis_server
from children import stop
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float32, Int64, String

_PROJECT = "bench"
_LIFE_LIMIT_S = 3_600
_STOP_TIMEOUT_S = 15
_TYPES = {pa.float32(): Float32, pa.int64(): Int64, pa.string(): String}
_CONFIGURATION = """\
project: {project}
registry: {folder}/registry.db
provider: local
online_store:
  type: redis
  connection_string: 127.0.0.1:{redis}
offline_store:
  type: dask
entity_key_serialization_version: 3
auth:
  type: no_auth
"""


def main() -> int:
    """Serves until SIGTERM, an hour at most."""
    chosen = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    folder = chosen.folder.absolute()
    with redis_server.running(folder, "no") as redis:
        began_s = time.monotonic()
        files = data.write(folder, chosen.entities, chosen.views, chosen.features // chosen.views)
        (folder / "feature_store.yaml").write_text(
            _CONFIGURATION.format(project=_PROJECT, folder=folder, redis=redis), encoding="utf-8"
        )
        store = FeatureStore(repo_path=str(folder))
        store.apply(_definitions(files, chosen.features // chosen.views))
        applied_s = time.monotonic() - began_s
        now = datetime.now(UTC)
        # Feast reports each view on standard output.
        sys.stdout = sys.stderr
        store.materialize(now - timedelta(days=1), now)
        materialised_s = time.monotonic() - began_s - applied_s
        if not chosen.no_precompute:
            store.precompute_feature_service("wide_precomputed")
        precomputed_s = time.monotonic() - began_s - applied_s - materialised_s
        told = {"apply_s": applied_s, "materialise_s": materialised_s, "precompute_s": precomputed_s}
        return _serve(folder, chosen, {name: round(value, 1) for name, value in told.items()})


def _definitions(files: dict[str, Path], features: int) -> list[Any]:
    user = Entity(name="user", join_keys=[data.KEY], value_type=ValueType.INT64)
    views: list[Any] = []
    for number, (name, file) in enumerate(files.items()):
        schema = [Field(name=data.KEY, dtype=Int64)]
        schema += [Field(name=each, dtype=_TYPES[kind]) for each, kind in data.features_of(number, features).items()]
        source = FileSource(name=f"{name}_source", path=str(file), timestamp_field=data.TIMESTAMP)
        views.append(FeatureView(name=name, entities=[user], ttl=timedelta(days=1), schema=schema, source=source))
    services = [
        FeatureService(name="wide", features=views),
        FeatureService(name="wide_precomputed", features=views, precompute_online=True),
    ]
    return [user, *views, *services]


def _serve(folder: Path, chosen: argparse.Namespace, told: dict[str, float]) -> int:
    feast = Path(sys.executable).with_name("feast")
    flags = ("--no-access-log", "--max-requests", "0", "--registry_ttl_sec", "3600", "--keep-alive-timeout", "300")
    where = ("--host", "127.0.0.1", "--port", str(chosen.port), "--workers", str(chosen.workers))
    # gunicorn keeps a socket in the user's home.
    environment = {**os.environ, "HOME": str(folder)}
    command = [str(feast), "--chdir", str(folder), "serve", *where, *flags]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        print(json.dumps({"serving": f"http://127.0.0.1:{chosen.port}", **told}), file=sys.__stdout__, flush=True)
        return process.wait(_LIFE_LIMIT_S)
    finally:
        stop(process, _STOP_TIMEOUT_S)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="empty, for the table and Valkey")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=250, help="in all")
    parser.add_argument("--views", type=int, default=5, help="that they are spread over")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-precompute", action="store_true", help="leave out the finished vectors")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
