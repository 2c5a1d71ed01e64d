"""The demo's requests, with nothing but the standard library: what any HTTP client would send."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """Status, body and headers of an HTTP answer."""

    status: int
    body: bytes
    headers: Message

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def wanted(self, what: str) -> Any:
        """The body as JSON of a success; anything else is an error that tells `what` was asked for."""
        if self.status != 200:
            raise RuntimeError(f"{what} was answered with {self.status}: {self.body.decode()[:500]}")
        return self.json()


@dataclass
class Written:
    """A text that came token by token, and when."""

    text: str = ""
    usage: dict[str, Any] | None = None
    first_s: float = 0.0
    last_s: float = 0.0

    def tokens_per_s(self) -> float:
        """From the first token to the last, as the server counts them."""
        took_s = self.last_s - self.first_s
        return (self.usage["completion_tokens"] - 1) / took_s if self.usage and took_s > 0 else 0.0


class Client:
    """A server's address, and requests to it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **headers: str) -> Answer:
        """GET; an error status is an answer too. Header names are written with `_` for `-`."""
        return self.send("GET", path, None, **headers)

    def post(self, path: str, body: bytes, kind: str = "application/json", **headers: str) -> Answer:
        """POST; header names are written with `_` for `-`."""
        return self.send("POST", path, body, kind, **headers)

    def send(
        self, method: str, path: str, body: bytes | None, kind: str = "application/json", **headers: str
    ) -> Answer:
        """Any method; header names are written with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named = {"content-type": kind} | named
        request = urllib.request.Request(self.url + path, body, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return Answer(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), error.headers)

    def embed(self, texts: list[str], **headers: str) -> list[list[float]]:
        """Vectors of texts, in order."""
        request = {"model": "minilm", "input": texts}
        answer = self.post("/v1/embeddings", json.dumps(request).encode(), **headers)
        return [one["embedding"] for one in answer.wanted("a request for embeddings")["data"]]

    def classify(self, image: bytes) -> dict[str, Any]:
        """Label and scores of an image file."""
        answer = self.post("/halny/v1/classify?model=nsfw", image, "image/png")
        result: dict[str, Any] = answer.wanted("the image")["results"][0]
        return result

    def complete(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        """A prompt's most probable continuation, with what was counted."""
        answer = self.post("/v1/completions", json.dumps(_completion(prompt, max_tokens)).encode())
        result: dict[str, Any] = answer.wanted("the prompt")
        return result

    def stream(self, prompt: str, max_tokens: int, show: Callable[[str], None]) -> Written:
        """A continuation that is drawn by a seed, token by token: `show` gets each piece as it comes."""
        drawn = {"temperature": 0.7, "top_p": 0.9, "seed": 2, "stream": True, "stream_options": {"include_usage": True}}
        request = _completion(prompt, max_tokens) | drawn
        body, kind = json.dumps(request).encode(), {"content-type": "application/json"}
        written, began = Written(), time.perf_counter()
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/v1/completions", body, kind), timeout=_TIMEOUT_S
        ) as lines:
            for line in lines:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    raise RuntimeError(f"the text broke off: {event['error']['message']}")
                written.usage = event.get("usage") or written.usage
                piece = event["choices"][0]["text"] if event["choices"] else ""
                if piece:
                    written.last_s = time.perf_counter() - began
                    written.first_s = written.first_s or written.last_s
                    written.text += piece
                    show(piece)
        return written


def _completion(prompt: str, max_tokens: int) -> dict[str, Any]:
    # Temperature 0: the most probable token each time, so that equal requests get equal texts.
    return {"model": "gemma", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}


def similarity(left: list[float], right: list[float]) -> float:
    """Cosine of two vectors of length 1."""
    return sum(a * b for a, b in zip(left, right))


def metric(text: str, name: str) -> float:
    """The sum over all series of a metric in a Prometheus exposition."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith(name))
    return sum(float(value) for key, _, value in lines if key.partition("{")[0] == name)
