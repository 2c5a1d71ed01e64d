"""The ONNX Runtime library that Halny loads, taken out of its Python package."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import digests
from environment import ensure_group
from places import CACHE, VENV, SetupError, say

VERSION = "1.32.0"
_SHA256 = {
    "x86_64": "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
    "aarch64": "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a",
}


def ensure_runtime() -> None:
    """Puts `libonnxruntime.so` into the cache, under its version."""
    machine = platform.machine()
    if machine not in _SHA256:
        raise SetupError(f"no ONNX Runtime is recorded for {machine}; these are: {', '.join(sorted(_SHA256))}")
    folder = CACHE / "onnxruntime" / VERSION
    library = folder / f"libonnxruntime.so.{VERSION}"
    link = folder / "libonnxruntime.so"
    if not digests.is_valid(library, _SHA256[machine]):
        ensure_group("graphs")
        say(f"taking ONNX Runtime {VERSION} from its package")
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{library.name}.part"
        shutil.copyfile(_packaged(library.name), part)
        part.replace(library)
        digests.check(library, _SHA256[machine])
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(library.name)


def _packaged(name: str) -> Path:
    found = sorted(VENV.glob(f"lib/python3*/site-packages/onnxruntime/capi/{name}"))
    if not found:
        raise SetupError(f"the onnxruntime package holds no {name}")
    return found[0]
