"""Gets tools, libraries, models and texts onto this machine: `python3 tools/setup STEP...`.

Standard library only: it runs before anything is installed. Every step first looks whether its
work is done, so calling it again costs milliseconds. Not a container image, because the same steps
have to serve a developer's machine, and not shell, because hashes, locks and errors read better here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from corpus import ensure_corpus
from cuda import ensure_cuda
from environment import ensure_group
from flights import ensure_flights
from glosses import ensure_glosses
from llama_server import ensure_llama_server
from models import ensure_models
from node import ensure_node
from places import SetupError, cache_lock, fail
from postgres import ensure_postgres
from runtime import ensure_runtime
from s3 import ensure_s3
from system import ensure_build_tools, ensure_chromium, ensure_nextest
from valkey import ensure_valkey
from vector_peers import ensure_vector_peers


def _group(name: str) -> Callable[[], None]:
    return lambda: ensure_group(name)


STEPS: dict[str, Callable[[], None]] = {
    "system": ensure_build_tools,
    "graphs": _group("graphs"),
    "tests": _group("tests"),
    "bench": _group("bench"),
    "runtime": ensure_runtime,
    "models": ensure_models,
    "corpus": ensure_corpus,
    "glosses": ensure_glosses,
    "flights": ensure_flights,
    "vector-peers": ensure_vector_peers,
    "jobs-peers": _group("jobs"),
    "features-peers": _group("features"),
    "nextest": ensure_nextest,
    "chromium": ensure_chromium,
    "node": ensure_node,
    "llama-server": ensure_llama_server,
    "cuda": ensure_cuda,
    "postgres": ensure_postgres,
    "valkey": ensure_valkey,
    "s3": ensure_s3,
}
#: Takes so long that other runs shall not wait for it; it holds a lock of its own.
_LONG = ("llama-server",)


def main(names: list[str]) -> int:
    """Runs the named steps in order."""
    unknown = [name for name in names if name not in STEPS]
    if unknown or not names:
        print(f"usage: python3 tools/setup STEP...; steps: {', '.join(STEPS)}", file=sys.stderr)
        return 2
    try:
        for name in names:
            with cache_lock(name if name in _LONG else "setup"):
                STEPS[name]()
    except SetupError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
