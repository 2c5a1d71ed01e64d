"""A BERT checkpoint on disk: its configuration, its weights by canonical name, its pooling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

Array = npt.NDArray[Any]

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
_MAX_CONFIG_BYTES = 1 << 20


class CheckpointError(Exception):
    """The folder does not hold a checkpoint that a graph can be built from; the text says why."""


@dataclass(frozen=True)
class BertConfig:
    """The numbers of `config.json` that shape the graph."""

    layers: int
    heads: int
    hidden: int
    intermediate: int
    positions: int
    token_types: int
    vocabulary: int
    layer_norm_eps: float

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class Checkpoint:
    """Configuration and fp32 weights, named as `BertModel` names them (no `bert.` prefix)."""

    config: BertConfig
    weights: Mapping[str, Array]
    pooling: str | None

    def weight(self, name: str, *shape: int) -> Array:
        """The named weight, which must have exactly `shape`."""
        if name not in self.weights:
            raise CheckpointError(f"the checkpoint has no weight named {name}")
        found = self.weights[name]
        if found.shape != shape:
            raise CheckpointError(f"{name} has shape {found.shape}, config.json asks for {shape}")
        return found


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads `config.json`, every `*.safetensors` file and `1_Pooling/config.json` of a folder."""
    config = _read_config(folder / "config.json")
    return Checkpoint(config, _read_weights(folder), _read_pooling(folder / "1_Pooling" / "config.json"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes, which no configuration is")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}, an object was expected")
    return value


def _read_config(path: Path) -> BertConfig:
    raw = _read_json(path)
    _require(raw.get("model_type", "bert") == "bert", f"model_type is {raw.get('model_type')!r}, only 'bert' is built")
    _require(raw.get("hidden_act") == "gelu", f"hidden_act is {raw.get('hidden_act')!r}, only 'gelu' is built")
    positions = raw.get("position_embedding_type", "absolute")
    _require(positions == "absolute", f"position_embedding_type is {positions!r}, only 'absolute' is built")
    config = BertConfig(
        layers=_count(raw, "num_hidden_layers"),
        heads=_count(raw, "num_attention_heads"),
        hidden=_count(raw, "hidden_size"),
        intermediate=_count(raw, "intermediate_size"),
        positions=_count(raw, "max_position_embeddings"),
        token_types=_count(raw, "type_vocab_size"),
        vocabulary=_count(raw, "vocab_size"),
        layer_norm_eps=float(raw.get("layer_norm_eps", 1e-12)),
    )
    _require(
        config.hidden % config.heads == 0,
        f"hidden_size {config.hidden} is not a multiple of num_attention_heads {config.heads}",
    )
    return config


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckpointError(f"config.json: {otherwise}")


def _count(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json: {key} is {value!r}, a whole number of at least 1 was expected")
    return value


def _read_weights(folder: Path) -> dict[str, Array]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} holds no .safetensors file")
    weights: dict[str, Array] = {}
    for file in files:
        try:
            tensors: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from error
        for name, tensor in tensors:
            if (array := _to_array(tensor)) is not None:
                weights[name.removeprefix("bert.")] = array
    return weights


def _to_array(tensor: Mapping[str, Any]) -> Array | None:
    """An fp32 array, or None for tensors that are not weights (integer position ids)."""
    kind, shape, data = tensor["dtype"], tensor["shape"], tensor["data"]
    if kind == "BF16":
        # A bfloat16 is the upper half of a float32.
        wide = np.frombuffer(data, np.dtype("<u2")).astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32).reshape(shape)
    if kind not in _DTYPES:
        return None
    return np.frombuffer(data, np.dtype(_DTYPES[kind]).newbyteorder("<")).astype(np.float32).reshape(shape)


def _read_pooling(path: Path) -> str | None:
    """`mean` or `cls` as sentence-transformers wrote it, None where it says nothing."""
    if not path.is_file():
        return None
    raw = _read_json(path)
    asked = sorted(key for key, value in raw.items() if key.startswith("pooling_mode_") and value is True)
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(asked) != 1 or asked[0] not in known:
        raise CheckpointError(f"{path} asks for {asked}; mean or cls pooling alone is built")
    return known[asked[0]]
