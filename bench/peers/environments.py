"""Python environments of peers whose dependencies are too large, or too old, to sit beside the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: For several gigabytes over a slow line.
_INSTALL_TIMEOUT_S = 3600


class PeerUnavailable(Exception):
    """This peer cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Environment:
    """What is installed, and with which Pythons it works, the best first."""

    name: str
    packages: tuple[str, ...]
    pythons: tuple[str, ...]
    #: For whoever waits.
    size: str


#: `sentence-transformers` 3 is the last that this release of infinity takes; it needs `transformers` 4.
INFINITY = Environment(
    "infinity",
    ("infinity-emb[server,torch]==0.0.78", "sentence-transformers==3.4.1", "transformers==4.49.0", "numpy==1.26.4"),
    ("3.11", "3.12", "3.10"),
    "several gigabytes",
)
TRITON = Environment(
    "triton",
    ("nvidia-pytriton==0.7.0", "onnxruntime==1.23.2", "tokenizers==0.22.1"),
    ("3.11", "3.12", "3.10"),
    "550 MB",
)


def ensure(environment: Environment, cache: Path) -> Path:
    """The Python of the environment, made and filled where it is not there yet."""
    folder = cache / "peers" / environment.name
    python, stamp = folder / "bin" / "python", folder / ".halny-packages"
    wanted = "\n".join(environment.packages)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"[bench] installing {environment.packages[0]} ({environment.size})", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    _run([_interpreter(environment.pythons), "-m", "venv", str(folder)], "a Python environment could not be made")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    _run([*pip, "install", "--only-binary", ":all:", *environment.packages], "pip install failed")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _interpreter(versions: tuple[str, ...]) -> str:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in versions:
        if version == own:
            return sys.executable
        found = shutil.which(f"python{version}")
        # A launcher may stand in the path for a version that is not installed.
        if found and subprocess.run([found, "--version"], capture_output=True, timeout=60).returncode == 0:
            return found
    raise PeerUnavailable(f"it needs one of Python {', '.join(versions)}")


def _run(command: list[str], failure: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        code = subprocess.run(command, env=environment, timeout=_INSTALL_TIMEOUT_S).returncode
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailable(f"{failure}: no end within {_INSTALL_TIMEOUT_S} s") from error
    if code != 0:
        raise PeerUnavailable(f"{failure}; what it said stands above")
