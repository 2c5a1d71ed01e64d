"""Texts to token batches, as a server would make them: truncated, sorted by length, padded right."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

Feed = dict[str, npt.NDArray[np.int64]]


def read_texts(path: Path, limit: int) -> list[str]:
    """The first `limit` lines that are not blank."""
    with path.open(encoding="utf-8") as lines:
        return list(islice((line.strip() for line in lines if line.strip()), limit))


def spread_texts(path: Path, limit: int) -> list[str]:
    """`limit` lines at even distances over the whole file, which may be sorted by something."""
    texts = read_texts(path, 10_000_000)
    step = max(1, len(texts) // limit)
    return texts[::step][:limit]


def load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer without its own padding, truncating at `max_tokens`."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def batches(encodings: list[Encoding], size: int, inputs: set[str]) -> Iterator[tuple[list[int], Feed]]:
    """Feeds of up to `size` rows, shortest first, with each row's index in `encodings`."""
    order = sorted(range(len(encodings)), key=lambda index: len(encodings[index].ids))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield rows, _feed([encodings[index] for index in rows], inputs)


def _feed(rows: list[Encoding], inputs: set[str]) -> Feed:
    width = max(len(row.ids) for row in rows)
    columns: dict[str, Any] = {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
    }
    padded = {name: np.zeros((len(rows), width), np.int64) for name in columns if name in inputs}
    for name, array in padded.items():
        for index, values in enumerate(columns[name]):
            array[index, : len(values)] = values
    return padded
