"""Chats, calls of tools and responses through the unmodified `openai` client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from writing import COUNTING, DESCRIBE, MESSAGES, USAGE, Animal, chat, content, numbers, stream_chat


def test_a_chat_is_answered_and_counted(client: openai.OpenAI) -> None:
    answer = chat(client)
    assert (answer.object, answer.model) == ("chat.completion", "gemma")
    assert answer.id.startswith("chatcmpl-")
    message = answer.choices[0].message
    assert message.role == "assistant"
    assert message.content
    assert message.tool_calls is None
    assert answer.choices[0].finish_reason == "length"
    assert numbers(answer.usage)[1] == 8


def test_the_system_message_is_part_of_the_prompt(client: openai.OpenAI) -> None:
    without = chat(client, messages=MESSAGES[1:], max_completion_tokens=1)
    developer = [{**MESSAGES[0], "role": "developer"}, MESSAGES[1]]
    assert numbers(without.usage)[0] < numbers(chat(client, max_completion_tokens=1).usage)[0]
    same = chat(client, messages=developer, max_completion_tokens=1)
    assert numbers(same.usage)[0] == numbers(chat(client, max_completion_tokens=1).usage)[0]


def test_parts_of_a_message_are_one_text(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Count "}, {"type": "text", "text": "to three."}]
    found = chat(client, messages=[MESSAGES[0], {"role": "user", "content": parts}])
    assert found.choices[0].message.content == chat(client).choices[0].message.content


def test_a_streamed_chat_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = chat(client)
    *chunks, last = stream_chat(client, **USAGE)
    assert content(chunks) == whole.choices[0].message.content
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in [*chunks, last]}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert not last.choices
    assert numbers(last.usage) == numbers(whole.usage)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


def test_the_clients_own_stream_helper_follows(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="gemma", messages=MESSAGES, extra_body={"guided_choice": ["one"]}
    ) as events:
        deltas = "".join(event.delta for event in events if event.type == "content.delta")
        final = events.get_final_completion()
    assert deltas == final.choices[0].message.content == "one"
    assert final.choices[0].finish_reason == "stop"


def test_logprobs_of_a_chat_have_bytes_and_alternatives(client: openai.OpenAI) -> None:
    choice = chat(client, logprobs=True, top_logprobs=4).choices[0]
    assert choice.logprobs is not None
    found = choice.logprobs.content
    assert found
    spelled = b"".join(bytes(one.bytes or []) for one in found)
    assert spelled.decode() == choice.message.content
    for one in found:
        assert len(one.top_logprobs) == 4
        assert [top.logprob for top in one.top_logprobs] == sorted(
            (top.logprob for top in one.top_logprobs), reverse=True
        )
        assert one.top_logprobs[0].token == one.token
        assert one.logprob <= 0
    streamed = [
        one
        for chunk in stream_chat(client, logprobs=True, top_logprobs=4)
        for part in chunk.choices
        if part.logprobs
        for one in part.logprobs.content or []
    ]
    assert [one.token for one in streamed] == [one.token for one in found]
    plain = chat(client, logprobs=True).choices[0].logprobs
    assert plain is not None and plain.content
    assert all(one.top_logprobs == [] for one in plain.content)


def test_several_answers_to_a_chat(client: openai.OpenAI) -> None:
    asked: Any = {"n": 3, "temperature": 1, "seed": 5, "model": "caller", "max_completion_tokens": 20}
    whole = chat(client, **asked)
    assert [one.index for one in whole.choices] == [0, 1, 2]
    texts = [one.message.content for one in whole.choices]
    assert len(set(texts)) == 3
    chunks = stream_chat(client, **asked)
    assert [content(chunks, index) for index in range(3)] == texts


def test_json_mode_writes_an_object(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "{} {} {} {}"}]
    for format in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "o", "schema": OBJECT}}):
        choice = chat(client, messages=messages, response_format=format, max_completion_tokens=24).choices[0]
        assert choice.finish_reason == "stop"
        assert isinstance(json.loads(choice.message.content or ""), dict)


#: An object of any shape that is not deep.
OBJECT = {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2}


SCHEMA = {"type": "json_schema", "json_schema": {"name": "animal", "schema": Animal.model_json_schema()}}


def test_an_answer_keeps_to_its_schema(client: openai.OpenAI) -> None:
    asked: Any = {"messages": DESCRIBE, "response_format": SCHEMA, "max_completion_tokens": 400}
    choice = chat(client, **asked).choices[0]
    assert choice.finish_reason == "stop"
    Animal.model_validate_json(choice.message.content or "", strict=True)
    assert content(stream_chat(client, **asked)) == choice.message.content


@pytest.mark.parametrize("seed", range(8))
def test_even_noise_keeps_to_its_schema(client: openai.OpenAI, seed: int) -> None:
    asked: Any = {"model": "caller", "temperature": 2, "seed": seed, "response_format": SCHEMA}
    choice = chat(client, **asked, messages=DESCRIBE, max_completion_tokens=1_500).choices[0]
    assert choice.finish_reason == "stop"
    Animal.model_validate_json(choice.message.content or "", strict=True)


def test_an_answer_in_a_schema_that_is_cut_off_says_so(client: openai.OpenAI) -> None:
    choice = chat(client, messages=DESCRIBE, response_format=SCHEMA, max_completion_tokens=3).choices[0]
    assert choice.finish_reason == "length"
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="gemma", messages=DESCRIBE, response_format=Animal, max_completion_tokens=3)


def test_the_client_parses_what_it_asked_for(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model="gemma", messages=DESCRIBE, response_format=Animal, max_completion_tokens=400, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Animal)


def test_a_chat_goes_on_with_its_last_message(client: openai.OpenAI) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": COUNTING}]
    body = {"continue_final_message": True, "add_generation_prompt": False}
    answer = chat(client, messages=messages, extra_body=body, max_completion_tokens=2)
    assert answer.choices[0].message.content == " 5"


# Tools

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"enum": ["Oslo", "Kyiv"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}},
]
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_call_that_is_asked_for_is_made(client: openai.OpenAI, choice: Any, seed: int) -> None:
    asked: Any = {"model": "caller", "tools": TOOLS[:1], "tool_choice": choice, "temperature": 1, "seed": seed}
    whole = chat(client, **asked, max_completion_tokens=1_000)
    message = whole.choices[0].message
    assert whole.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls and len(message.tool_calls) == 1
    call: Any = message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", "weather")
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Oslo", "Kyiv")
    assert 1 <= arguments["days"] <= 9
    assert message.content is None

    chunks = stream_chat(client, **asked, max_completion_tokens=1_000)
    deltas = [call for chunk in chunks for one in chunk.choices for call in one.delta.tool_calls or []]
    names = [delta.function.name for delta in deltas if delta.function and delta.function.name]
    assert names == ["weather"]
    spelled = "".join(delta.function.arguments or "" for delta in deltas if delta.function)
    assert json.loads(spelled) == arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert content(chunks) == ""


def test_a_call_that_is_cut_off_is_none(client: openai.OpenAI) -> None:
    """Whoever reads `tool_calls` takes the arguments for complete."""
    asked: Any = {"model": "caller", "tools": TOOLS[:1], "tool_choice": NAMED, "temperature": 1, "seed": 1}
    # The name, and the beginning of the arguments.
    asked["max_completion_tokens"] = 40
    whole, chunks = chat(client, **asked).choices[0], stream_chat(client, **asked)
    assert whole.finish_reason == chunks[-1].choices[0].finish_reason == "length"
    assert not whole.message.tool_calls
    assert content(chunks) == whole.message.content


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 1}}\n</tool_call>'


def test_calls_of_the_models_own_are_read(client: openai.OpenAI) -> None:
    asked: Any = {"model": "caller", "tools": TOOLS, "extra_body": {"guided_choice": [f"Wait. {CALL}\n{CALL}"]}}
    whole, chunks = (
        chat(client, **asked, max_completion_tokens=300),
        stream_chat(client, **asked, max_completion_tokens=300),
    )
    message: Any = whole.choices[0].message
    assert [call.function.name for call in message.tool_calls] == ["weather"] * 2
    assert len({call.id for call in message.tool_calls}) == 2
    assert (message.content or "").strip() == content(chunks).strip() == "Wait."
    begins = [call for chunk in chunks for one in chunk.choices for call in one.delta.tool_calls or [] if call.id]
    assert [call.index for call in begins] == [0, 1]
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"


def test_an_answer_that_is_cut_off_after_a_call_says_the_same_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "caller", "tools": TOOLS, "extra_body": {"guided_choice": [f"{CALL} and so on and on"]}}
    asked["max_completion_tokens"] = len(CALL) + 8
    assert stream_chat(client, **asked)[-1].choices[0].finish_reason == chat(client, **asked).choices[0].finish_reason


def test_tools_that_are_not_to_be_called_are_left_out_of_the_prompt(client: openai.OpenAI) -> None:
    plain = chat(client, model="caller", max_completion_tokens=1)
    none = chat(client, model="caller", max_completion_tokens=1, tools=TOOLS, tool_choice="none")
    with_tools = chat(client, model="caller", max_completion_tokens=1, tools=TOOLS)
    assert numbers(none.usage) == numbers(plain.usage)
    assert numbers(with_tools.usage)[0] > numbers(plain.usage)[0]


def test_a_conversation_with_calls_and_results_is_rendered(client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 1}'}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    answer = chat(client, model="caller", messages=messages, tools=TOOLS, max_completion_tokens=1)
    assert numbers(answer.usage)[0] > 300


def test_tools_need_a_template_that_teaches_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="teaches no calls of tools") as raised:
        chat(client, tools=TOOLS)
    assert (raised.value.status_code, raised.value.param) == (501, "tools")


# Responses


def test_a_response_is_made_and_counted(client: openai.OpenAI) -> None:
    asked: Any = {"model": "gemma", "input": "Count to three.", "max_output_tokens": 6, "temperature": 0}
    answer = client.responses.create(**asked, instructions="Be brief.")
    assert (answer.object, answer.status, answer.model) == ("response", "incomplete", "gemma")
    assert answer.id.startswith("resp")
    assert answer.incomplete_details and answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 6
    assert answer.usage.total_tokens == answer.usage.input_tokens + 6
    # The same prompt as the chat's.
    assert answer.output_text == chat(client, max_completion_tokens=6).choices[0].message.content
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Count to three."}]}]
    same = client.responses.create(**(asked | {"input": items}), instructions="Be brief.")
    assert same.output_text == answer.output_text


def test_a_streamed_response_tells_its_parts_in_order(client: openai.OpenAI) -> None:
    asked: Any = {"model": "gemma", "input": "Count to three.", "max_output_tokens": 6, "temperature": 0}
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1]
    assert final.type == "response.incomplete"
    assert deltas == final.response.output_text == whole.output_text
    assert final.response.usage and whole.usage
    assert final.response.usage.total_tokens == whole.usage.total_tokens


def test_the_clients_helper_streams_and_parses_a_response(client: openai.OpenAI) -> None:
    asked: Any = {"model": "gemma", "input": DESCRIBE[0]["content"], "max_output_tokens": 400, "temperature": 0}
    parsed = client.responses.parse(**asked, text_format=Animal)
    assert parsed.status == "completed"
    assert isinstance(parsed.output_parsed, Animal)
    with client.responses.stream(**asked, text_format=Animal) as events:
        final = events.until_done().get_final_response()
    assert final.output_parsed == parsed.output_parsed


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
    ],
    ids=str,
)
def test_what_needs_memory_or_tools_is_refused_by_name(client: openai.OpenAI, change: Any, param: str) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.responses.create(model="gemma", input="a", **change)
    assert (raised.value.status_code, raised.value.param) == (501, param)
