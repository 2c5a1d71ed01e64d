"""LitServe with ONNX Runtime, written as its documentation shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litserve

from onnx_embedder import OnnxEmbedder, Vectors
from peers.arguments import parse


class Embed(litserve.LitAPI):
    """Texts to vectors, batched by LitServe in order of arrival."""

    def __init__(self, graph: Path, tokenizer: Path, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._files = (graph, tokenizer)
        self._threads = threads

    def setup(self, device: str) -> None:
        self.embedder = OnnxEmbedder(*self._files, self._threads)

    def decode_request(self, request: dict[str, str]) -> str:
        return request["input"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, texts: list[str]) -> Vectors:
        return self.embedder.embed(texts)

    def unbatch(self, output: Vectors) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, list[float]]:
        return {"embedding": output.tolist()}


def main() -> None:
    """Serves until it is told to stop."""
    arguments = parse()
    api = Embed(
        arguments.graph,
        arguments.tokenizer,
        arguments.threads,
        max_batch_size=arguments.batch,
        batch_timeout=arguments.wait_ms / 1000,
        api_path="/embed",
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=arguments.workers)
    server.run(host="127.0.0.1", port=arguments.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
