"""The tables of flights and weather: out of the package's folder, and only as they were recorded."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import flights
import pytest
from places import SetupError


def _package(folder: Path, tables: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as packed:
        packed.writestr("flights.csv", tables["flights.csv"])
    (folder / "weather.csv").write_bytes(tables["weather.csv"])


def test_both_tables_are_written_and_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tables = {"flights.csv": b"year\n2013\n", "weather.csv": b"origin\nEWR\n"}
    digests = {name: hashlib.sha256(text).hexdigest() for name, text in tables.items()}
    monkeypatch.setattr(flights, "FILES", digests)
    _package(tmp_path, tables)
    flights.write_tables(tmp_path)
    assert {name: (flights.FOLDER / name).read_bytes() for name in tables} == tables
    assert sorted(path.name for path in flights.FOLDER.iterdir()) == sorted(tables)
    monkeypatch.setattr(flights, "ensure_archive", lambda *_: pytest.fail("it was fetched again"))
    flights.ensure_flights()


def test_other_tables_than_those_recorded_are_refused(tmp_path: Path) -> None:
    _package(tmp_path, {"flights.csv": b"year\n2014\n", "weather.csv": b""})
    with pytest.raises(SetupError, match=r"flights\.csv"):
        flights.write_tables(tmp_path)
    assert not (flights.FOLDER / "flights.csv").exists()


def test_a_package_without_the_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="other files than expected"):
        flights.write_tables(tmp_path)
