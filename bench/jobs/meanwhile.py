"""What a job that embeds leaves to those who wait: latency of single embeddings, idle and while it runs."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers.children import free_port
from servers import Request, Server, System, asked, running

_IDLE_S = 20.0
_JOB_TIMEOUT_S = 900.0
#: Requests a second of those who wait: a person's typing, not a load test.
RATE = 10.0
_Json = dict[str, Any]

_PROJECT = """[server]
address = "127.0.0.1:{port}"
admin_address = "127.0.0.1:{admin}"
[[models]]
name = "minilm"
source = "{source}"
task = "embed"
[[models.profiles]]
name = "default"
device = "cpu"
precision = "int8"
"""


def measured(binary: Path, cache: Path, folder: Path, rows: int, say: Callable[[str], None]) -> _Json:
    """Latencies of one text a request at a steady rate: with nothing else to do, and while a job embeds `rows` texts."""
    texts = (cache / "data" / "debian-descriptions.txt").read_text(encoding="utf-8").splitlines()
    (folder / "all.txt").write_text("\n".join(texts[:rows]), encoding="utf-8")
    admin = free_port()
    with running(_halny(binary, cache / "models" / "minilm", folder, admin), folder) as server:
        say("  embeddings, idle")
        _latencies(server, texts, lambda seconds: seconds < 3.0)
        idle = _latencies(server, texts, lambda seconds: seconds < _IDLE_S)
        asked("PUT", f"{server.url}/collections/all", {"model": "minilm"})
        order = {"kind": "embed-collection", "payload": {"collection": "all", "source": {"path": "all.txt"}}}
        url = f"http://127.0.0.1:{admin}/halny/v1/jobs"
        name = asked("POST", url, order)["id"]
        say(f"  embeddings, while a job embeds {rows} texts")
        began_s, stands = time.perf_counter(), {"state": "ready"}

        def runs(seconds: float) -> bool:
            nonlocal stands
            # Once a second, so that asking is no load of its own.
            if int(seconds * RATE) % int(RATE) == 0:
                stands = asked("GET", f"{url}/{name}")
            return stands["state"] in ("ready", "running") and seconds < _JOB_TIMEOUT_S

        busy = _latencies(server, texts, runs)
        took_s = time.perf_counter() - began_s
        if stands["state"] != "done":
            raise RuntimeError(f"the job is {stands['state']}: {stands.get('error')}")
        return {
            "rows": rows,
            "rate": RATE,
            "texts_per_s": round(rows / took_s, 1),
            "idle": idle,
            "busy": busy,
            "p95_vs_idle": round(busy["p95_ms"] / idle["p95_ms"], 3),
        }


def _halny(binary: Path, model: Path, folder: Path, admin: int) -> System:
    def command(port: int) -> list[str]:
        (folder / "halny.toml").write_text(_PROJECT.format(port=port, admin=admin, source=model), encoding="utf-8")
        return [str(binary.absolute()), "serve", "--project", str(folder)]

    request = Request("/v1/embeddings", {"model": "minilm", "input": "{text}"}, lambda _: [])
    return System("halny", command, request, "/health")


def _latencies(server: Server, texts: list[str], goes_on: Callable[[float], bool]) -> _Json:
    """One request after the other at the rate, each from when it was due: one that comes late has waited."""
    connection, request = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60), server.system.request
    late_ms, began_s, number = [], time.perf_counter(), 0
    while goes_on(number / RATE):
        due_s = began_s + number / RATE
        time.sleep(max(0.0, due_s - time.perf_counter()))
        sent_s = time.perf_counter()
        body = request.body(texts[-1 - number % 1_000])
        connection.request("POST", request.path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"an embedding was answered with {answer.status}")
        late_ms.append((time.perf_counter() - sent_s) * 1e3)
        number += 1
    late_ms.sort()
    return {
        "requests": len(late_ms),
        "p50_ms": round(late_ms[len(late_ms) // 2], 3),
        "p95_ms": round(late_ms[int(0.95 * len(late_ms))], 3),
        "p99_ms": round(late_ms[int(0.99 * len(late_ms))], 3),
    }
