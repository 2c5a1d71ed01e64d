"""The JavaScript clients: OpenAI's own, and Vercel's AI SDK."""

from __future__ import annotations

import json
from typing import Any

import pytest

import javascript
from server import Server, wait_for
from writing import aborted, running


def test_both_clients_can_be_imported() -> None:
    found = json.loads(javascript.run("imports.mjs"))
    assert found == {"openai": "function", "ai": "function", "streaming": "function", "provider": "minilm"}


@pytest.fixture(scope="module", params=["openai.mjs", "ai.mjs"])
def seen(request: pytest.FixtureRequest, writer: Server) -> dict[str, Any]:
    """What one client saw of a language model, with the number of its requests that were given up."""
    before = aborted(writer)
    found: dict[str, Any] = json.loads(javascript.run(request.param, writer.url))
    wait_for("nothing to run", lambda: running(writer) == 0)
    return found | {"client": request.param, "given up": aborted(writer) - before}


def test_a_streamed_answer_is_the_whole_answer(seen: dict[str, Any]) -> None:
    whole, streamed = seen["whole"], seen["streamed"]
    assert whole["text"] == streamed["text"] != ""
    assert whole["reason"] == streamed["reason"] == "length"
    assert streamed["chunks"] > 3


def test_a_stream_counts_what_the_whole_answer_counts(seen: dict[str, Any]) -> None:
    whole, streamed = seen["whole"]["usage"], seen["streamed"]["usage"]
    prompt, written, total = (
        ("prompt_tokens", "completion_tokens", "total_tokens")
        if seen["client"] == "openai.mjs"
        else ("inputTokens", "outputTokens", "totalTokens")
    )
    for usage in (whole, streamed):
        assert usage[written] == 8
        assert usage[total] == usage[prompt] + 8
    assert whole[prompt] == streamed[prompt] > 8


def test_a_stream_that_is_aborted_ends_on_the_server(seen: dict[str, Any]) -> None:
    assert seen["aborted"]["chunks"] == 3
    assert seen["given up"] == 1


def test_an_answer_keeps_to_its_schema(seen: dict[str, Any]) -> None:
    found = [seen["structured"]]
    if "partial" in seen:
        found += [seen["partial"]["last"], seen["partial"]["output"]]
    for animal in found:
        assert animal.keys() == {"kind", "legs"}
        assert animal["kind"] in ("cat", "dog")
        assert 0 <= animal["legs"] <= 8


@pytest.mark.parametrize("seen", ["openai.mjs"], indirect=True)
def test_the_helpers_of_openais_client_work(seen: dict[str, Any]) -> None:
    assert seen["helped"] == {"text": seen["whole"]["text"], "final": seen["whole"]["text"]}
    assert seen["responded"]["text"] == seen["responded"]["streamed"] != ""
    assert seen["responded"]["usage"]["output_tokens"] == 6
    assert seen["refused"] == {"status": 400, "kind": "BadRequestError", "param": "temperature"}


@pytest.mark.parametrize("seen", ["ai.mjs"], indirect=True)
def test_tools_and_completions_of_the_ai_sdk_work(seen: dict[str, Any]) -> None:
    called = seen["called"]
    assert called["names"] == ["weather", "weather"]
    assert called["inputs"][0] == called["inputs"][1]
    assert called["result"] == f"rain in {called['inputs'][0]['city']}"
    assert called["reason"] == "tool-calls"
    assert "\n" not in seen["completed"]["text"]
