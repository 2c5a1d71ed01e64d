"""Jobs that materialise features, submitted and by schedule."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import feature_projects
import requests
import work
from server import Server, wait_for


def trips(server: Server, *drivers: int) -> list[Any]:
    form = {"features": ["stats:trips"], "entities": {"driver_id": list(drivers)}}
    answer = requests.post(f"{server.url}/get-online-features", json=form, timeout=30)
    assert answer.status_code == 200, answer.text
    names = answer.json()["metadata"]["feature_names"]
    return list(answer.json()["results"][names.index("trips")]["values"])


def test_a_job_materialises_what_was_not_read_yet(tmp_path: Path) -> None:
    at = feature_projects.now() - timedelta(minutes=5)
    feature_projects.write_stats(tmp_path, driver_id=[1, 2], event_timestamp=[at] * 2, trips=[10, 20])
    with feature_projects.start(tmp_path) as server:
        assert trips(server, 1) == [None]
        job = work.submit(server, "materialize", {"views": ["stats"]})
        assert work.until(server, job["id"], "done")["result"]["stats"]["served"] == 2
        assert trips(server, 1, 2) == [10, 20]
        # Late, and older than what was read.
        late = at - timedelta(minutes=30)
        feature_projects.write_stats(tmp_path, "late", driver_id=[1, 3], event_timestamp=[late] * 2, trips=[1, 30])
        job = work.submit(server, "materialize", {})
        work.until(server, job["id"], "done")
        assert trips(server, 1, 3) == [10, 30]
        missing = work.submit(server, "materialize", {"views": ["none"]})
        assert "none" in work.until(server, missing["id"], "dead")["error"]
        for bad in ({"start": "soon"}, {"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}, {"view": "stats"}):
            form = {"kind": "materialize", "payload": bad}
            answer = requests.post(f"{server.admin_url}/halny/v1/jobs", json=form, timeout=30)
            assert answer.status_code == 400, answer.text
        assert server.stop() == 0


def test_a_schedule_materialises(tmp_path: Path) -> None:
    at = feature_projects.now() - timedelta(minutes=5)
    feature_projects.write_stats(tmp_path, driver_id=[7], event_timestamp=[at], trips=[70])
    every = '[[schedules]]\nname = "fresh"\ncron = "* * * * * *"\nkind = "materialize"\n'
    with feature_projects.start(tmp_path, feature_projects.DEFINITIONS + every) as server:
        wait_for("the schedule to materialise", lambda: trips(server, 7) == [70])
        assert server.stop() == 0
