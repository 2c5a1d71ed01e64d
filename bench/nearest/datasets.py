"""Real vectors: texts embedded once with all-MiniLM-L6-v2, kept in the cache, and split into rows and queries."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nearest.progress import say

Vectors = npt.NDArray[np.float32]
DIMENSIONS = 384
QUERIES = 1_000
_SEED = 17
_BATCH = 64
_SAY_EVERY_S = 10.0


@dataclass(frozen=True)
class Dataset:
    """A table of vectors of length 1, and others of the same kind that are asked for."""

    name: str
    #: `[rows, DIMENSIONS]`.
    table: Vectors
    #: `[queries, DIMENSIONS]`.
    queries: Vectors
    #: The same as files of 32-bit numbers, for other processes.
    table_path: Path
    queries_path: Path

    @property
    def f32_bytes(self) -> int:
        """Bytes of the rows themselves."""
        return self.table.nbytes


def load(name: str, texts: Path, model: Path, cache: Path, scratch: Path, limit: int | None, threads: int) -> Dataset:
    """The vectors of a file with one text a line, split into rows and queries; the first `limit` texts by chance."""
    vectors = _embedded(name, texts, model, cache, threads)
    chosen = np.random.default_rng(_SEED).permutation(len(vectors))[:limit]
    if len(chosen) < 2 * QUERIES:
        raise SystemExit(f"error: {texts} holds {len(vectors)} texts, at least {2 * QUERIES} are needed")
    # Rows stay in the order of their texts, as a user would load them.
    queries, table = vectors[chosen[:QUERIES]], vectors[np.sort(chosen[QUERIES:])]
    paths = [scratch / f"{name}-rows.f32", scratch / f"{name}-queries.f32"]
    for path, part in zip(paths, (table, queries)):
        part.tofile(path)
    return Dataset(name, table, queries, *paths)


def _embedded(name: str, texts: Path, model: Path, cache: Path, threads: int) -> Vectors:
    """From the cache, where the same graph has embedded the same texts before."""
    graph, tokenizer = model / "model.fp32.onnx", model / "tokenizer.json"
    made_of = hashlib.sha256(f"{_BATCH}".encode())
    for source in (texts, graph, tokenizer):
        with source.open("rb") as file:
            made_of.update(hashlib.file_digest(file, "sha256").digest())
    path = cache / "data" / f"vectors-{name}-{made_of.hexdigest()[:16]}.f32"
    if not path.is_file():
        lines = [line.strip() for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        vectors = _embed(name, lines, graph, tokenizer, threads)
        part = path.with_name(f"{path.name}.part")
        vectors.tofile(part)
        part.replace(path)
    return np.fromfile(path, np.float32).reshape(-1, DIMENSIONS)


def _embed(name: str, texts: list[str], graph: Path, tokenizer: Path, threads: int) -> Vectors:
    # Only a run without kept vectors needs ONNX Runtime.
    from onnx_embedder import OnnxEmbedder, limit_threads

    limit_threads(threads)
    embedder = OnnxEmbedder(graph, tokenizer, threads)
    # Each text once: equal texts get equal vectors, to the last bit, whichever batch they would have been in.
    distinct, places = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    tokens = embedder.tokenise(list(distinct))
    order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
    vectors = np.zeros((len(tokens), DIMENSIONS), np.float32)
    say(f"{name}: embedding {len(tokens):,} texts, once")
    began_s = said_s = time.monotonic()
    total = sum(len(row) for row in tokens)
    done = 0
    for begin in range(0, len(order), _BATCH):
        batch = order[begin : begin + _BATCH]
        vectors[batch] = embedder.run([tokens[place] for place in batch])
        done += sum(len(tokens[place]) for place in batch)
        now_s = time.monotonic()
        if now_s - said_s > _SAY_EVERY_S:
            said_s = now_s
            say(f"{name}: {done / total:.0%} embedded, {(now_s - began_s) * (total - done) / done:.0f} s left")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[places]
