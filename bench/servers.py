"""A server as a child process: started on a free loopback port, waited for, asked once, and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from peers.children import free_port, stop

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 20.0
_ASK_TIMEOUT_S = 120.0
_LOG_TAIL_BYTES = 2000


class ServerError(Exception):
    """The server did not start, or does not answer as it should; the text says what it said."""


@dataclass(frozen=True)
class Request:
    """One request for the vector of one text, in the server's own shape."""

    path: str
    #: JSON with `{text}` where the text goes.
    template: Any
    #: The vector in the answer.
    vector: Callable[[Any], list[float]]

    def body(self, text: str) -> bytes:
        """The request for this text."""
        return json.dumps(_filled(self.template, text)).encode()


@dataclass(frozen=True)
class System:
    """A server that can be measured."""

    name: str
    #: Takes the free port the server has to listen on.
    command: Callable[[int], list[str]]
    request: Request
    #: Answers 200 when the server is ready.
    ready_path: str
    environment: Mapping[str, str] = field(default_factory=dict)
    #: How the machine's cores were shared out, for the report.
    layout: str = ""
    #: Set where the port has to be passed through the environment.
    port_variable: str = ""


@dataclass(frozen=True)
class Server:
    """A running system."""

    system: System
    port: int
    pid: int
    start_s: float

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def embed(self, text: str) -> list[float]:
        """The vector of one text."""
        request = urllib.request.Request(
            self.url + self.system.request.path,
            data=self.system.request.body(text),
            headers={"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return self.system.request.vector(json.load(answer))
        except urllib.error.HTTPError as error:
            said = error.read(_LOG_TAIL_BYTES).decode(errors="replace")
            raise ServerError(f"{self.system.name} answered {error.code}: {said}") from error
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ServerError(f"{self.system.name} gave no vector: {error!r}") from error


def asked(method: str, url: str, body: Any = None) -> Any:
    """What a server answers to a request with a body of JSON, or with none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_ASK_TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read(_LOG_TAIL_BYTES).decode(errors="replace")
        raise ServerError(f"{method} {url} was answered with {error.code}: {said}") from error
    except (OSError, ValueError) as error:
        raise ServerError(f"{method} {url} was not answered: {error!r}") from error


def stop_on_sigterm() -> None:
    """Has SIGTERM end this process as an exception does: servers are stopped on the way out."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit("ended by a signal")


@contextlib.contextmanager
def running(system: System, logs: Path) -> Iterator[Server]:
    """Starts the server, yields it when it is ready, stops it and what it started in any case."""
    port = free_port()
    # What it leaves behind goes with the folder.
    environment = {**os.environ, "TMPDIR": str(logs), **system.environment}
    if system.port_variable:
        environment[system.port_variable] = str(port)
    log = logs / f"{system.name}.log"
    begin_s = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            system.command(port),
            env=environment,
            cwd=logs,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Not a session of its own: Linux would share the processor out between sessions, whatever their priority.
            process_group=0,
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}{system.ready_path}", system.name, log)
        yield Server(system, port, process.pid, time.monotonic() - begin_s)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, name: str, log: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise ServerError(f"{name} ended with {process.returncode} before it was ready:\n{_tail(log)}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise ServerError(f"{name} was not ready within {_START_TIMEOUT_S:.0f} s:\n{_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    stop(process, _STOP_TIMEOUT_S)
    # The process led a group of its own: workers that outlived it are in there, and nobody else.
    with contextlib.suppress(ProcessLookupError):
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        while time.monotonic() < deadline_s:
            os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


def _filled(template: Any, text: str) -> Any:
    if isinstance(template, str):
        return template.replace("{text}", text)
    if isinstance(template, list):
        return [_filled(value, text) for value in template]
    if isinstance(template, dict):
        return {key: _filled(value, text) for key, value in template.items()}
    return template
