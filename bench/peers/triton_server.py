"""Triton through PyTriton, its Python backend running the same ONNX Runtime session."""

from __future__ import annotations

from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from onnx_embedder import OnnxEmbedder
from peers.arguments import parse


def infer(embedder: OnnxEmbedder) -> Any:
    """The function that Triton calls with each batch it has formed, texts as `[batch, 1]`."""

    @batch  # type: ignore[untyped-decorator]
    def embed(text: Any) -> dict[str, Any]:
        return {"embedding": embedder.embed([value.decode("utf-8") for value in text[:, 0]])}

    return embed


def main() -> None:
    """Serves until it is told to stop."""
    arguments = parse("--grpc-port", "--metrics-port")
    files = (arguments.graph, arguments.tokenizer)
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=arguments.port,
        grpc_address="127.0.0.1",
        grpc_port=arguments.grpc_port,
        metrics_port=arguments.metrics_port,
    )
    batcher = DynamicBatcher(max_queue_delay_microseconds=int(arguments.wait_ms * 1000))
    with Triton(config=config) as triton:
        triton.bind(
            model_name="minilm",
            infer_func=[infer(OnnxEmbedder(*files, arguments.threads)) for _ in range(arguments.workers)],
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="embedding", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=arguments.batch, batcher=batcher),
        )
        triton.serve()


if __name__ == "__main__":
    main()
