"""Models that come in several packages: joined in order, checked as a whole, fetched no wider than needed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import digests
import models
import pytest
from places import CACHE, SetupError

_TABLE: dict[str, models.Model] = {
    "long": {
        "source": {"package": "long", "prefix": "long/data/", "model.bin": "weights.bin"},
        "files": {"model.bin": "", "TERMS.html": ""},
        "pieces": {"model.bin": {"long-part1": "long_part1/bin.00", "long-part2": "long_part2/bin.01"}},
    }
}


@pytest.fixture
def table() -> dict[str, models.Model]:
    """A model whose weights come in two packages, with the digests of what `_packages` writes."""
    folder = CACHE / "expected"
    folder.mkdir(exist_ok=True)
    for name, content in (("model.bin", b"firstsecond"), ("TERMS.html", b"terms")):
        (folder / name).write_bytes(content)
        _TABLE["long"]["files"][name] = digests.file_digest(folder / name)
        (CACHE / "models" / "long" / name).unlink(missing_ok=True)
    return _TABLE


def _packages(monkeypatch: pytest.MonkeyPatch, second: bytes = b"second") -> list[set[str]]:
    """Stands in for pip; gives what was asked for."""
    inside = {
        "long": {"long/data/TERMS.html": b"terms"},
        "long-part1": {"long_part1/bin.00": b"first"},
        "long-part2": {"long_part2/bin.01": second},
    }
    asked: list[set[str]] = []

    def download(_group: str, packages: set[str], folder: Path) -> dict[str, Path]:
        asked.append(packages)
        for package in packages:
            with zipfile.ZipFile(folder / f"{package}.whl", "w") as archive:
                for name, content in inside[package].items():
                    archive.writestr(name, content)
        return {package: folder / f"{package}.whl" for package in packages}

    monkeypatch.setattr(models, "download_wheels", download)
    return asked


def test_pieces_are_joined_in_order_and_checked_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, models.Model]
) -> None:
    asked = _packages(monkeypatch)
    models._fetch(table)
    assert (CACHE / "models" / "long" / "model.bin").read_bytes() == b"firstsecond"
    assert (CACHE / "models" / "long" / "TERMS.html").read_bytes() == b"terms"
    assert asked == [{"long", "long-part1", "long-part2"}]


def test_a_wrong_piece_is_refused_and_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, models.Model]
) -> None:
    _packages(monkeypatch, second=b"another")
    with pytest.raises(SetupError, match=r"model\.bin"):
        models._fetch(table)
    assert not (CACHE / "models" / "long" / "model.bin").exists()


def test_only_the_packages_of_missing_files_are_downloaded(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, models.Model]
) -> None:
    asked = _packages(monkeypatch)
    models._fetch(table)
    models._fetch(table)
    (CACHE / "models" / "long" / "TERMS.html").unlink()
    models._fetch(table)
    assert asked == [{"long", "long-part1", "long-part2"}, {"long"}]
