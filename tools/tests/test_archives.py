"""Source archives: found on the index page, unpacked into their folder alone, refused otherwise."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import archives
import pytest
from places import CACHE, SetupError


def _tar(*members: tarfile.TarInfo) -> Path:
    path = CACHE / "source.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            member.size = 4 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"text"))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_an_archive_is_unpacked_into_a_folder_made_anew() -> None:
    folder = CACHE / "source"
    folder.mkdir(exist_ok=True)
    (folder / "old").touch()
    archives.unpack(_tar(_member("source/a.txt")), folder)
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*")] == ["source", "source/a.txt"]


@pytest.mark.parametrize(
    "member",
    [
        _member("../outside.txt"),
        _member("source/../../outside.txt"),
        _member("source/link", tarfile.SYMTYPE, "/etc/passwd"),
        _member("source/link", tarfile.SYMTYPE, "../../outside"),
        _member("source/link", tarfile.LNKTYPE, "../outside"),
        _member("source/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}->{member.linkname}",
)
def test_an_archive_that_reaches_outside_is_refused_and_leaves_nothing(member: tarfile.TarInfo) -> None:
    folder = CACHE / "unsafe"
    with pytest.raises(SetupError, match="could not be unpacked"):
        archives.unpack(_tar(_member("source/a.txt"), member), folder)
    assert not folder.exists()
    assert not (CACHE / "outside.txt").exists()


def test_a_cut_archive_is_refused() -> None:
    archive = _tar(_member("source/a.txt"))
    archive.write_bytes(archive.read_bytes()[:40])
    with pytest.raises(SetupError, match="could not be unpacked"):
        archives.unpack(archive, CACHE / "cut")


def test_a_file_is_found_on_an_index_page_by_its_whole_name() -> None:
    page = """<a href="../../files/x-1.0.tar.gz.metadata">x-1.0.tar.gz</a>
    <a>nothing</a><a href="ftp://index.test/x-1.0.tar.gz">another way</a>
    <a href="../../files/x-1.0.tar.gz#sha256=00" data-requires-python="&gt;=3.9">x</a>"""
    found = archives.address_of("x-1.0.tar.gz", page, "https://index.test/simple/x/")
    assert found == "https://index.test/files/x-1.0.tar.gz#sha256=00"
    with pytest.raises(SetupError, match=r"offers no x-2\.0\.tar\.gz"):
        archives.address_of("x-2.0.tar.gz", page, "https://index.test/simple/x/")
