"""HTTP that has broken systems like this one: bodies, heads, JSON and HTTP/2 frames. What must come back is a
clear refusal, with the process alive, memory flat, and the next request answered."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import struct
import time
from pathlib import Path

import pytest
import requests

import projects
import wire
from conftest import TARGET_MAX_BODY as MAX_BODY
from conftest import Tiny
from refusals import GROWTH_MIB, assert_refused
from server import Server, wait_for

JSON = "Content-Type: application/json"

pytestmark = pytest.mark.usefixtures("lives")


def embed(target: Server, body: bytes, *headers: str) -> wire.Reply:
    length = f"Content-Length: {len(body)}"
    return wire.exchange(target.port, wire.head("/v1/embeddings", JSON, length, *headers), body)


# HTTP bodies


def test_three_megabytes_in_one_byte_chunks_are_read_and_answered(server: Server) -> None:
    body = json.dumps({"model": "tiny", "input": "sun " * 750_000}).encode()
    assert len(body) > 3_000_000
    before_mib = server.resident_mib()
    reply = wire.exchange(
        server.port, wire.head("/v1/embeddings", JSON, "Transfer-Encoding: chunked"), wire.chunked(body)
    )
    assert "tokens" in assert_refused(reply, 413)
    assert server.resident_mib() < before_mib + GROWTH_MIB


def test_chunks_that_take_longer_than_a_body_may_are_given_up_on(target: Server) -> None:
    """The client still sends when it is refused, so that it may see a reset instead of the answer."""
    chunks = wire.chunked(b" " * 1_000_000)
    reply = wire.exchange(
        target.port, wire.head("/v1/embeddings", JSON, "Transfer-Encoding: chunked"), *[chunks[:-5]] * 8
    )
    assert reply.status in (0, 408, 413)


def test_one_byte_chunks_of_a_good_request_are_answered(target: Server) -> None:
    body = json.dumps({"model": "tiny", "input": "sun rain"}).encode()
    reply = wire.exchange(
        target.port, wire.head("/v1/embeddings", JSON, "Transfer-Encoding: chunked"), wire.chunked(body)
    )
    assert reply.status == 200


PATHS = ["/v1/embeddings", "/v1/rerank", "/halny/v1/classify", "/v2/models/arithmetic/infer"]


@pytest.mark.parametrize("path", PATHS)
def test_a_body_announced_over_the_limit_is_refused_before_it_is_sent(target: Server, path: str) -> None:
    reply = wire.exchange(target.port, wire.head(path, JSON, f"Content-Length: {MAX_BODY + 1}"))
    assert str(MAX_BODY) in assert_refused(reply, 413)
    assert b"connection: close" in reply.head.lower()


@pytest.mark.parametrize("path", PATHS)
def test_a_body_over_the_limit_without_a_length_is_refused_when_it_gets_there(target: Server, path: str) -> None:
    endless = b"%x\r\n%b\r\n" % (65_536, b" " * 65_536)
    reply = wire.exchange(target.port, wire.head(path, JSON, "Transfer-Encoding: chunked"), *[endless] * 80)
    if reply.status:
        assert_refused(reply, 413)
    else:
        assert reply.head == b"", "a connection that was reset while the client still sent"


@pytest.mark.parametrize("length", ["-1", "1e3", "18446744073709551616", "5, 6", "0x10", ""])
def test_a_length_that_is_none_is_refused(target: Server, length: str) -> None:
    reply = wire.exchange(target.port, wire.head("/v1/embeddings", JSON, f"Content-Length: {length}"))
    assert reply.status == 400


def test_two_lengths_that_differ_are_refused(target: Server) -> None:
    head = wire.head("/v1/embeddings", JSON, "Content-Length: 2", "Content-Length: 60")
    assert wire.exchange(target.port, head).status == 400


def test_a_length_beside_chunks_smuggles_no_second_request(target: Server) -> None:
    """RFC 9112, 6.3: refused, or closed after one answer; what follows is never a request of its own."""
    inner = wire.head("/v1/models", method="GET")
    headers = [JSON, "Transfer-Encoding: chunked", f"Content-Length: {5 + len(inner)}"]
    with wire.connect(target.port) as connection:
        connection.sendall(wire.head("/v1/embeddings", *headers) + b"0\r\n\r\n" + inner)
        first = wire.read_reply(connection)
        assert first.status in (0, 400)
        assert b'"object":"list"' not in first.body + wire.read_reply(connection).body


def test_a_body_that_does_not_come_is_given_up_on(target: Server) -> None:
    head = wire.head("/v1/embeddings", JSON, "Content-Length: 1000")
    assert "3000 ms" in assert_refused(wire.exchange(target.port, head, b'{"model"'), 408)


@pytest.mark.parametrize(
    "begin",
    [b"", b"P", b"PRI", wire.PREFACE[:-1], b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nX-Slow: "],
    ids=["nothing", "letter", "http2", "preface", "http1"],
)
def test_a_head_that_does_not_come_is_given_up_on(target: Server, begin: bytes) -> None:
    with wire.connect(target.port, timeout_s=15) as connection:
        connection.sendall(begin)
        assert wire.read_reply(connection).status in (0, 408)


def test_a_head_that_drips_is_given_up_on(target: Server) -> None:
    """A byte now and then does not extend the time."""
    with wire.connect(target.port, timeout_s=0.1) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        for _ in range(600):
            try:
                connection.sendall(b"X")
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("the connection was held for as long as it dripped")


def test_a_line_break_behind_a_body_keeps_no_answer_back(target: Server) -> None:
    """RFC 9112, 2.2: some clients send one."""
    body = json.dumps({"model": "tiny", "input": "sun"}).encode()
    asking = wire.head("/v1/embeddings", JSON, f"Content-Length: {len(body)}") + body
    with wire.connect(target.port) as connection:
        for behind in (b"POST /v1/emb", b"\r\n"):
            connection.sendall(asking + behind)
            assert wire.read_reply(connection).status == 200
            asking = asking.removeprefix(b"POST /v1/emb")


@pytest.mark.parametrize("count", [1, 20_000], ids=["long", "many"])
def test_headers_over_the_limit_are_refused(target: Server, count: int) -> None:
    size = 2_000_000 // count
    headers = [f"X-{number}: {'v' * size}" for number in range(count)]
    assert wire.exchange(target.port, wire.head("/health", *headers, method="GET")).status in (0, 400, 431)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-unknown"])
def test_a_compressed_bomb_is_not_unpacked(target: Server, coding: str) -> None:
    bomb = gzip.compress(bytes(200 << 20), compresslevel=1)
    bomb = bomb[: 1 << 20]
    assert_refused(embed(target, bomb, f"Content-Encoding: {coding}"), 415)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"model":"tiny","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs":[{"name":"matrix","shape":[1,3],"datatype":"FP32","data":' + b"[" * 100_000,
    ],
    ids=["open", "array", "object", "input", "tensor"],
)
def test_json_nested_100000_deep_is_refused(target: Server, path: str, body: bytes) -> None:
    answer = requests.post(f"{target.url}{path}", data=body, headers={"content-type": "application/json"}, timeout=60)
    assert_refused(answer, 400)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nothing",
        b"null",
        b'"text"',
        b"[]",
        b'{"model":"tiny","input":"\xff\xfe"}',
        b'{"model":"tiny","input":"\xed\xa0\x80"}',
        b'{"model":"tiny","input":"\\ud800"}',
        b'{"model":"tiny\xc3","input":"a"}',
        b'{"model":"tiny","input":NaN}',
        b'{"model":"tiny","input":[Infinity]}',
        b'{"model":"tiny","input":[1e999]}',
        b'{"model":"tiny","input":"a"}{"model":"tiny"}',
        b'\xef\xbb\xbf{"model":"tiny","input":"a"}',
        b'{"model":"tiny","input":"a","model":"rerank"}',
        b"\x00" * 64,
        os.urandom(64),
    ],
    ids=lambda body: repr(body)[:36],
)
def test_json_that_is_none_is_refused(target: Server, path: str, body: bytes) -> None:
    answer = requests.post(f"{target.url}{path}", data=body, headers={"content-type": "application/json"}, timeout=60)
    assert_refused(answer, 400)


def test_control_characters_and_unusual_text_are_only_text(target: Server) -> None:
    for text in ("\0", "\x1b[2J", "\u202e", "\ufeff", "a\u0300" * 10, "𐍈", "{{7*7}}", "${jndi:ldap://x}"):
        answer = requests.post(f"{target.url}/v1/embeddings", json={"model": "tiny", "input": text}, timeout=30)
        assert answer.status_code in (200, 400), (text, answer.text)


# Clients that do not take what they asked for


def test_who_reads_no_answer_is_given_up_on(target: Server) -> None:
    before, before_mib = target.metric("halny_open_connections"), target.resident_mib()
    with wire.connect(target.port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(1.0)
        asking = wire.head("/metrics", method="GET") * 100
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:
                connection.sendall(asking)
        assert target.resident_mib() < before_mib + GROWTH_MIB, "answers pile up where nobody reads"
        wait_for("the connection to be closed", lambda: target.metric("halny_open_connections") <= before)


@pytest.mark.parametrize("window", [0, 1])
def test_who_opens_no_window_for_an_answer_is_given_up_on(target: Server, window: int) -> None:
    """Pings are answered all the while."""
    body = json.dumps({"model": "tiny", "input": ["sun"] * 500}).encode()
    settings = wire.frame(wire.SETTINGS, 0, 0, struct.pack(">HI", wire.INITIAL_WINDOW_SIZE, window))
    ask = wire.frame(wire.HEADERS, wire.END_HEADERS, 1, wire.header_block(b"POST", b"/v1/embeddings"))
    ask += wire.frame(wire.DATA, wire.END_STREAM, 1, body)
    with wire.connect(target.port, timeout_s=0.5) as connection:
        connection.sendall(wire.PREFACE + settings + wire.frame(wire.SETTINGS, wire.ACK, 0) + ask)
        for _ in range(120):
            try:
                connection.sendall(wire.frame(wire.PING, 0, 0, bytes(8)))
                if not connection.recv(65_536):
                    return
                # A ping a second at most: more would be a flood.
                time.sleep(0.5)
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("the connection was held for as long as it answered pings")


def test_bodies_that_wait_take_no_more_memory_than_they_may(tmp_path: Path, tiny: Tiny) -> None:
    models = [projects.model("tiny", tiny.embed.folder, "embed")]
    body = json.dumps({"model": "tiny", "input": "sun", "user": "x" * 400_000}).encode()
    head = wire.head("/v1/embeddings", JSON, f"Content-Length: {len(body)}")
    with projects.start(tmp_path, models, max_body="512KiB", max_bodies="512KiB") as server:
        with wire.connect(server.port) as slow:
            slow.sendall(head + body[:300_000])
            # Whether it has read that far is not to be seen; it has when the next finds no room.
            refused = wait_for("the room to be taken", lambda: _refused(wire.exchange(server.port, head, body)))
            assert "try again" in assert_refused(refused, 503)
            assert b"retry-after" in refused.head.lower()
            slow.sendall(body[300_000:])
            assert wire.read_reply(slow).status == 200
        assert wire.exchange(server.port, head, body).status == 200


def _refused(reply: wire.Reply) -> wire.Reply | None:
    return None if reply.status == 200 else reply


# HTTP/2


def test_a_rapid_reset_ends_the_connection_and_nothing_else(target: Server) -> None:
    """CVE-2023-44487: streams opened and reset at once, faster than they can be looked at."""
    block = wire.header_block(b"POST", b"/v1/embeddings")
    one = b"".join(
        wire.frame(wire.HEADERS, wire.END_HEADERS, stream, block)
        + wire.frame(wire.RST_STREAM, 0, stream, struct.pack(">I", wire.CANCEL))
        for stream in range(1, 40_001, 2)
    )
    received = send_http2(target, one)
    kinds = [kind for kind, _, _ in wire.frames(received)]
    assert wire.GOAWAY in kinds or received == b"", f"kinds of frames: {sorted(set(kinds))}"
    assert target.metric("halny_in_flight_requests") <= 1


@pytest.mark.parametrize(
    "payload",
    [
        wire.frame(wire.HEADERS, 0, 1, b"") + wire.frame(wire.CONTINUATION, 0, 1, b"\x00" * 1_000) * 2_000,
        wire.frame(wire.HEADERS, wire.END_HEADERS, 1, b"\xff" * 100),
        wire.frame(wire.SETTINGS, 0, 0, struct.pack(">HI", 4, 0xFFFFFFFF)),
        wire.frame(wire.PING, 0, 0, bytes(8)) * 20_000,
        wire.frame(wire.SETTINGS, 0, 0) * 20_000,
        struct.pack(">I", 0xFFFFFF)[1:] + b"\x00\x00\x00\x00\x00\x01",
        os.urandom(4_096),
    ],
    ids=["continuation", "hpack", "window", "ping", "settings", "length", "random"],
)
def test_http2_frames_that_lie_or_flood_end_the_connection_and_nothing_else(target: Server, payload: bytes) -> None:
    send_http2(target, payload)


def send_http2(target: Server, payload: bytes) -> bytes:
    """Opens a connection, sends, and reads until the server closes it or has nothing more to say."""
    received = b""
    with wire.connect(target.port, timeout_s=10) as connection:
        try:
            connection.sendall(wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0))
            connection.settimeout(1.0)
            while payload:
                sent = connection.send(payload[:65_536])
                payload = payload[sent:]
                received += _available(connection)
            while part := connection.recv(65_536):
                received += part
        except (TimeoutError, ConnectionError):
            pass
    return received


def _available(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""
