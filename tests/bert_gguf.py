"""A BERT as a GGUF file, from the weights of its checkpoint, as `convert_hf_to_gguf.py` of llama.cpp names them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tiny_gguf import ALIGNMENT, FILE, Value, described, padded, text, value

Array = npt.NDArray[Any]

_PARTS = {
    "word_embeddings": "token_embd",
    "position_embeddings": "position_embd",
    "token_type_embeddings": "token_types",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "LayerNorm": "token_embd_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}
MEAN, RANK = 1, 4


@dataclass
class Bert:
    """What is written; `keys` stand instead of what is made of the rest."""

    config: Mapping[str, Any]
    weights: Mapping[str, Array]
    #: The vocabulary as word pieces: `##` in front of those that go on.
    words: Sequence[str]
    pooling: int = MEAN
    labels: Sequence[str] = ()
    keys: dict[str, Value] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """A folder with the file `model.gguf`."""
        folder.mkdir(parents=True, exist_ok=True)
        keys = dict(self._keys()) | self.keys
        tensors = {_renamed(name): content for name, content in self.weights.items() if self._wants(name)}
        data = [padded(content.astype(np.float32).tobytes()) for content in tensors.values()]
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
        parts += [text(name) + value(content) for name, content in keys.items()]
        place = 0
        for (name, content), written in zip(tensors.items(), data, strict=True):
            parts.append(described(name, content.shape[::-1], place))
            place += len(written)
        (folder / FILE).write_bytes(padded(b"".join(parts)) + b"".join(data))
        return folder

    def _wants(self, name: str) -> bool:
        is_head = name.startswith(("pooler.", "classifier."))
        return name != "embeddings.position_ids" and (self.pooling == RANK or not is_head)

    def _keys(self) -> Iterator[tuple[str, Value]]:
        yield "general.architecture", ("text", "bert")
        yield "general.alignment", ("u32", ALIGNMENT)
        yield "general.file_type", ("u32", 0)
        for name, source in {
            "block_count": "num_hidden_layers",
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "feed_forward_length": "intermediate_size",
            "attention.head_count": "num_attention_heads",
        }.items():
            yield f"bert.{name}", ("u32", self.config[source])
        yield "bert.attention.layer_norm_epsilon", ("f32", self.config["layer_norm_eps"])
        yield "bert.attention.causal", ("bool", False)
        yield "bert.pooling_type", ("u32", self.pooling)
        if self.labels:
            yield "bert.classifier.output_labels", ("texts", list(self.labels))
        yield "tokenizer.ggml.model", ("text", "bert")
        yield "tokenizer.ggml.token_type_count", ("u32", self.config["type_vocab_size"])
        yield "tokenizer.ggml.tokens", ("texts", [_piece(word) for word in self.words])
        yield "tokenizer.ggml.token_type", ("i32s", [3 if _is_special(word) else 1 for word in self.words])
        for name, word in {
            "bos": "[CLS]",
            "seperator": "[SEP]",
            "eos": "[SEP]",
            "unknown": "[UNK]",
            "padding": "[PAD]",
        }.items():
            yield f"tokenizer.ggml.{name}_token_id", ("u32", list(self.words).index(word))


def _is_special(word: str) -> bool:
    return word.startswith("[") and word.endswith("]") and len(word) > 2


def _piece(word: str) -> str:
    """llama.cpp marks the pieces that begin a word, BERT those that go on."""
    if _is_special(word):
        return word
    return word[2:] if word.startswith("##") and len(word) > 2 else f"\u2581{word}"


def _renamed(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("encoder.layer."):
        number, _, part = stem.removeprefix("encoder.layer.").partition(".")
        return f"blk.{number}.{_PARTS[part]}.{kind}"
    return f"{_PARTS[stem.removeprefix('embeddings.')]}.{kind}"
