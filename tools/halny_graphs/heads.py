"""What follows the encoder: pooling and normalisation, or a classifier. Outputs are always fp32.

Pooling runs in fp32 in every precision: it sums over as many as 512 tokens and divides, where fp16
would lose the digits that tell two texts apart.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from halny_graphs.checkpoint import Checkpoint, CheckpointError
from halny_graphs.graph import GraphWriter

POOLINGS = ("mean", "cls", "none")


def add_pooling(graph: GraphWriter, hidden: str, mask: str, pooling: str, normalise: bool, size: int) -> None:
    """Adds the output `sentence_embedding` `[batch, dim]`, or `last_hidden_state` for `none`."""
    hidden = _as_float32(graph, hidden)
    if pooling == "none":
        graph.op("Identity", [hidden], "last_hidden_state")
        graph.output("last_hidden_state", ["batch", "tokens", size])
        return
    pooled = _mean(graph, hidden, mask) if pooling == "mean" else _first(graph, hidden)
    if normalise:
        norm = graph.op("ReduceL2", [pooled], "pool.norm", axes=[1], keepdims=1)
        norm = graph.op("Max", [norm, graph.float32("pool.tiny", [1e-12])], "pool.safe_norm")
        graph.op("Div", [pooled, norm], "sentence_embedding")
    else:
        graph.op("Identity", [pooled], "sentence_embedding")
    graph.output("sentence_embedding", ["batch", size])


def add_classifier(graph: GraphWriter, checkpoint: Checkpoint, hidden: str) -> None:
    """Adds `logits` `[batch, labels]`: tanh pooler over the first token, then the classifier."""
    if "classifier.weight" not in checkpoint.weights:
        raise CheckpointError("a head was asked for, but the checkpoint has no weight named classifier.weight")
    size = checkpoint.config.hidden
    labels = checkpoint.weights["classifier.weight"].shape[0]
    first = _first(graph, hidden)
    pooled = graph.op("Tanh", [_dense(graph, checkpoint, first, "pooler.dense", size, size)], "pooler")
    logits = _dense(graph, checkpoint, pooled, "classifier", size, labels)
    graph.cast(logits, TensorProto.FLOAT, "logits")
    graph.output("logits", ["batch", labels])


def _dense(graph: GraphWriter, checkpoint: Checkpoint, value: str, prefix: str, inner: int, outer: int) -> str:
    weight = graph.weight(f"{prefix}.weight", checkpoint.weight(f"{prefix}.weight", outer, inner).T)
    bias = graph.weight(f"{prefix}.bias", checkpoint.weight(f"{prefix}.bias", outer))
    return str(graph.op("Add", [graph.op("MatMul", [value, weight], f"{prefix}.matmul"), bias], f"{prefix}.biased"))


def _as_float32(graph: GraphWriter, value: str) -> str:
    return value if graph.dtype == np.float32 else graph.cast(value, TensorProto.FLOAT, "hidden.float32")


def _first(graph: GraphWriter, hidden: str) -> str:
    return str(graph.op("Gather", [hidden, graph.integers("pool.first", 0)], "pool.cls", axis=1))


def _mean(graph: GraphWriter, hidden: str, mask: str) -> str:
    """Mean over real tokens, as `[batch, 1, tokens] @ [batch, tokens, dim]`: no masked copy is made."""
    weights = graph.cast(mask, TensorProto.FLOAT, "pool.mask")
    row = graph.op("Unsqueeze", [weights, graph.integers("one", [1])], "pool.row")
    total = graph.op("MatMul", [row, hidden], "pool.sum")
    total = graph.op("Squeeze", [total, graph.integers("one", [1])], "pool.total")
    count = graph.op("ReduceSum", [weights, graph.integers("one", [1])], "pool.count", keepdims=1)
    count = graph.op("Max", [count, graph.float32("pool.tiny", [1e-12])], "pool.safe_count")
    return str(graph.op("Div", [total, count], "pool.mean"))
