"""Tools of the system: installed with apt where they are missing, and asked for by name elsewhere."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from places import SetupError, say

#: Command that must exist, and the Debian package that brings it.
_BUILD_TOOLS = {
    "cc": "build-essential",
    "c++": "build-essential",
    "make": "make",
    "pkg-config": "pkg-config",
    # These and libclang build llama.cpp, inside the crate `llama-cpp-sys-2`.
    "cmake": "cmake",
    "ninja": "ninja-build",
    "ccache": "ccache",
}
#: Debian package of a library without a command, and what is there, below `/`, where it is installed with its headers.
_BUILD_LIBRARIES = {
    "libclang-dev": tuple(
        f"{folder}/{name}"
        for folder in ("usr/lib/llvm-*/lib", "usr/lib/*-linux-gnu", "usr/lib", "usr/lib64", "usr/local/lib")
        for name in ("libclang.so", "libclang-[0-9]*.so")
    )
}
#: The end-to-end tests' JavaScript.
_NODE = {"node": "nodejs", "npm": "npm"}
#: Version of the test runner to build where there is none.
_NEXTEST_VERSION = "0.9.143"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def ensure_build_tools() -> None:
    """Compilers, what drives them, and the libraries that builds load."""
    # Who sets LIBCLANG_PATH, as the crate that loads libclang reads it, has one in a place of their own.
    libraries = {} if os.environ.get("LIBCLANG_PATH") else _BUILD_LIBRARIES
    if missing := missing_commands(_BUILD_TOOLS) | missing_libraries(libraries):
        apt_install(sorted(missing))


def ensure_node_tools() -> None:
    """Node.js and its package installer."""
    if missing := missing_commands(_NODE):
        apt_install(sorted(missing))


def missing_commands(table: dict[str, str]) -> set[str]:
    """The packages of commands that are not there."""
    return {package for command, package in table.items() if shutil.which(command) is None}


def missing_libraries(table: dict[str, tuple[str, ...]], root: Path = Path("/")) -> set[str]:
    """The packages of libraries that are not there."""
    return {package for package, patterns in table.items() if not any(any(root.glob(each)) for each in patterns)}


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
