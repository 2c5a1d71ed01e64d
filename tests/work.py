"""Jobs of a server, as its operator asks for them; and where a server keeps them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engines
import requests
import stores
from server import PATIENCE_S, Server, wait_for

#: What may keep jobs and files: SQLite and a folder; PostgreSQL and a bucket.
PLACES = ("sqlite", "postgres")


@dataclass(frozen=True)
class Place:
    """The table `store` of a project, and the variables that its server needs."""

    text: str
    variables: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def place(name: str, folder: Path) -> Iterator[Place]:
    """Where a project keeps its jobs and files, as long as the context lasts."""
    if name == "sqlite":
        yield Place('[store]\nfolder = "store"\n')
        return
    with engines.postgres() as url, stores.s3(folder / "s3") as bucket:
        text = f'[store]\nengine = "postgres"\nurl = "{url}"\nblobs = "s3://{bucket.name}/halny"\n'
        yield Place(text, bucket.variables)


def submit(server: Server, kind: str, payload: Any, *, key: str | None = None, **more: Any) -> dict[str, Any]:
    """Submits a job; gives it as the server has it."""
    headers = {"Idempotency-Key": key} if key else {}
    form = {"kind": kind, "payload": payload, **more}
    answer = requests.post(f"{server.admin_url}/halny/v1/jobs", json=form, headers=headers, timeout=30)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def job(server: Server, name: str) -> dict[str, Any]:
    """A job as it stands."""
    answer = requests.get(f"{server.admin_url}/halny/v1/jobs/{name}", timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def until_it_has(server: Server, name: str, count: int, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """Waits until a job that runs has done so much."""

    def has() -> dict[str, Any] | None:
        found = job(server, name)
        if found["state"] not in ("ready", "running"):
            raise AssertionError(f"the job is {found['state']}: {found}")
        done = (found["progress"] or {}).get("done", 0)
        return found if found["state"] == "running" and done >= count else None

    return dict(wait_for(f"the job to do {count}", has, patience_s))


def until(server: Server, name: str, *states: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """Waits until a job stands so."""

    def stands() -> dict[str, Any] | None:
        found = job(server, name)
        if found["state"] in ("done", "dead", "cancelled") and found["state"] not in states:
            raise AssertionError(f"the job is {found['state']}: {found}")
        return found if found["state"] in states else None

    return dict(wait_for(f"the job to be {states}", stands, patience_s))
