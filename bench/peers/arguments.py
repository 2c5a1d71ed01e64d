"""The flags that every peer written in Python is started with (`systems.py` sets them)."""

from __future__ import annotations

import argparse
from pathlib import Path


def parse(*more_ports: str) -> argparse.Namespace:
    """The flags of this process; `more_ports` names those of ports beside `--port`."""
    parser = argparse.ArgumentParser()
    for port in ("--port", *more_ports):
        parser.add_argument(port, type=int, required=True)
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--wait-ms", type=float, required=True)
    return parser.parse_args()
