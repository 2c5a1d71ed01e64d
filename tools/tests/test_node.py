"""The step that installs the JavaScript clients: pinned, once, outside the checkout, and only where they work."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import node
import pytest
from places import CACHE, ROOT, SetupError


def test_every_javascript_package_has_one_version_and_a_hash() -> None:
    lock = json.loads((ROOT / "tests" / "node" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for name, package in packages.items():
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/=]{88}", package["integrity"]), name
        assert "resolved" not in package, name
    for version in lock["packages"][""]["dependencies"].values():
        assert re.fullmatch(r"[0-9.]+", version)


def test_javascript_packages_are_installed_once_outside_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted((ROOT / "tests" / "node").iterdir())
    ran: list[tuple[str, Path]] = []

    def run(command: list[str], *, cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        ran.append((command[0], cwd))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(node, "ensure_node_tools", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    node.ensure_node()
    node.ensure_node()
    digest = hashlib.sha256((ROOT / "tests" / "node" / "package-lock.json").read_bytes()).hexdigest()
    folder = CACHE / "node" / digest
    assert ran == [("npm", CACHE / "node" / f"{digest}.part"), ("node", CACHE / "node" / f"{digest}.part")]
    assert sorted(path.name for path in folder.iterdir()) == ["package-lock.json", "package.json"]
    assert sorted((ROOT / "tests" / "node").iterdir()) == before


def test_packages_that_cannot_be_imported_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, int(command[0] == "node"), "", "SyntaxError: too old")

    monkeypatch.setattr(node, "_LOCK", ROOT / "tests" / "node" / "package.json")
    monkeypatch.setattr(node, "ensure_node_tools", lambda: None)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SetupError, match="too old"):
        node.ensure_node()
    digest = hashlib.sha256((ROOT / "tests" / "node" / "package.json").read_bytes()).hexdigest()
    assert not (CACHE / "node" / digest).exists()
