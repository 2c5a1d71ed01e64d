"""Servers that Halny keeps things in: Valkey and an S3 server, each of the test's own, on loopback, in its folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
from server import CACHE, free_ports, wait_for

VALKEY = Path(os.environ.get("HALNY_VALKEY") or CACHE / "valkey" / "valkey-server").absolute()
SEAWEEDFS = Path(os.environ.get("HALNY_SEAWEEDFS") or CACHE / "s3" / "bin" / "weed").absolute()
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Bucket:
    """An empty bucket, and who may write to it."""

    endpoint: str
    name: str
    region: str
    access_key: str
    secret_key: str

    @property
    def variables(self) -> dict[str, str]:
        """What tells a server of it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
        }


@contextlib.contextmanager
def valkey(folder: Path, port: int | None = None, **settings: str) -> Iterator[str]:
    """A Valkey server; gives its URL. Started again in the same folder with `appendonly="yes"`, it has what it had."""
    port = port or free_ports(1)[0]
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {"bind": "127.0.0.1", "port": str(port), "dir": str(folder), "save": "", **settings}
    command = [str(VALKEY), *(part for name, value in chosen.items() for part in (f"--{name}", value))]
    with _running(command, folder, "valkey"):
        wait_for("Valkey", lambda: _says_pong(port))
        yield f"redis://127.0.0.1:{port}"


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[Bucket]:
    """SeaweedFS with one empty bucket. It is ready within two seconds, and starts again with what the folder holds."""
    names = ("master", "volume", "filer", "s3", "admin")
    free = free_ports(2 * len(names))
    ports, inner = dict(zip(names, free)), dict(zip(names, free[len(names) :]))
    bucket = Bucket(f"http://127.0.0.1:{ports['s3']}", "halny", "us-east-1", "halny-test", "not-a-secret")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    credentials = [{"accessKey": bucket.access_key, "secretKey": bucket.secret_key}]
    who = {"identities": [{"name": "test", "credentials": credentials, "actions": ["Admin"]}]}
    (folder / "s3.json").write_text(json.dumps(who), encoding="utf-8")
    options = {
        "dir": str(folder / "data"),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        **{f"{name}.port": str(port) for name, port in ports.items()},
        **{f"{name}.port.grpc": str(port) for name, port in inner.items()},
        "bucket": bucket.name,
        "s3.config": str(folder / "s3.json"),
        # Left out is what listens on ports of its own, draws pages or reports home.
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "webdav": "false",
        "admin.ui": "false",
        "master.telemetry": "false",
        "volume.preStopSeconds": "0",
        "filer.localSocket": str(folder / "filer.sock"),
        "s3.localSocket": str(folder / "s3.sock"),
    }
    # Not `weed server`: its first write waits for seconds, and so does its end.
    command = [str(SEAWEEDFS), f"-logdir={folder}", "mini", *(f"-{name}={value}" for name, value in options.items())]
    try:
        with _running(command, folder, "seaweedfs"):
            wait_for("SeaweedFS", lambda: _is_up(f"{bucket.endpoint}/healthz") and _has_bucket(ports["filer"], bucket))
            yield bucket
    finally:
        # These sockets have a place of their own, and some outlive the server.
        for name, port in inner.items():
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)


@contextlib.contextmanager
def _running(command: list[str], folder: Path, name: str) -> Iterator[None]:
    """The process; it writes nowhere but into the folder, and ends with the context."""
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "TMPDIR": str(folder)}
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
        assert process.poll() is None, f"{name} ended by itself; {folder / f'{name}.log'} says why"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _says_pong(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16) == b"+PONG\r\n"
    return False


def _is_up(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(url, timeout=5).status_code == 200
    return False


def _has_bucket(filer_port: int, bucket: Bucket) -> bool:
    return _is_up(f"http://127.0.0.1:{filer_port}/buckets/{bucket.name}/?limit=1")
