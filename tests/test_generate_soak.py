"""Two hundred clients at once, a third of which leave in mid-stream: nothing leaks, the others' streams are whole.

Twenty seconds by default; `HALNY_SOAK_S=300` for the full five minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import projects
import pytest
import requests
from server import CACHE, Server

CLIENTS = 200
SECONDS = float(os.environ.get("HALNY_SOAK_S", "20"))
GEMMA = CACHE / "models" / "gemma3-270m"
#: Allocators keep what they were given once: what grows beyond it, from the middle to the end, is a leak.
GROWTH_MIB = 24
MODEL = {
    "name": "gemma",
    "source": str(GEMMA),
    "task": "generate",
    "profiles": [{"name": "default", "generate": {"cells": 8192, "max_running": 32, "max_wait_ms": 600_000}}],
}


@pytest.fixture
def soaked(tmp_path: Path) -> Iterator[Server]:
    with projects.start(tmp_path, [MODEL]) as server:
        yield server
        assert server.alive()


@dataclass
class Tally:
    """What came of all requests."""

    whole: int = 0
    left: int = 0
    wrong: list[str] = field(default_factory=list)


def test_nothing_leaks_while_clients_come_and_leave(soaked: Server) -> None:
    tally = Tally()
    resident_mib: list[float] = []
    threads = thread_count(soaked)
    asyncio.run(soak(soaked, tally, resident_mib))
    assert not tally.wrong, tally.wrong[:5]
    assert tally.whole > 20
    assert tally.left > 10
    half = len(resident_mib) // 2
    assert max(resident_mib[half:]) - max(resident_mib[: half + 1]) < GROWTH_MIB, resident_mib
    text = requests.get(f"{soaked.url}/metrics", timeout=10).text
    assert gauge(text, "halny_generation_running_requests") == 0
    assert gauge(text, "halny_generation_waiting_requests") == 0
    assert gauge(text, "halny_generation_cells_ratio") == 0
    assert thread_count(soaked) <= threads + 1
    print(f"{tally.whole} whole, {tally.left} left, memory {resident_mib[0]:.0f} to {resident_mib[-1]:.0f} MiB")


def gauge(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


def thread_count(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


async def soak(server: Server, tally: Tally, resident_mib: list[float]) -> None:
    stop = asyncio.Event()
    clients = [asyncio.create_task(client(server, number, tally, stop)) for number in range(CLIENTS)]
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS
    while loop.time() < end:
        await asyncio.sleep(SECONDS / 20)
        resident_mib.append(server.resident_mib())
    stop.set()
    await asyncio.gather(*clients)
    for _ in range(200):
        if gauge(requests.get(f"{server.url}/metrics", timeout=10).text, "halny_generation_running_requests") == 0:
            break
        await asyncio.sleep(0.05)
    resident_mib.append(server.resident_mib())


async def client(server: Server, number: int, tally: Tally, stop: asyncio.Event) -> None:
    """Asks again and again; every third client leaves each of its streams in the middle."""
    chance = random.Random(number)
    while not stop.is_set():
        tokens = chance.randint(4, 24)
        leaves = number % 3 == 0
        try:
            received, done = await ask(server, chance, tokens, chance.randint(1, 3) if leaves else None, stop)
        except (OSError, ValueError) as error:
            tally.wrong.append(repr(error))
            return
        if done is None:
            continue
        if leaves:
            tally.left += 1
        elif done and received == tokens:
            tally.whole += 1
        else:
            tally.wrong.append(f"{received} of {tokens} tokens, done: {done}")


async def ask(
    server: Server, chance: random.Random, tokens: int, leave_after: int | None, stop: asyncio.Event
) -> tuple[int, bool | None]:
    """Streams one answer; how many tokens it had, and whether it ended properly (nothing: given up for the stop)."""
    words = " ".join(chance.choice(["rain", "sun", "wind", "snow", "fog"]) for _ in range(chance.randint(3, 30)))
    body = json.dumps(
        {
            "model": "gemma",
            "prompt": f"The weather report of the mountains: {words}",
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    port = int(server.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        writer.write(f"{head}\r\n\r\n{body}".encode())
        status = await reader.readline()
        if b" 200 " not in status:
            raise ValueError(status.decode())
        events = received = 0
        while line := await reader.readline():
            if stop.is_set() and not events:
                return 0, None
            if line.startswith(b"data: [DONE]"):
                return received, True
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            events += 1
            if event.get("usage"):
                received = event["usage"]["completion_tokens"]
            if leave_after is not None and events >= leave_after:
                return received, False
        return received, False
    finally:
        writer.close()
