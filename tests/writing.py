"""Requests for texts through the unmodified `openai` client, for several test files.

The large model was never tuned: what is checked is form, count and repetition, not sense. Its prompts
go on so clearly that no rounding changes the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import openai
import pydantic
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from server import Server

COUNTING = "1, 2, 3, 4,"
COUNTED = " 5, 6, 7,"
#: `COUNTED` in tokens: each number is a space, a digit and a comma.
COUNTED_TOKENS = 9
WEEK = "Monday, Tuesday, Wednesday,"
MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count to three."}]
DESCRIBE: Any = [{"role": "user", "content": "Describe an animal as JSON."}]
USAGE: Any = {"stream_options": {"include_usage": True}}


class Animal(pydantic.BaseModel, extra="forbid"):
    """What a schema is made of: each field has few values, so that any answer is short."""

    kind: Literal["cat", "dog"]
    wild: bool
    legs: Annotated[int, pydantic.Field(ge=0, le=8)]


@contextmanager
def connected(writer: Server) -> Iterator[openai.OpenAI]:
    """A client whose prompts were read before: only those that find them read compute the same sums."""
    with openai.OpenAI(**writer.openai) as client:
        for messages in (MESSAGES, MESSAGES[1:], DESCRIBE):
            chat(client, messages=messages, max_completion_tokens=1)
        complete(client, prompt=[COUNTING, WEEK, "The cat"], max_tokens=1)
        yield client


def opened(client: openai.OpenAI, **change: Any) -> Any:
    """What `completions.create` gives: an answer, or with `stream` its chunks as they come."""
    request: dict[str, Any] = {"model": "gemma", "prompt": COUNTING, "max_tokens": COUNTED_TOKENS, "temperature": 0}
    return client.completions.create(**(request | change))


def complete(client: openai.OpenAI, **change: Any) -> Completion:
    """A whole answer."""
    found: Completion = opened(client, **change)
    return found


def stream(client: openai.OpenAI, **change: Any) -> list[Completion]:
    """All chunks of an answer."""
    return list(opened(client, stream=True, **change))


def opened_chat(client: openai.OpenAI, **change: Any) -> Any:
    """What `chat.completions.create` gives: an answer, or with `stream` its chunks as they come."""
    request: dict[str, Any] = {"model": "gemma", "messages": MESSAGES, "max_completion_tokens": 8, "temperature": 0}
    return client.chat.completions.create(**(request | change))


def chat(client: openai.OpenAI, **change: Any) -> ChatCompletion:
    """A whole answer in a chat."""
    found: ChatCompletion = opened_chat(client, **change)
    return found


def stream_chat(client: openai.OpenAI, **change: Any) -> list[ChatCompletionChunk]:
    """All chunks of an answer in a chat."""
    return list(opened_chat(client, stream=True, **change))


def joined(chunks: list[Completion], index: int = 0) -> str:
    """The text of one answer."""
    return "".join(choice.text for chunk in chunks for choice in chunk.choices if choice.index == index)


def content(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    """The text of one answer in a chat."""
    choices = (choice for chunk in chunks for choice in chunk.choices if choice.index == index)
    return "".join(choice.delta.content or "" for choice in choices)


def numbers(usage: Any) -> tuple[int, int, int]:
    """Tokens of the prompt, of the answer, of both."""
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def aborted(writer: Server) -> float:
    """Requests of the large model that were given up."""
    return writer.metric("halny_generation_finished_requests", model="gemma", reason="abort")


def running(writer: Server) -> float:
    """Requests of the large model that hold cells now; 0 when all steps are counted."""
    return writer.metric("halny_generation_running_requests", model="gemma")
