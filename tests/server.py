"""A halny server as a child process: starts on free ports, waits until it is ready, ends with its test."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import requests

#: Where `cargo build` and `make` put things, unless the environment says otherwise.
CACHE = Path(os.environ.get("HALNY_CACHE") or Path.home() / ".cache" / "halny").absolute()
BINARY = Path(os.environ.get("HALNY_BIN") or CACHE / "target" / "debug" / "halny")
LIBRARY = Path(os.environ.get("HALNY_ONNXRUNTIME") or CACHE / "onnxruntime" / "1.32.0" / "libonnxruntime.so")

#: Far beyond what anything here takes; only a hang reaches it.
PATIENCE_S = 120.0


def environment(**more: str) -> dict[str, str]:
    """The variables that a server gets: the library's path, and plain logs."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("RUST_LOG", "HALNY_"))}
    return base | {"HALNY_ONNXRUNTIME": str(LIBRARY), "NO_COLOR": "1"} | more


def halny(*arguments: str | Path, timeout_s: float = PATIENCE_S, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of the binary that is over, with what it said."""
    command, env = [BINARY, *arguments], environment(**variables)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)


def serve_in_vain(project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself, with what it said."""
    return halny("serve", "--project", project, **variables)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_for(what: str, done: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Asks `done` until it gives something true, and gives that; an error names `what` did not happen."""
    end = time.monotonic() + patience_s
    while True:
        found = done()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience_s:.0f} s in vain for: {what}")
        time.sleep(0.02)


class Server:
    """One `halny serve`. Use it in a `with` statement, or call `stop`."""

    #: Those that run now: a failing test shows the ends of their logs.
    running: ClassVar[list[Server]] = []

    def __init__(self, project: Path, ports: tuple[int, int], **variables: str) -> None:
        self.project = project
        self.port, self.admin_port = ports
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self.log_path = project.parent / "server.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "serve", "--project", project],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(**variables),
            )
        Server.running.append(self)

    def __enter__(self) -> Self:
        try:
            return self.wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._forget()

    @property
    def openai(self) -> dict[str, Any]:
        """What the unmodified `openai` client is made with, to ask this server once."""
        return {"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0}

    def wait_until_ready(self) -> Self:
        """Returns when `/health` says ready."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()[-4000:]}")
            with contextlib.suppress(OSError, http.client.HTTPException, requests.RequestException):
                return requests.get(f"{self.url}/health", timeout=5).status_code == 200
            return False

        wait_for("the server to be ready", ready)
        return self

    def log(self) -> str:
        """Everything it said so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the server."""
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Waits for the end of the process."""
        return self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self.send_signal(signal.SIGTERM)
        code = self.exit_code()
        self._forget()
        return code

    def end(self) -> None:
        """SIGTERM at the end of a test: the server has to end well, and to have had no panic until then."""
        code = self.stop()
        assert code == 0, f"the server ended with {code}:\n{self.log()[-4000:]}"
        assert "panicked" not in self.log(), f"a thread panicked; {self.log_path} says where"

    def kill(self) -> None:
        """Ends the process without asking."""
        self.process.kill()
        self.process.wait()
        self._forget()

    def _forget(self) -> None:
        if self in Server.running:
            Server.running.remove(self)

    def resident_mib(self) -> float:
        """Memory that the process holds now."""
        return self._memory_mib("VmRSS:")

    def peak_mib(self) -> float:
        """The most memory that the process held, since its start or since `forget_peak`."""
        return self._memory_mib("VmHWM:")

    def forget_peak(self) -> None:
        """What `peak_mib` tells begins with now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def _memory_mib(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels; 0 where there is none."""
        text = requests.get(f"{self.admin_url}/metrics", timeout=30).text
        return sum(value for key, value in series(text) if _matches(key, name, labels))

    def load(self, model: str, verb: str = "load") -> requests.Response:
        """What the operator's port says to loading a model, or to `unload`."""
        return requests.post(f"{self.admin_url}/v2/repository/models/{model}/{verb}", timeout=120)

    def outcomes_of_changes(
        self, model: str, file: Path, places: Iterable[int], ask: Callable[[], object]
    ) -> dict[int, int]:
        """How often loading `model` gave each status while single bytes of its file were other ones.

        `ask` is called where it loaded. The process has to live through all of it; the file is whole again in the end.
        """
        whole = file.read_bytes()
        outcomes: dict[int, int] = {}
        for at in places:
            for change in (0xFF, 0x01):
                file.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
                status = self.load(model).status_code
                ended = f"byte {at} ^ {change:#x} ended the process"
                assert self.alive(), f"{ended}:\n{self.log()[-2_000:]}"
                outcomes[status] = outcomes.get(status, 0) + 1
                if status == 200:
                    ask()
                    assert self.alive(), f"{ended}:\n{self.log()[-2_000:]}"
                    self.load(model, "unload")
        file.write_bytes(whole)
        return outcomes

    def version(self, model: str) -> str:
        """The version that a model answers with."""
        return str(requests.get(f"{self.url}/v1/models/{model}", timeout=30).json()["version"])


def series(text: str) -> Iterator[tuple[str, float]]:
    """The series of a Prometheus exposition."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.rpartition(" ")
            yield key, float(value)


def _matches(key: str, name: str, labels: dict[str, str]) -> bool:
    found = key.partition("{")[0]
    return found in (name, f"{name}_total") and all(f'{label}="{value}"' in key for label, value in labels.items())
