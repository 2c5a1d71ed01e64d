"""Tools of the system: what is looked for, what is installed, and what is said where nothing can be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import system
from places import SetupError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for apt: what it was asked to install."""
    asked: list[str] = []
    monkeypatch.setattr(system, "apt_install", asked.extend)
    return asked


def test_missing_build_tools_and_libraries_are_installed_by_package(
    monkeypatch: pytest.MonkeyPatch, installed: list[str]
) -> None:
    monkeypatch.delenv("LIBCLANG_PATH", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("ninja", "cc", "c++") else name)
    monkeypatch.setattr(system, "missing_libraries", set)  # of the table's keys: all are missing
    system.ensure_build_tools()
    assert installed == ["build-essential", "libclang-dev", "ninja-build"]


def test_libclang_is_not_looked_for_where_its_place_is_told(
    monkeypatch: pytest.MonkeyPatch, installed: list[str]
) -> None:
    monkeypatch.setenv("LIBCLANG_PATH", "/elsewhere")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(system, "missing_libraries", set)
    system.ensure_build_tools()
    assert installed == []


def test_a_libclang_without_headers_or_of_another_library_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "lib" / "x86_64-linux-gnu"
    folder.mkdir(parents=True)
    for name in ("libclang-14.so.14.0.6", "libclang.so.1", "libclang-cpp.so", "libclangBasic.a"):
        (folder / name).touch()
    assert system.missing_libraries(system._BUILD_LIBRARIES, tmp_path) == {"libclang-dev"}
    (folder / "libclang-14.so").touch()
    assert system.missing_libraries(system._BUILD_LIBRARIES, tmp_path) == set()


def test_where_nothing_can_be_installed_the_error_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("cmake", "apt-get") else name)
    monkeypatch.setattr(system, "missing_libraries", lambda _: set())
    with pytest.raises(SetupError, match=r"these are missing.*: cmake;"):
        system.ensure_build_tools()
