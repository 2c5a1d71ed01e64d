"""The JavaScript clients of the end-to-end tests, installed from their lock file into the cache folder.

Scripts have to find them without a `node_modules` in the checkout. Node.js looks for a module's imports
in the folders above the file it really is, links followed, and ES modules ignore NODE_PATH. But a
script that comes through standard input is looked up from the working directory: so tests run
`node --input-type=module -` in the folder made here, and neither copy nor link anything.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from places import CACHE, ROOT, SetupError, say
from system import ensure_node_tools

_SOURCE = ROOT / "tests" / "node"
_LOCK = _SOURCE / "package-lock.json"
_FLAGS = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]


def ensure_node() -> None:
    """Installs what `tests/node/package-lock.json` names, under the lock file's digest."""
    folder = CACHE / "node" / hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if folder.is_dir() and shutil.which("node"):
        return
    ensure_node_tools()
    say("installing JavaScript packages")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in ("package.json", _LOCK.name):
        shutil.copyfile(_SOURCE / name, part / name)
    command = ["npm", "ci", *_FLAGS, "--loglevel=error"]
    if subprocess.run(command, cwd=part, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode != 0:
        raise SetupError("npm could not install the JavaScript packages; what it said stands above")
    _check(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _check(folder: Path) -> None:
    """Imports all of them once: an old Node.js fails here, with its own words, and not in a test."""
    with (_SOURCE / "imports.mjs").open("rb") as script:
        command = ["node", "--input-type=module", "-"]
        checked = subprocess.run(command, cwd=folder, stdin=script, capture_output=True, text=True)
    if checked.returncode != 0:
        raise SetupError(f"the JavaScript packages cannot be imported: {checked.stderr.strip()}")
