"""Index libraries in a process of their own: hnswlib, usearch and faiss, each by its batch interface in one thread.

`python vector_index.py hnswlib|usearch|faiss-hnsw|faiss-ivfpq`. A batch of all queries costs one call from
Python; what a call costs is then no part of what is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import lines
import numpy as np
import numpy.typing as npt
from lines import Vectors

Ids = npt.NDArray[np.int64]
_Json = dict[str, Any]


class Index(Protocol):
    """What every library is asked for."""

    def build(self, rows: Vectors, threads: int) -> None:
        """Indexes the rows under their numbers."""

    def set(self, params: _Json) -> None:
        """How thoroughly is searched from now on, in one thread."""

    def search(self, queries: Vectors, limit: int) -> Ids:
        """The ids of the nearest, `[queries, limit]`; negative where there are fewer."""

    def size_bytes(self) -> int:
        """What the index takes, the vectors in it included."""


class Hnswlib:
    """A graph over 32-bit numbers."""

    def __init__(self, m: int, ef_construct: int) -> None:
        self._m, self._ef_construct = m, ef_construct

    def build(self, rows: Vectors, threads: int) -> None:
        """As documented."""
        import hnswlib

        self._index = hnswlib.Index(space="ip", dim=rows.shape[1])
        self._index.init_index(max_elements=len(rows), M=self._m, ef_construction=self._ef_construct, random_seed=1)
        self._index.add_items(rows, np.arange(len(rows)), num_threads=threads)

    def set(self, params: _Json) -> None:
        """`ef`."""
        self._index.set_num_threads(1)
        self._index.set_ef(params["ef"])

    def search(self, queries: Vectors, limit: int) -> Ids:
        """All in one call."""
        ids, _ = self._index.knn_query(queries, k=limit, num_threads=1)
        return np.asarray(ids, np.int64)

    def size_bytes(self) -> int:
        """Of the file that it would write, which is what it has in memory."""
        return int(self._index.index_file_size())


class Usearch:
    """A graph over 32-bit numbers."""

    def __init__(self, m: int, ef_construct: int) -> None:
        self._m, self._ef_construct = m, ef_construct

    def build(self, rows: Vectors, threads: int) -> None:
        """As documented."""
        from usearch.index import Index as Graph

        self._index = Graph(
            ndim=rows.shape[1],
            metric="ip",
            dtype="f32",
            connectivity=self._m,
            expansion_add=self._ef_construct,
            enable_key_lookups=False,
        )
        self._index.add(np.arange(len(rows)), rows, threads=threads)

    def set(self, params: _Json) -> None:
        """`ef`."""
        self._index.expansion_search = params["ef"]

    def search(self, queries: Vectors, limit: int) -> Ids:
        """All in one call."""
        found = self._index.search(queries, limit, threads=1)
        ids = np.full((len(queries), limit), -1, np.int64)
        for row, count in enumerate(found.counts):
            ids[row, :count] = found.keys[row, :count]
        return ids

    def size_bytes(self) -> int:
        """As it counts itself."""
        return int(self._index.memory_usage)


class _Faiss:
    """What both indexes of faiss have in common."""

    _index: Any

    def search(self, queries: Vectors, limit: int) -> Ids:
        """All in one call."""
        _, ids = self._index.search(queries, limit)
        return np.asarray(ids, np.int64)


class FaissHnsw(_Faiss):
    """A graph over 32-bit numbers."""

    def __init__(self, m: int, ef_construct: int) -> None:
        self._m, self._ef_construct = m, ef_construct

    def build(self, rows: Vectors, threads: int) -> None:
        """As documented."""
        import faiss

        faiss.omp_set_num_threads(threads)
        self._index = faiss.IndexHNSWFlat(rows.shape[1], self._m, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = self._ef_construct
        self._index.add(rows)

    def set(self, params: _Json) -> None:
        """`ef`."""
        import faiss

        faiss.omp_set_num_threads(1)
        self._index.hnsw.efSearch = params["ef"]

    def size_bytes(self) -> int:
        """Of the file that it would write."""
        import faiss

        return int(faiss.serialize_index(self._index).nbytes)


class FaissIvfPq(_Faiss):
    """Lists of codes of 4 bits, scanned in registers; the best are compared again on the vectors themselves."""

    def __init__(self, lists: int, subspaces: int) -> None:
        self._lists, self._subspaces = lists, subspaces

    def build(self, rows: Vectors, threads: int) -> None:
        """As documented: trained on the rows themselves."""
        import faiss

        faiss.omp_set_num_threads(threads)
        coarse = faiss.IndexFlatIP(rows.shape[1])
        self._codes = faiss.IndexIVFPQFastScan(
            coarse, rows.shape[1], self._lists, self._subspaces, 4, faiss.METRIC_INNER_PRODUCT
        )
        # On vectors of length 1, lists are made by the angle.
        self._codes.cp.spherical = True
        self._index = faiss.IndexRefineFlat(self._codes)
        self._index.train(rows)
        self._index.add(rows)

    def set(self, params: _Json) -> None:
        """`nprobe`, `oversampling`."""
        import faiss

        faiss.omp_set_num_threads(1)
        self._codes.nprobe = min(params["nprobe"], self._lists)
        self._index.k_factor = params["oversampling"]

    def size_bytes(self) -> int:
        """Of the codes, their lists and ids: without the vectors, which stand beside it."""
        import faiss

        return int(faiss.serialize_index(self._codes).nbytes)


INDEXES: dict[str, Callable[..., Index]] = {
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "faiss-hnsw": FaissHnsw,
    "faiss-ivfpq": FaissIvfPq,
}


class Process:
    """The commands of one index."""

    def __init__(self, make: Callable[..., Index]) -> None:
        self._make = make

    def load(self, rows: str, dimensions: int, threads: int, options: _Json) -> _Json:
        """Builds the index."""
        self._dimensions = dimensions
        table = lines.read_rows(rows, dimensions)
        self._index = self._make(**options)
        before, began_s = lines.rss_bytes(), time.perf_counter()
        self._index.build(table, threads)
        built_s = time.perf_counter() - began_s
        return {
            "built_s": built_s,
            "resident_bytes": lines.rss_bytes() - before,
            "size_bytes": self._index.size_bytes(),
        }

    def search(self, queries: str, limit: int, params: _Json) -> _Json:
        """Asks every query once; with `one_by_one` each in a call of its own."""
        asked = lines.read_rows(queries, self._dimensions)
        one_by_one = params.pop("one_by_one", False)
        self._index.set(params)
        calls = np.split(asked, len(asked)) if one_by_one else [asked]
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        found = [self._index.search(call, limit) for call in calls]
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
        return {"took_s": took_s, "cpu_s": cpu_s, "ids": np.concatenate(found).tolist()}


if __name__ == "__main__":
    process = Process(INDEXES[sys.argv[1]])
    lines.answer({"load": process.load, "search": process.search})
