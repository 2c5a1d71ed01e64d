"""mosec with ONNX Runtime, written as its documentation shows it.

mosec reads the command line itself and starts its workers anew, so what they need comes through
the environment: BENCH_GRAPH, BENCH_TOKENIZER, BENCH_WORKERS, BENCH_THREADS, BENCH_BATCH,
BENCH_WAIT_MS, and MOSEC_ADDRESS, MOSEC_PORT, MOSEC_LOG_LEVEL for mosec.
"""

from __future__ import annotations

import os
from pathlib import Path

from mosec import Server, Worker

from onnx_embedder import OnnxEmbedder


class Embed(Worker):
    """Texts to vectors, batched by mosec in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        files = (Path(os.environ["BENCH_GRAPH"]), Path(os.environ["BENCH_TOKENIZER"]))
        self._embedder = OnnxEmbedder(*files, int(os.environ["BENCH_THREADS"]))

    def forward(self, data: list[dict[str, str]]) -> list[dict[str, list[float]]]:
        vectors = self._embedder.embed([request["input"] for request in data])
        return [{"embedding": vector.tolist()} for vector in vectors]


def main() -> None:
    """Serves until it is told to stop."""
    server = Server()
    server.append_worker(
        Embed,
        num=int(os.environ["BENCH_WORKERS"]),
        max_batch_size=int(os.environ["BENCH_BATCH"]),
        max_wait_time=int(float(os.environ["BENCH_WAIT_MS"])),
    )
    server.run()


if __name__ == "__main__":
    main()
