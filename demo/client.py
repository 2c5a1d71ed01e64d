"""The demo's requests, with nothing but the standard library: what any HTTP client would send."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """Status and body of an HTTP answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """A server's address, and requests to it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Answer:
        """GET; an error status is an answer too."""
        return self._send(urllib.request.Request(self.url + path))

    def post(self, path: str, body: bytes, kind: str = "application/json", **headers: str) -> Answer:
        """POST; header names are written with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._send(urllib.request.Request(self.url + path, body, {"content-type": kind} | named))

    def embed(self, texts: list[str], **headers: str) -> list[list[float]]:
        """Vectors of texts, in order."""
        request = {"model": "minilm", "input": texts}
        answer = self.post("/v1/embeddings", json.dumps(request).encode(), **headers)
        if answer.status != 200:
            raise RuntimeError(f"embeddings were answered with {answer.status}: {answer.body.decode()}")
        return [one["embedding"] for one in answer.json()["data"]]

    def classify(self, image: bytes) -> dict[str, Any]:
        """Label and scores of an image file."""
        answer = self.post("/halny/v1/classify?model=nsfw", image, "image/png")
        if answer.status != 200:
            raise RuntimeError(f"the image was answered with {answer.status}: {answer.body.decode()}")
        result: dict[str, Any] = answer.json()["results"][0]
        return result

    @staticmethod
    def _send(request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return Answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read())


def similarity(left: list[float], right: list[float]) -> float:
    """Cosine of two vectors of length 1."""
    return sum(a * b for a, b in zip(left, right))


def metric(text: str, name: str) -> float:
    """The sum over all series of a metric in a Prometheus exposition."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith(name))
    return sum(float(value) for key, _, value in lines if key.partition("{")[0] == name)
