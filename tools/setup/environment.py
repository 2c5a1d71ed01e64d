"""The Python virtual environment in the cache folder, filled from lock files with hashes.

Each group is one lock file. What was installed is remembered by the lock file's digest, so that a
second call reads a few bytes and starts nothing.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

from places import REQUIREMENTS, VENV, VENV_PYTHON, SetupError, replace_text, say
from system import apt_install

_OLDEST = (3, 11)
#: How pip installs: what the lock file names and nothing else, and without running what it brings.
LOCKED = ["--require-hashes", "--only-binary", ":all:"]


def ensure_group(group: str) -> None:
    """Installs the packages of `requirements/<group>.txt` into the environment."""
    ensure_venv()
    lock = REQUIREMENTS / f"{group}.txt"
    stamp, digest = VENV / f".halny-{group}", hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return
    say(f"installing Python packages: {group}")
    pip(VENV_PYTHON, "install", *LOCKED, "--requirement", str(lock))
    replace_text(stamp, digest)


def install_into(folder: Path, lock: Path) -> None:
    """Installs the packages of a lock file into a folder apart from the environment."""
    ensure_venv()
    pip(VENV_PYTHON, "install", *LOCKED, "--no-deps", "--target", str(folder), "--requirement", str(lock))


def download_wheels(group: str, packages: set[str], folder: Path) -> dict[str, Path]:
    """Downloads some wheels of a lock file, hashes checked, and what they depend on left out; gives them by package."""
    ensure_venv()
    chosen = folder / f"{group}.txt"
    chosen.write_text(locked(REQUIREMENTS / f"{group}.txt", packages), encoding="utf-8")
    pip(VENV_PYTHON, "download", *LOCKED, "--no-deps", "--requirement", str(chosen), "--dest", str(folder))
    wheels = {path.name.partition("-")[0].lower(): path for path in folder.glob("*.whl")}
    return {package: wheels[package.replace("-", "_")] for package in packages}


def locked(lock: Path, packages: set[str]) -> str:
    """The entries of a lock file for these packages; all of them must be there."""
    entries = re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8").strip())
    by_package = {entry.partition("==")[0]: entry for entry in entries}
    if unknown := packages - by_package.keys():
        raise SetupError(f"{lock.name} does not name {', '.join(sorted(unknown))}")
    return "".join(f"{by_package[package]}\n" for package in sorted(packages))


def ensure_venv() -> None:
    """Makes the environment, anew where the Python that it was made with has changed."""
    stamp, wanted = VENV / ".halny-python", f"{sys.version} {sys.base_prefix}"
    if stamp.is_file() and stamp.read_text() == wanted and VENV_PYTHON.exists():
        return
    if sys.version_info < _OLDEST:
        raise SetupError(f"Python {sys.version.split()[0]} is too old, {_OLDEST[0]}.{_OLDEST[1]} or later is needed")
    say(f"making a Python environment in {VENV}")
    for attempt in (_with_own_pip, _with_pip_from_outside, _with_debian_package):
        shutil.rmtree(VENV, ignore_errors=True)
        if attempt():
            replace_text(stamp, wanted)
            return
    raise SetupError("no Python environment could be made; install python3-venv and python3-pip")


def _with_own_pip() -> bool:
    return _quiet(sys.executable, "-m", "venv", str(VENV)) and _quiet(str(VENV_PYTHON), "-m", "pip", "--version")


def _with_pip_from_outside() -> bool:
    """Debian without python3-venv has no bundled pip, but the pip of the system can fill another Python."""
    if not _quiet(sys.executable, "-m", "venv", "--without-pip", str(VENV)):
        return False
    lock = str(REQUIREMENTS / "pip.txt")
    outside = [sys.executable, "-m", "pip", "--python", str(VENV_PYTHON)]
    return _quiet(*outside, "install", *LOCKED, "--requirement", lock)


def _with_debian_package() -> bool:
    apt_install(["python3-venv"])
    return _with_own_pip()


def pip(python: Path, *arguments: str) -> None:
    """Runs pip: with progress bars on a terminal, silent but for errors elsewhere."""
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *quiet, *arguments]
    if subprocess.run(command).returncode != 0:
        raise SetupError(f"pip {arguments[0]} failed; what it said stands above")


def _quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
