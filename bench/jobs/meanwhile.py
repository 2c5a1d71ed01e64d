"""What a job that embeds leaves to those who wait: latency of single embeddings, idle and while it runs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

_START_TIMEOUT_S = 300.0
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
    port, admin = _free_ports()
    source = cache / "models" / "minilm"
    (folder / "halny.toml").write_text(_PROJECT.format(port=port, admin=admin, source=source), encoding="utf-8")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [binary, "serve", "--project", folder], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ
        )
    try:
        _wait_until_ready(server, port)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        _asked(connection, texts, lambda seconds: seconds < 3.0)
        say("  embeddings, idle")
        idle = _asked(connection, texts, lambda seconds: seconds < _IDLE_S)
        _json("PUT", f"http://127.0.0.1:{port}/collections/all", {"model": "minilm"})
        order = {"kind": "embed-collection", "payload": {"collection": "all", "source": {"path": "all.txt"}}}
        url = f"http://127.0.0.1:{admin}/halny/v1/jobs"
        name = _json("POST", url, order)["id"]
        say(f"  embeddings, while a job embeds {rows} texts")
        began_s, stands = time.perf_counter(), {"state": "ready"}

        def runs(seconds: float) -> bool:
            nonlocal stands
            # Once a second, so that asking is no load of its own.
            if int(seconds * RATE) % int(RATE) == 0:
                stands = _json("GET", f"{url}/{name}")
            return stands["state"] in ("ready", "running") and seconds < _JOB_TIMEOUT_S

        busy = _asked(connection, texts, runs)
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
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _asked(connection: http.client.HTTPConnection, texts: list[str], goes_on: Callable[[float], bool]) -> _Json:
    """One request after the other at the rate, each from when it was due: one that comes late has waited."""
    late_ms, began_s, number = [], time.perf_counter(), 0
    while goes_on(number / RATE):
        due_s = began_s + number / RATE
        time.sleep(max(0.0, due_s - time.perf_counter()))
        sent_s = time.perf_counter()
        body = json.dumps({"model": "minilm", "input": texts[-1 - number % 1_000]})
        connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
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


def _json(method: str, url: str, body: _Json | None = None) -> _Json:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, method=method, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            _json("GET", f"http://127.0.0.1:{port}/health")
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError("halny did not start") from None
            time.sleep(0.1)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
