"""MiniLM in plain numpy, from its safetensors: what the served embeddings are compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from tiny_bert import Shape, hidden_states
from tokenizers import Tokenizer

Array = npt.NDArray[Any]


class Reference:
    """A sentence-transformers BERT: tokens, encoder in float64, mean over tokens, length 1."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.shape = Shape(
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            token_types=config["type_vocab_size"],
        )
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, special ones included."""
        return list(self.tokenizer.encode(text).ids)

    def embedding(self, text: str) -> Array:
        """The vector of a text: `[384]`."""
        mean = hidden_states(self.weights, self.shape, self.ids(text)).mean(axis=0)
        vector: Array = mean / np.linalg.norm(mean)
        return vector
