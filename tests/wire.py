"""Bytes on a socket, where a well-behaved client would not send what a test has to: HTTP/1.1 by hand, and
the few HTTP/2 frames (RFC 9113) that a rapid reset is made of."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
CANCEL = 0x8
INITIAL_WINDOW_SIZE = 0x4


@dataclass(frozen=True)
class Reply:
    """An HTTP/1.1 answer; status 0 where the connection was closed without one."""

    status: int
    head: bytes
    body: bytes


def connect(port: int, timeout_s: float = 60.0) -> socket.socket:
    """A connection to the server."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_s)


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode("latin-1")


def exchange(port: int, *parts: bytes) -> Reply:
    """Sends the parts, then reads one answer. A server that has answered may close before it has read all."""
    with connect(port) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        return read_reply(connection)


def read_reply(connection: socket.socket) -> Reply:
    """Reads one answer with a Content-Length, or what comes until the end."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while b"\r\n\r\n" not in received:
            part = connection.recv(65_536)
            if not part:
                break
            received += part
        first, _, body = received.partition(b"\r\n\r\n")
        length = _content_length(first)
        while len(body) < length:
            part = connection.recv(65_536)
            if not part:
                break
            body += part
        if first:
            return Reply(int(first.split(b" ", 2)[1]), first, body)
    return Reply(0, received, b"")


def _content_length(first: bytes) -> int:
    for line in first.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def chunked(body: bytes, size: int = 1) -> bytes:
    """A body in chunks of `size` bytes."""
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header_block(method: bytes, path: bytes) -> bytes:
    """Pseudo-headers in HPACK (RFC 7541), literal and without indexing."""
    # Static table: 6 is `:scheme http`; 1, 2 and 4 name `:authority`, `:method` and `:path`.
    return b"\x86" + b"".join(_literal(index, value) for index, value in ((2, method), (4, path), (1, b"localhost")))


def _literal(index: int, value: bytes) -> bytes:
    assert len(value) < 127
    return bytes([index, len(value)]) + value


def frames(received: bytes) -> list[tuple[int, int, bytes]]:
    """Kind, stream and payload of every whole frame."""
    found = []
    while len(received) >= 9:
        length = int.from_bytes(received[:3])
        if len(received) < 9 + length:
            break
        found.append((received[3], int.from_bytes(received[5:9]), received[9 : 9 + length]))
        received = received[9 + length :]
    return found
