"""Texts to vectors with ONNX Runtime and nothing else: what the bare loop and the Python peers have in common.

All of them open the same graph with the same options here, so that what differs between their
figures is what the server around it does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

Vectors = npt.NDArray[np.float32]

#: The longest text, as `sentence_bert_config.json` of all-MiniLM-L6-v2 has it.
MAX_TOKENS = 256


class OnnxEmbedder:
    """A session and a tokenizer."""

    def __init__(self, graph: Path, tokenizer: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A thread that spins while it waits for work spends processor time and gains none where all cores are busy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, not padded."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def run(self, rows: Sequence[list[int]]) -> Vectors:
        """Vectors `[rows, dimensions]` of one batch, padded to its longest row."""
        shape = (len(rows), max(len(row) for row in rows))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        feed = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros(shape, np.int64)
        (vectors, *_) = self._session.run(None, feed)
        return np.asarray(vectors, np.float32)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of one batch of texts, in their order."""
        return self.run(self.tokenise(texts))


def limit_threads(threads: int) -> None:
    """Gives the tokenizer's own pool `threads` threads; to be called before its first use in a process."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
