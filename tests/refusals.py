"""What a refusal has to look like, whatever was sent."""

from __future__ import annotations

import json
import re

import requests

import wire

#: What an error must never hold: paths of this host, source files, addresses, names of the inside.
INSIDE = re.compile(
    r"/(?:home|root|tmp|usr|etc|proc|var|mnt|opt|srv)/|\.rs:|0x[0-9a-f]{6,}|127\.0\.0\.1|panicked|RUST_|libonnx|ort::"
)
#: Allocators keep what they got: growth is measured against this, not against zero.
GROWTH_MIB = 96


def assert_refused(reply: wire.Reply | requests.Response, *statuses: int, sent: str = "") -> str:
    """A JSON error in one of the protocols' shapes that shows nothing of the inside; gives its text.

    What the client has `sent` may come back; it is not the inside.
    """
    if isinstance(reply, wire.Reply):
        status, body = reply.status, reply.body
    else:
        status, body = reply.status_code, reply.content
    assert status in statuses, (status, body[:300])
    error = json.loads(body)
    message = error.get("error", error.get("message"))
    text = message["message"] if isinstance(message, dict) else message
    assert isinstance(text, str)
    assert 8 < len(text) < 600, text
    assert not INSIDE.search(text.replace(sent, "")), text
    return text
