"""SHA-256 of every file that is fetched or built, and the check against it.

A digest is taken once; while a file's size and time of change stay, it is not read again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from places import CACHE, SetupError, replace_text

_SEEN = CACHE / ".digests.json"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_valid(path: Path, wanted: str) -> bool:
    """Whether the file is there and has the digest."""
    if not path.is_file():
        return False
    status = path.stat()
    key, mark = str(path.relative_to(CACHE)), [status.st_size, status.st_mtime_ns, wanted]
    seen = _read_seen()
    if seen.get(key) == mark:
        return True
    if file_digest(path) != wanted:
        return False
    seen[key] = mark
    replace_text(_SEEN, json.dumps(seen, indent=1, sort_keys=True))
    return True


def check(path: Path, wanted: str) -> None:
    """Raises where the file is not what was recorded, and removes it so that the next run tries again."""
    if is_valid(path, wanted):
        return
    found = file_digest(path) if path.is_file() else "nothing"
    path.unlink(missing_ok=True)
    raise SetupError(f"{path.name}: SHA-256 {wanted} was expected, {found} was found; the file was removed")


def _read_seen() -> dict[str, list[object]]:
    try:
        seen = json.loads(_SEEN.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return seen if isinstance(seen, dict) else {}
