"""How near a graph's answers are to those of its fp32 form, and how fast it gives them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Encoding

from halny_graphs.texts import batches


@dataclass(frozen=True)
class Agreement:
    """Cosine similarity of two graphs' outputs, over texts."""

    texts: int
    mean: float
    p1: float
    worst: float

    def __str__(self) -> str:
        return f"texts={self.texts} cosine_mean={self.mean:.6f} cosine_p1={self.p1:.6f} cosine_min={self.worst:.6f}"


def open_graph(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU with `threads` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_graph(
    session: onnxruntime.InferenceSession, encodings: list[Encoding], batch: int
) -> tuple[npt.NDArray[np.float32], float]:
    """The first output for each text, in order, and the seconds spent inside the session."""
    names = {value.name for value in session.get_inputs()}
    rows: list[Any] = [None] * len(encodings)
    seconds = 0.0
    for indices, feed in batches(encodings, batch, names):
        start = time.perf_counter()
        (output, *_) = session.run(None, feed)
        seconds += time.perf_counter() - start
        for index, row in zip(indices, output):
            rows[index] = row
    return np.stack(rows), seconds


def agreement(reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32]) -> Agreement:
    """Cosine similarity row by row."""
    dots = (reference * candidate).sum(axis=1)
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(candidate, axis=1)
    cosine = dots / np.maximum(norms, 1e-12)
    return Agreement(len(cosine), float(cosine.mean()), float(np.percentile(cosine, 1)), float(cosine.min()))
