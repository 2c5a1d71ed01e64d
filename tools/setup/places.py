"""Where things go: the repository, the cache folder, and the lock that keeps two runs apart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
REQUIREMENTS = TOOLS / "requirements"
CACHE = Path(os.environ.get("HALNY_CACHE") or Path.home() / ".cache" / "halny").expanduser().absolute()
VENV = CACHE / "venv"
VENV_PYTHON = VENV / "bin" / "python"


class SetupError(Exception):
    """Something is missing and cannot be installed here; the text says what to do."""


def say(line: str) -> None:
    """One line of progress."""
    print(f"[setup] {line}", flush=True)


@contextlib.contextmanager
def cache_lock(name: str = "setup") -> Iterator[None]:
    """Holds the cache folder, or a named part of it, alone: two runs at once do the work once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is at work in the same cache folder, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def fail(error: SetupError) -> int:
    """Prints the error, gives the exit code."""
    print(f"[setup] error: {error}", file=sys.stderr)
    return 1
