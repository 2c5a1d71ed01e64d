"""The JavaScript clients: OpenAI's own, and Vercel's AI SDK."""

from __future__ import annotations

import json

import javascript


def test_both_clients_can_be_imported() -> None:
    found = json.loads(javascript.run("imports.mjs"))
    assert found == {"openai": "function", "ai": "function", "streaming": "function", "provider": "minilm"}
