"""A random BERT, small enough to check by hand, and its forward pass in numpy.

The reference is written from the paper's equations (Devlin et al. 2018, Vaswani et al. 2017) in
float64, one text at a time and without any padding, so that it shares nothing with the graphs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Array = npt.NDArray[Any]

_EPS = 1e-12


@dataclass(frozen=True)
class Shape:
    """The size of a random BERT."""

    layers: int = 2
    heads: int = 4
    hidden: int = 32
    intermediate: int = 64
    vocabulary: int = 50
    positions: int = 24
    token_types: int = 2
    labels: int = 0


def write_checkpoint(folder: Path, shape: Shape, *, prefix: str = "", seed: int = 7) -> dict[str, Array]:
    """Writes config.json and model.safetensors; returns the weights by canonical name."""
    weights = _random_weights(shape, np.random.default_rng(seed))
    named = {
        (name if name.startswith("classifier") else prefix + name): np.ascontiguousarray(value)
        for name, value in weights.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(shape)))
    return weights


def config(shape: Shape) -> dict[str, Any]:
    """The config.json of a random BERT."""
    return {
        "model_type": "bert",
        "hidden_act": "gelu",
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.token_types,
        "vocab_size": shape.vocabulary,
        "layer_norm_eps": _EPS,
    }


def _random_weights(shape: Shape, random: np.random.Generator) -> dict[str, Array]:
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (shape.vocabulary, shape.hidden),
        "embeddings.position_embeddings.weight": (shape.positions, shape.hidden),
        "embeddings.token_type_embeddings.weight": (shape.token_types, shape.hidden),
    }
    dense = {"pooler.dense": (shape.hidden, shape.hidden)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense[f"{at}.attention.{part}"] = (shape.hidden, shape.hidden)
        dense[f"{at}.intermediate.dense"] = (shape.intermediate, shape.hidden)
        dense[f"{at}.output.dense"] = (shape.hidden, shape.intermediate)
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    if shape.labels:
        dense["classifier"] = (shape.labels, shape.hidden)
    for name, (rows, columns) in dense.items():
        sizes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    weights = {name: random.normal(0.0, 0.3, size).astype(np.float32) for name, size in sizes.items()}
    for name in norms:
        weights[f"{name}.weight"] = random.normal(1.0, 0.1, shape.hidden).astype(np.float32)
        weights[f"{name}.bias"] = random.normal(0.0, 0.1, shape.hidden).astype(np.float32)
    return weights


def hidden_states(weights: dict[str, Array], shape: Shape, ids: list[int], types: list[int] | None = None) -> Array:
    """The last layer's output for one text: `[tokens, hidden]`, float64."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    rows = w["embeddings.token_type_embeddings.weight"][types or [0] * len(ids)]
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)] + rows
    x = _norm(w, "embeddings.LayerNorm", x)
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        attended = _dense(w, f"{at}.attention.output.dense", _attention(w, f"{at}.attention.self", shape, x))
        x = _norm(w, f"{at}.attention.output.LayerNorm", x + attended)
        wide = _dense(w, f"{at}.intermediate.dense", x)
        wide = wide * 0.5 * (1.0 + np.vectorize(math.erf)(wide / math.sqrt(2.0)))
        x = _norm(w, f"{at}.output.LayerNorm", x + _dense(w, f"{at}.output.dense", wide))
    return x


def logits(weights: dict[str, Array], shape: Shape, ids: list[int], types: list[int] | None = None) -> Array:
    """The classifier's answer for one text: `[labels]`."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    first = hidden_states(weights, shape, ids, types)[0]
    return _dense(w, "classifier", np.tanh(_dense(w, "pooler.dense", first)))


def _dense(w: dict[str, Array], name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(w: dict[str, Array], name: str, x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + _EPS)
    return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def _attention(w: dict[str, Array], at: str, shape: Shape, x: Array) -> Array:
    query, key, value = (_dense(w, f"{at}.{part}", x) for part in ("query", "key", "value"))
    width = shape.hidden // shape.heads
    heads = []
    for head in range(shape.heads):
        part = slice(head * width, (head + 1) * width)
        scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(width))
        heads.append(scores / scores.sum(axis=-1, keepdims=True) @ value[:, part])
    return np.concatenate(heads, axis=-1)
