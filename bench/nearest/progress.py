"""Progress of a run, a line at a time."""

from __future__ import annotations


def say(line: str) -> None:
    """One line of progress."""
    print(f"[bench] {line}", flush=True)
