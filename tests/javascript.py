"""Runs the scripts of `tests/node` with the JavaScript clients that `python3 tools/setup node` installs."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from server import CACHE, PATIENCE_S

FOLDER = Path(__file__).parent / "node"


def run(script: str, *arguments: str) -> str:
    """What a script prints; it gets the arguments in `process.argv` from 2 on, and must end with 0."""
    digest = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    modules = CACHE / "node" / digest
    assert modules.is_dir(), "the JavaScript clients are missing; `python3 tools/setup node` installs them"
    # A script from standard input finds its imports from the working directory, one in a file does not.
    with (FOLDER / script).open("rb") as code:
        ended = subprocess.run(
            ["node", "--input-type=module", "-", *arguments],
            cwd=modules,
            stdin=code,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
