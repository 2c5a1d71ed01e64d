"""The step that installs CUDA: once, again for another lock file, and as CMake expects a toolkit."""

from __future__ import annotations

from pathlib import Path

import cuda
import pytest
from places import CACHE, ROOT, SetupError


def _unpack(folder: Path) -> None:
    """What the packages hold, as far as the step looks at it."""
    toolkit = folder / "nvidia" / "cu13"
    for name in ("bin/nvcc", "lib/libcudart.so.13", "lib/libcudart_static.a", "lib/libcublas.so.13"):
        (toolkit / name).parent.mkdir(parents=True, exist_ok=True)
        (toolkit / name).touch()


def test_the_toolkit_is_installed_once_and_again_for_another_lock_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = []

    def install(folder: Path, lock: Path) -> None:
        installed.append(lock)
        _unpack(folder)

    monkeypatch.setattr(cuda, "install_into", install)
    toolkit = CACHE / "cuda" / cuda.VERSION
    cuda.ensure_cuda()
    cuda.ensure_cuda()
    assert len(installed) == 1
    assert (toolkit / "bin" / "nvcc").is_file()
    assert (toolkit / "lib64" / "libcublas.so").readlink() == Path("libcublas.so.13")
    assert [path.name for path in toolkit.parent.iterdir()] == [cuda.VERSION]
    other = tmp_path / "cuda.txt"
    other.write_text("another\n")
    monkeypatch.setattr(cuda, "_LOCK", other)
    cuda.ensure_cuda()
    assert installed[1:] == [other]


def test_packages_without_a_compiler_are_refused(tmp_path: Path) -> None:
    _unpack(tmp_path)
    toolkit = tmp_path / "nvidia" / "cu13"
    (toolkit / "bin" / "nvcc").unlink()
    with pytest.raises(SetupError, match="hold no CUDA toolkit"):
        cuda.arrange(toolkit)


def test_the_makefile_looks_where_the_toolkit_is_put() -> None:
    assert f"/cuda/{cuda.VERSION}\n" in (ROOT / "Makefile").read_text()
