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
    """Writes `data/debian-descriptions.txt`, one text a line, ordered by package name."""
    target = CACHE / "data" / "debian-descriptions.txt"
    if target.is_file():
        return
    texts = _descriptions()
    if len(texts) < _ENOUGH and update_apt_lists():
        texts = _descriptions()
    if len(texts) < _ENOUGH:
        say(f"apt knows {len(texts)} packages here; the committed sentences take their place")
        texts = _FALLBACK.read_text(encoding="utf-8").splitlines()
    if not texts:
        raise SetupError(f"{_FALLBACK.name} is empty")
    replace_text(target, "".join(f"{text}\n" for text in texts))
    say(f"{len(texts)} texts in {target.name}")


def _descriptions() -> list[str]:
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
    return [text for _, text in sorted(pairs) if text]
