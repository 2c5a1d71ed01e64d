"""Streams of tokens from a server that speaks OpenAI's completions: who asks, and when each token came."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_TIMEOUT_S = 600


@dataclass(frozen=True)
class Ask:
    """One prompt and how many tokens are to be written."""

    prompt: tuple[int, ...]
    max_tokens: int


@dataclass
class Told:
    """When the events of one answer came, in seconds since the measurement began."""

    ask: Ask
    began_s: float = 0.0
    #: One entry an event with text; a server may put several tokens into one.
    events_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    #: As the server counts them.
    completion_tokens: int = 0

    @property
    def first_s(self) -> float:
        """Time to the first token."""
        return self.events_s[0] - self.began_s

    @property
    def gaps_s(self) -> list[float]:
        """Times between events."""
        return [later - earlier for earlier, later in zip(self.events_s, self.events_s[1:], strict=False)]


class StreamError(Exception):
    """A server refused a request or broke a stream off."""


def stream(port: int, model: str, ask: Ask, zero_s: float, stop: threading.Event | None = None) -> Told:
    """Asks once and notes when each event came. With `stop`, leaves as soon as it is set."""
    body = json.dumps(
        {
            "model": model,
            "prompt": list(ask.prompt),
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    told = Told(ask, began_s=time.monotonic() - zero_s)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise StreamError(f"{answer.status}: {answer.read(500).decode(errors='replace')}")
        for line in answer:
            if stop is not None and stop.is_set():
                return told
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            _note(told, json.loads(line[6:]), time.monotonic() - zero_s)
    finally:
        connection.close()
    told.ended_s = time.monotonic() - zero_s
    return told


def _note(told: Told, event: dict[str, Any], now_s: float) -> None:
    if "error" in event:
        raise StreamError(json.dumps(event["error"]))
    usage = event.get("usage")
    if usage:
        told.completion_tokens = int(usage["completion_tokens"])
    choices = event.get("choices") or []
    # The last event of an answer has a reason and no text.
    if choices and choices[0].get("finish_reason") is None:
        told.events_s.append(now_s)


def closed_loop(port: int, model: str, asks: list[Ask], clients: int) -> list[Told]:
    """So many clients, each of which asks again as soon as it is answered, until all is asked."""
    waiting, told = list(reversed(asks)), []
    zero_s = time.monotonic()

    def client() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                ask = waiting.pop()
            answer = stream(port, model, ask, zero_s)
            with lock:
                told.append(answer)

    lock = threading.Lock()
    together([client] * clients)
    return told


def together(works: list[Callable[[], None]]) -> None:
    """Runs each in a thread of its own, and raises what the first that failed raised."""
    failed: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
