"""NVIDIA's CUDA compiler and libraries, out of their Python packages: no installer, no root, no driver.

What is compiled with them needs the driver where it runs, and these libraries; it remembers this folder.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from environment import install_into
from places import CACHE, REQUIREMENTS, SetupError, replace_text, say

#: Of the toolkit; the Makefile names the same folder.
VERSION = "13.0"
_FOLDER = CACHE / "cuda" / VERSION
_LOCK = REQUIREMENTS / "cuda.txt"


def ensure_cuda() -> None:
    """Puts the toolkit into the cache, as CMake expects one: `bin/nvcc`, `include`, `lib64`."""
    stamp, wanted = _FOLDER / ".halny-lock", hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if sys.platform != "linux":
        raise SetupError("CUDA is built on Linux only")
    say(f"installing CUDA {VERSION}, about 1 GB")
    shutil.rmtree(_FOLDER, ignore_errors=True)
    packages = _FOLDER.with_name(f"{VERSION}.part")
    shutil.rmtree(packages, ignore_errors=True)
    install_into(packages, _LOCK)
    toolkit = packages / "nvidia" / "cu13"
    arrange(toolkit)
    toolkit.rename(_FOLDER)
    shutil.rmtree(packages)
    # Last, so that a run that was cut off does its work again.
    replace_text(stamp, wanted)


def arrange(toolkit: Path) -> None:
    """Gives the libraries the names that linkers look for, in the folder that compilers look in."""
    libraries = toolkit / "lib"
    for library in sorted(libraries.glob("lib*.so.*")):
        plain = library.with_name(f"{library.name.partition('.so.')[0]}.so")
        if not plain.exists():
            plain.symlink_to(library.name)
    if not (toolkit / "bin" / "nvcc").is_file() or not list(libraries.glob("libcudart.so")):
        raise SetupError(f"the packages of {_LOCK.name} hold no CUDA toolkit")
    (toolkit / "lib64").symlink_to("lib")
