"""Where `make` keeps models, texts and programs."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = Path(os.environ.get("HALNY_CACHE") or Path.home() / ".cache" / "halny").expanduser().absolute()
