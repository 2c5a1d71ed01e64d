"""How the processes of `vectors.py` are talked to: one JSON object a line in, one out."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def answer(commands: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Obeys until the input ends. An error is an answer too."""
    # What libraries print must not look like an answer.
    output, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told = commands[asked.pop("do")](**asked)
        except Exception as error:
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"}
        output.write(json.dumps(told) + "\n")
        output.flush()


def read_rows(path: str, dimensions: int) -> Vectors:
    """Rows of 32-bit numbers, one after the other."""
    return np.fromfile(path, np.float32).reshape(-1, dimensions)


def rss_bytes() -> int:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
