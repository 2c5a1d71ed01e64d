"""A Valkey server of a benchmark's own: on a loopback port and a socket, in a folder, as durable as it is told."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from cache import CACHE
from children import free_port, stop

_PROGRAM = Path(os.environ.get("HALNY_VALKEY") or CACHE / "valkey" / "valkey-server")
_START_TIMEOUT_S = 30
_STOP_TIMEOUT_S = 30
#: By what is lost with the machine: nothing that was answered, at most a second, everything.
DURABLE = {
    "always": {"appendonly": "yes", "appendfsync": "always"},
    "everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "no": {"appendonly": "no"},
}


@contextlib.contextmanager
def running(folder: Path, durable: str) -> Iterator[int]:
    """The server, as long as the context lasts; gives its port."""
    port, folder = free_port(), folder.absolute()
    settings = {"bind": "127.0.0.1", "port": str(port), "dir": str(folder), "save": "", **DURABLE[durable]}
    settings["unixsocket"] = str(socket_of(folder))
    command = [str(_PROGRAM), *(part for name, value in settings.items() for part in (f"--{name}", value))]
    with (folder / "valkey.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait(process, port, folder / "valkey.log")
        yield port
    finally:
        stop(process, _STOP_TIMEOUT_S)


def socket_of(folder: Path) -> Path:
    """Where the server of this folder also listens."""
    return folder.absolute() / "valkey.sock"


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(16) == b"+PONG\r\n":
                return
        time.sleep(0.02)
    raise RuntimeError(f"Valkey did not start: {log.read_text(errors='replace')[-500:]}")
