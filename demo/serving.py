"""Starting and stopping the demo's server."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from client import Client

HERE = Path(__file__).resolve().parent
_DEFAULT_PORTS = (8080, 8081)
#: The folders of the demo's models.
_MODELS = ("minilm", "opennsfw", "gemma3-270m")
#: A cold start reads 340 MB of weights and optimises two graphs; minutes mean that something hangs.
_START_PATIENCE_S = 300.0
_STOP_PATIENCE_S = 60.0


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


def cache_folder() -> Path:
    """Where `make` keeps models and libraries."""
    return Path(os.environ.get("HALNY_CACHE") or Path.home() / ".cache" / "halny").expanduser().absolute()


def place_project(cache: Path) -> tuple[Path, int, int]:
    """Copies the project beside the models; gives its path, the clients' port and the operator's."""
    missing = [name for name in _MODELS if not (cache / "models" / name).is_dir()]
    if missing:
        raise DemoError(f"{', '.join(missing)} not found in {cache / 'models'}; `make demo` fetches what is missing")
    usual = all(map(_is_free, _DEFAULT_PORTS))
    port, admin_port = _DEFAULT_PORTS if usual else _free_ports()
    text = (HERE / "halny.toml").read_text(encoding="utf-8")
    for default, chosen in zip(_DEFAULT_PORTS, (port, admin_port)):
        text = text.replace(f'"127.0.0.1:{default}"', f'"127.0.0.1:{chosen}"')
    # A demo that runs already watches the usual file: it is not to be changed under it.
    project = cache / "demo" / ("halny.toml" if usual else f"halny-{port}.toml")
    project.parent.mkdir(parents=True, exist_ok=True)
    project.write_text(text, encoding="utf-8")
    return project, port, admin_port


def remove_unusual(project: Path) -> None:
    """Removes a project file that was written for this run's ports alone."""
    if project.name != "halny.toml":
        project.unlink(missing_ok=True)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


class Server:
    """The server as a child process. Its log goes on to standard error, line by line."""

    def __init__(self, binary: Path, project: Path, port: int, admin_port: int) -> None:
        self.client = Client(f"http://127.0.0.1:{port}")
        self.admin = Client(f"http://127.0.0.1:{admin_port}")
        self.log: list[str] = []
        command = [str(binary), "serve", "--project", str(project)]
        try:
            # In a process group of its own: Ctrl-C reaches this script alone, which then stops the server.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        except OSError as error:
            raise DemoError(f"{binary} cannot be started: {error.strerror}; `make build` builds it") from error
        self._reader = threading.Thread(target=self._pass_log_on, daemon=True)
        self._reader.start()

    def _pass_log_on(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            sys.stderr.write(f"  | {line}")

    def wait_until_ready(self) -> None:
        """Polls `/health` and shows how long it has been on a terminal."""
        began = time.monotonic()
        while not self._is_ready():
            waited_s = time.monotonic() - began
            if self.process.poll() is not None:
                raise DemoError(f"the server ended with exit code {self.process.returncode}; its log stands above")
            if waited_s > _START_PATIENCE_S:
                raise DemoError(f"the server was not ready after {waited_s:.0f} s")
            if sys.stdout.isatty():
                print(f"\r  loading models: {waited_s:.1f} s ", end="", flush=True)
            time.sleep(0.1)
        if sys.stdout.isatty():
            print("\r" + " " * 40, end="\r")

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.client.get("/health").status == 200
        return False

    def start_times(self) -> list[str]:
        """Where the start's time went, from the server's log."""
        telling = re.compile(r"(model is ready|started ).*")
        return [match.group(0) for line in self.log if (match := telling.search(line))]

    def stop(self, number: signal.Signals) -> int:
        """Asks the server to stop and waits for it; gives its exit code."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DemoError(f"the server did not stop within {_STOP_PATIENCE_S:.0f} s") from None
        self._reader.join(5)
        return code

    def kill(self) -> None:
        """Ends the server without asking."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
