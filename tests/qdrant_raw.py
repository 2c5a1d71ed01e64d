"""Requests to the vector database as bytes, where its client would not send what a test has to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

import qdrant
import wire
from qdrant import PATIENCE_S
from refusals import GROWTH_MIB, INSIDE
from server import Server

JSON = "Content-Type: application/json"
DIMENSIONS = 4
VECTOR = [0.5, 0.25, 0.125, 1.0]
POINTS = 50
MAX_BODY = 8 << 20


@contextlib.contextmanager
def attacked(folder: Path) -> Iterator[Server]:
    """A server with one small collection, that has to live through all that is sent to it."""
    with qdrant.start(folder, max_body=f"{MAX_BODY >> 20}MiB") as server:
        send(server, "PUT", "/collections/small", {"vectors": {"size": DIMENSIONS, "distance": "Dot"}})
        points = [{"id": n, "vector": [n, 0, 0, 1], "payload": {"n": n, "part": n % 5}} for n in range(POINTS)]
        send(server, "PUT", "/collections/small/points?wait=true", {"points": points})
        for key in ("n", "part"):
            schema = {"field_name": key, "field_schema": "integer"}
            send(server, "PUT", "/collections/small/index?wait=true", schema)
        yield server
        server.end()
        assert {path.name for path in folder.iterdir() if path.is_dir()} <= {"cache", "store", "vectors"}


@contextlib.contextmanager
def survived(server: Server) -> Iterator[None]:
    """Afterwards the process lives, has the points that it had, and takes no more memory than it did."""
    before_mib = server.resident_mib()
    yield
    assert server.alive()
    found = send(server, "POST", "/collections/small/points/query", {"query": VECTOR, "limit": 100})["points"]
    assert [point["id"] for point in found] == list(reversed(range(POINTS)))
    assert [one["name"] for one in send(server, "GET", "/collections")["collections"]] == ["small"]
    assert server.resident_mib() < before_mib + GROWTH_MIB


def ask(server: Server, method: str, path: str, body: Any = None) -> requests.Response:
    """Sends a body of bytes as it is, and any other as JSON."""
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    return requests.request(method, f"{server.url}{path}", data=content, headers=headers, timeout=PATIENCE_S)


def send(server: Server, method: str, path: str, body: Any = None) -> Any:
    """A request that has to succeed; gives its result."""
    answer = ask(server, method, path, body)
    assert answer.status_code == 200, answer.text[:500]
    assert answer.json()["status"] == "ok"
    return answer.json()["result"]


def assert_refused(answer: requests.Response | wire.Reply, *statuses: int, sent: str = "") -> str:
    """A refusal in the shape of Qdrant's errors that tells nothing of the inside; gives its text."""
    if isinstance(answer, wire.Reply):
        status, content = answer.status, answer.body
    else:
        status, content = answer.status_code, answer.content
    assert status in statuses, (status, content[:500])
    text = json.loads(content)["status"]["error"]
    assert isinstance(text, str)
    assert 8 < len(text) < 600, text[:1_000]
    assert not INSIDE.search(text.replace(sent, "") if sent else text), text
    return text
