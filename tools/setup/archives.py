"""Source archives of the Python package index, which pip alone cannot fetch.

`pip download` of a source archive runs the package's own build to learn its metadata. Here the file
alone is wanted: its address is read from the index page, the file is checked against its SHA-256, and
it is unpacked so that nothing leaves the target folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import urllib.request
import zlib
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import digests
from environment import ensure_venv
from places import VENV_PYTHON, SetupError, say

_DEFAULT_INDEX = "https://pypi.org/simple"
_TIMEOUT_S = 60


def ensure_archive(project: str, target: Path, digest: str) -> None:
    """Puts the project's file of the target's name there, from the index that pip is set to use."""
    if digests.is_valid(target, digest):
        return
    say(f"fetching {target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    page = f"{_index().rstrip('/')}/{project}/"
    part = target.with_name(f"{target.name}.part")
    try:
        with urllib.request.urlopen(page, timeout=_TIMEOUT_S) as answer:
            address = address_of(target.name, answer.read().decode("utf-8", "replace"), answer.url)
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
    except (OSError, ValueError, HTTPException) as error:
        raise SetupError(f"{target.name} could not be fetched ({error}); put it into {target.parent}") from error
    part.replace(target)
    digests.check(target, digest)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive into a folder, made anew; one that reaches outside it is refused and leaves nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise SetupError(f"{archive.name} could not be unpacked: {error}") from error


def address_of(name: str, page: str, base: str) -> str:
    """The address of a file on an index page, which itself was found at `base`."""
    links = _Links()
    links.feed(page)
    for link in links.found:
        address = urljoin(base, link)
        if unquote(urlsplit(address).path.rpartition("/")[2]) == name and urlsplit(address).scheme in ("https", "http"):
            return address
    raise SetupError(f"the package index offers no {name}")


class _Links(HTMLParser):
    """Collects the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _index() -> str:
    """The index that pip uses: from its environment variable, its configuration, or its default."""
    if address := os.environ.get("PIP_INDEX_URL"):
        return address
    ensure_venv()
    command = [str(VENV_PYTHON), "-m", "pip", "config", "get", "global.index-url"]
    asked = subprocess.run(command, capture_output=True, text=True)
    return asked.stdout.strip() if asked.returncode == 0 else _DEFAULT_INDEX
