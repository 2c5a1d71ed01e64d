"""Tools of the system: installed with apt where they are missing, and asked for by name elsewhere."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from places import SetupError, say

#: Command that must exist, and the Debian package that brings it.
_BUILD_TOOLS = {"cc": "build-essential", "c++": "build-essential", "make": "make", "pkg-config": "pkg-config"}
#: Version of the test runner to build where there is none.
_NEXTEST_VERSION = "0.9.143"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def ensure_build_tools() -> None:
    """A C and C++ compiler, make and pkg-config."""
    missing = {package for command, package in _BUILD_TOOLS.items() if shutil.which(command) is None}
    if missing:
        apt_install(sorted(missing))


def ensure_chromium() -> None:
    """A Chromium that can run without a display, for the test of the demo page."""
    if not any(shutil.which(name) for name in _BROWSERS):
        apt_install(["chromium"])


def ensure_nextest() -> None:
    """The Rust test runner, built from its locked source where it is missing."""
    if shutil.which("cargo-nextest"):
        return
    if shutil.which("cargo") is None:
        raise SetupError("Rust is missing: install it with rustup, then run this again")
    # cargo looks into its own bin folder too, which need not be in PATH.
    if subprocess.run(["cargo", "nextest", "--version"], capture_output=True).returncode == 0:
        return
    say(f"building cargo-nextest {_NEXTEST_VERSION}, some minutes, once")
    command = ["cargo", "install", "--locked", "cargo-nextest", "--version", _NEXTEST_VERSION]
    if subprocess.run(command).returncode != 0:
        raise SetupError(f"cargo-nextest could not be built; try it by hand: {' '.join(command)}")


def apt_install(packages: list[str]) -> None:
    """Installs Debian packages, as root or through a sudo that asks nothing."""
    prefix = _root_prefix()
    if shutil.which("apt-get") is None or prefix is None:
        raise SetupError(f"these are missing and cannot be installed from here: {', '.join(packages)}; install them")
    say(f"installing {', '.join(packages)}")
    update_apt_lists()
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    command = [*prefix, "apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *packages]
    if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
        raise SetupError(f"apt-get could not install {', '.join(packages)}")


@functools.cache
def update_apt_lists() -> bool:
    """Fetches apt's package lists, once a run; whether they could be fetched."""
    prefix = _root_prefix()
    if prefix is None or shutil.which("apt-get") is None:
        return False
    say("fetching package lists")
    command = [*prefix, "apt-get", "update", "--quiet", "--quiet"]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0


def _root_prefix() -> list[str] | None:
    """What to put before a command to run it as root; None where that is not possible."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None
