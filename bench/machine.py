"""The machine and the versions behind a result: figures without them are worth nothing to the next reader."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("onnxruntime", "tokenizers", "numpy", "litserve", "mosec")
#: What decides how fast matrices are multiplied.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "sve")


def describe(binary: Path, others: dict[str, str] | None = None) -> dict[str, Any]:
    """As JSON: processor, cores, memory, system, versions (of Python packages unless others are given), commit, date."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "instructions": _instructions(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{_system()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "versions": {"halny": _halny(binary), **(versions(_PACKAGES) if others is None else others)},
        "commit": _commit(),
    }


def _cpuinfo(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _processor() -> str:
    fields = ("cpu family", "model", "stepping")
    numbers = ", ".join(f"{field} {_cpuinfo(field)}" for field in fields if _cpuinfo(field))
    name = _cpuinfo("model name") or platform.machine()
    return f"{name} ({numbers})" if numbers else name


def _instructions() -> list[str]:
    present = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [flag for flag in _FLAGS if flag in present]


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _halny(binary: Path) -> str:
    return _said([str(binary), "--version"]).removeprefix("halny ") or "unknown"


def llama_cpp(server: Path) -> str:
    """The release that a `llama-server` was built from."""
    found = re.search(r"build (\d+)", _said([str(server), "--version"], from_errors=True))
    return f"b{found[1]}" if found else "unknown"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of Python packages, those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    commit = _said(["git", "-C", str(_ROOT), "rev-parse", "--short=12", "HEAD"])
    changed = _said(["git", "-C", str(_ROOT), "status", "--porcelain"])
    return f"{commit} with changes" if commit and changed else commit or "unknown"


def _said(command: list[str], from_errors: bool = False) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = ended.stderr if from_errors else ended.stdout
    return said.strip() if ended.returncode == 0 else ""
