"""The demo's collection: what every Debian package is for, found by meaning.

Texts go to the server as they are; it makes their vectors with the collection's own model. What is
there already is not sent again, so a run that was broken off goes on where it was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import Client

COLLECTION = "packages"
MODEL = "minilm"
#: The quick precision: indexing is work for a while, and a tenth of a percent of its neighbours differ.
PROFILE = "int8"
#: Texts in one request: some batches of the model.
BATCH = 256
#: Requests at once: one is answered while the next is tokenised.
AT_ONCE = 3
#: Ids that are asked for at once.
PAGE = 20_000


@dataclass(frozen=True)
class Package:
    """A package, and what it says of itself."""

    name: str
    description: str


def read(file: Path) -> list[Package]:
    """One package a line, its name and its description with a tab between."""
    lines = (line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines())
    return [Package(*line) for line in lines if len(line) == 2]


def index(client: Client, packages: list[Package]) -> tuple[int, float]:
    """Brings the collection up to date; gives how many texts were new, and the seconds that they took."""
    if not asked(client, "GET", f"/collections/{COLLECTION}/exists")["exists"]:
        asked(client, "PUT", f"/collections/{COLLECTION}", {"model": MODEL})
    known = set(_ids(client))
    new = [number for number in range(len(packages)) if number not in known]
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        batches = [new[first : first + BATCH] for first in range(0, len(new), BATCH)]
        done = 0
        for count in pool.map(lambda batch: _send(client, packages, batch), batches):
            done += count
            _show(done, len(new), began)
    return len(new), time.perf_counter() - began


def _ids(client: Client) -> Iterator[int]:
    offset: int | None = None
    while True:
        page = {"limit": PAGE, "with_payload": False} | ({} if offset is None else {"offset": offset})
        found = asked(client, "POST", f"/collections/{COLLECTION}/points/scroll", page)
        yield from (point["id"] for point in found["points"])
        offset = found["next_page_offset"]
        if offset is None:
            return


def _send(client: Client, packages: list[Package], batch: list[int]) -> int:
    points = [
        {
            "id": number,
            "vector": {"text": packages[number].description},
            "payload": {"name": packages[number].name, "description": packages[number].description},
        }
        for number in batch
    ]
    path = f"/collections/{COLLECTION}/points?wait=true"
    asked(client, "PUT", path, {"points": points}, x_halny_profile=PROFILE, x_halny_deadline_ms="60000")
    return len(batch)


def _show(done: int, total: int, began: float) -> None:
    rate = done / max(time.perf_counter() - began, 1e-9)
    line = f"  {done:,} of {total:,} texts, {rate:.0f} a second, {(total - done) / rate:.0f} s left"
    if sys.stdout.isatty():
        print(f"\r{line}   ", end="\n" if done == total else "", flush=True)
    elif done == total or done % (BATCH * 50) == 0:
        print(line, flush=True)


def search(client: Client, text: str, limit: int = 3) -> list[dict[str, Any]]:
    """The packages nearest to a text, each with its score."""
    query = {"query": {"text": text}, "limit": limit, "with_payload": True}
    points: list[dict[str, Any]] = asked(client, "POST", f"/collections/{COLLECTION}/points/query", query)["points"]
    return points


@dataclass(frozen=True)
class Answered:
    """What the route `ask` answers, the packages that it was told of, and the time of its steps."""

    text: str
    packages: list[dict[str, Any]]
    times: str


def ask(client: Client, question: str) -> Answered:
    """A question to the route that the demo's project file declares."""
    answer = client.post("/ask", json.dumps({"question": question}).encode())
    body = answer.wanted("the question")
    return Answered(body["answer"].strip(), body["packages"], answer.headers.get("server-timing", ""))


#: How many packages count as what a user looked at lately.
LOOKS = 8


def recommend(client: Client, user: str) -> dict[str, Any]:
    """What the route `recommend` says to a user."""
    answer = client.post("/recommend", json.dumps({"user": user}).encode())
    recommended: dict[str, Any] = answer.wanted("a request for recommendations")
    return recommended


def look(client: Client, user: str, package: int) -> None:
    """An event, as an application pushes it when a user opens a package."""
    before = recommend(client, user)
    recent = [package, *(known for known in before["recent"] if known != package)][:LOOKS]
    row = {"user_id": [user], "recent": [recent], "count": [before["looks"] + 1]}
    body = {"push_source_name": "looks", "df": row, "to": "online_and_offline"}
    client.post("/push", json.dumps(body).encode()).wanted("the event")


def asked(client: Client, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """What the server answers to a request of Qdrant's REST API; an error is one here too."""
    content = None if body is None else json.dumps(body).encode()
    return client.send(method, path, content, **headers).wanted(f"{method} {path}")["result"]
