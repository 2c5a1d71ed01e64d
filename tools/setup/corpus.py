"""Short English texts for the demo and the benchmarks: Debian's one-line package descriptions."""

from __future__ import annotations

import shutil
import subprocess

from places import CACHE, ROOT, SetupError, replace_text, say
from system import update_apt_lists

#: Debian 12 has 63,666 packages; fewer than this means that apt has no lists, or part of them.
_ENOUGH = 60_000
_FALLBACK = ROOT / "demo" / "data" / "sentences.txt"


def ensure_corpus() -> None:
    """Writes `data/debian-descriptions.txt`, one text a line, ordered by package name, and the same with
    the names before them, behind a tab, as `debian-packages.tsv`."""
    texts_file, packages_file = (CACHE / "data" / name for name in ("debian-descriptions.txt", "debian-packages.tsv"))
    if texts_file.is_file() and packages_file.is_file():
        return
    packages = _packages()
    if len(packages) < _ENOUGH and update_apt_lists():
        packages = _packages()
    if len(packages) < _ENOUGH:
        say(f"apt knows {len(packages)} packages here; the committed sentences take their place")
        sentences = _FALLBACK.read_text(encoding="utf-8").splitlines()
        packages = [(f"sentence-{number}", text) for number, text in enumerate(sentences, 1)]
    if not packages:
        raise SetupError(f"{_FALLBACK.name} is empty")
    replace_text(packages_file, "".join(f"{name}\t{text}\n" for name, text in packages))
    replace_text(texts_file, "".join(f"{text}\n" for _, text in packages))
    say(f"{len(packages)} texts in {texts_file.name}")


def _packages() -> list[tuple[str, str]]:
    if shutil.which("apt-cache") is None:
        return []
    result = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, errors="replace")
    pairs: set[tuple[str, str]] = set()
    package = ""
    for line in result.stdout.splitlines():
        if line.startswith("Package: "):
            package = line.removeprefix("Package: ")
        elif line.startswith(("Description: ", "Description-en: ")):
            pairs.add((package, line.partition(": ")[2].strip()))
    # A tab parts the two in the file.
    return [(name, text.replace("\t", " ")) for name, text in sorted(pairs) if text]
