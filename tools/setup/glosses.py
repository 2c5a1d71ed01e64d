"""A larger table of short English texts for the benchmarks: the glosses of WordNet's synonym sets."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from places import CACHE, SetupError, replace_text, say
from system import update_apt_lists

_PACKAGE = "wordnet-base"
_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_INSTALLED = Path("/usr/share/wordnet")
#: WordNet 3.0 has 117,659 synonym sets.
_ENOUGH = 100_000


def ensure_glosses() -> None:
    """Writes `data/wordnet-glosses.txt`, one text a line, in the order of WordNet's own files."""
    target = CACHE / "data" / "wordnet-glosses.txt"
    if target.is_file():
        return
    with tempfile.TemporaryDirectory(prefix="halny-setup-") as folder:
        source = _INSTALLED if (_INSTALLED / _FILES[0]).is_file() else _unpacked(Path(folder))
        try:
            lines = [line for name in _FILES for line in (source / name).read_text(encoding="utf-8").splitlines()]
        except OSError as error:
            raise SetupError(f"the package {_PACKAGE} holds other files than expected: {error}") from error
    texts = glosses(lines)
    if len(texts) < _ENOUGH:
        raise SetupError(f"the package {_PACKAGE} holds {len(texts)} glosses, {_ENOUGH} and more were expected")
    replace_text(target, "".join(f"{text}\n" for text in texts))
    say(f"{len(texts)} texts in {target.name}")


def glosses(lines: Iterable[str]) -> list[str]:
    """What stands behind the bar of every line; the licence before them, set in by two spaces, has none."""
    found = []
    for line in lines:
        _, bar, gloss = line.partition(" | ")
        if bar and gloss.strip() and not line.startswith("  "):
            found.append(gloss.strip())
    return found


def _unpacked(folder: Path) -> Path:
    """The package's files, fetched by apt, which checks them, and not installed."""
    say(f"fetching {_PACKAGE}")
    # apt would fetch as a user of its own, which may not write here.
    fetch = ("apt-get", "download", "--quiet", "--quiet", "--option", "APT::Sandbox::User=root", _PACKAGE)
    if not _said_well(folder, *fetch):
        update_apt_lists()
        if not _said_well(folder, *fetch):
            raise SetupError(f"apt-get could not fetch {_PACKAGE}; install it, or run without the large table")
    for package in folder.glob("*.deb"):
        if not _said_well(folder, "dpkg-deb", "--extract", str(package), str(folder)):
            raise SetupError(f"{package.name} could not be unpacked")
    return folder / _INSTALLED.relative_to("/")


def _said_well(folder: Path, *command: str) -> bool:
    try:
        return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False
