"""Makes `halny_graphs` and the modules of `setup` importable, and the cache folder a temporary one."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

_TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TOOLS), str(_TOOLS / "setup"), str(Path(__file__).parent)]
# The modules of `setup` read this when they are imported; no test may touch the real cache.
_CACHE = tempfile.TemporaryDirectory(prefix="halny-test-cache-")
os.environ["HALNY_CACHE"] = _CACHE.name
