"""Language models among many clients: giving up, refusals, the open protocol, metrics, sharing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
import requests
from openai.types import Completion

from conftest import WRITER_CELLS
from refusals import assert_refused
from server import Server, series, wait_for
from writing import (
    COUNTED,
    COUNTED_TOKENS,
    COUNTING,
    WEEK,
    aborted,
    chat,
    complete,
    numbers,
    opened,
    opened_chat,
    running,
)


def asking(writer: Server) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(**writer.openai)


# Giving up


def close_stream(client: openai.OpenAI) -> None:
    with opened_chat(client, stream=True, max_completion_tokens=3_000, extra_body={"ignore_eos": True}) as events:
        for _, _event in zip(range(3), events, strict=False):
            pass


def give_up_whole(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        complete(client.with_options(timeout=0.5), max_tokens=3_000, extra_body={"ignore_eos": True})


def close_several(client: openai.OpenAI) -> None:
    with opened(client, stream=True, n=4, max_tokens=900, extra_body={"ignore_eos": True}) as events:
        next(iter(events))


@pytest.mark.parametrize(
    ("give_up", "count"), [(close_stream, 1), (give_up_whole, 1), (close_several, 4)], ids=["stream", "whole", "n=4"]
)
def test_nothing_is_written_for_a_client_that_left(
    writer: Server, client: openai.OpenAI, give_up: Callable[[openai.OpenAI], None], count: int
) -> None:
    wait_for("nothing to run", lambda: running(writer) == 0)
    before = aborted(writer)
    give_up(client)
    wait_for("the requests to be given up", lambda: aborted(writer) == before + count)
    wait_for("their cells to be free", lambda: running(writer) == 0)
    assert writer.metric("halny_generation_cells_ratio", model="gemma") == 0
    assert complete(client).choices[0].text == COUNTED


# Refusals


def test_the_model_is_listed_with_what_it_holds(client: openai.OpenAI) -> None:
    told = client.models.retrieve("gemma").model_dump()
    assert told in [model.model_dump() for model in client.models.list()]
    assert (told["task"], told["max_model_len"], told["vocabulary"]) == ("generate", WRITER_CELLS, 262_144)
    assert (told["chat"], told["adapters"]) == (True, [])
    assert told["profiles"] == [{"name": "default", "device": "cpu", "precision": "Q4_K_M"}]
    assert client.models.retrieve("noise").model_dump()["chat"] is False


@pytest.mark.parametrize("name", ["gemma:polish", "gemma:", "gemma:../x", "nothing", "nothing:polish"])
def test_an_unknown_model_or_adapter_is_not_found(client: openai.OpenAI, name: str) -> None:
    for ask in (complete, chat):
        with pytest.raises(openai.NotFoundError) as raised:
            ask(client, model=name)
        assert raised.value.param == "model"


def test_what_a_model_does_not_do_says_where_to_go(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="/v1/chat/completions"):
        client.embeddings.create(model="gemma", input="a")
    for ask in (complete, chat):
        with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
            ask(client, model="tiny")
    with pytest.raises(openai.BadRequestError, match="/v1/completions"):
        chat(client, model="noise")


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    long = "word " * (WRITER_CELLS + 100)
    for ask in (
        lambda: complete(client, prompt=long),
        lambda: complete(client, prompt=[5] * (WRITER_CELLS + 1), stream=True),
        lambda: chat(client, messages=[{"role": "user", "content": long}]),
        lambda: client.responses.create(model="gemma", input=long),
        lambda: complete(client, max_tokens=WRITER_CELLS),
    ):
        with pytest.raises(openai.BadRequestError, match=rf"\d+ tokens .* holds {WRITER_CELLS} in all"):
            ask()


def test_a_deadline_that_cannot_be_met_gives_504(client: openai.OpenAI) -> None:
    for ask in (complete, chat):
        with pytest.raises(openai.InternalServerError) as raised:
            ask(client, extra_headers={"x-halny-deadline-ms": "1"})
        assert (raised.value.status_code, raised.value.type) == (504, "server_error")
        assert "retry-after" not in raised.value.response.headers


def test_a_deadline_that_passes_in_a_stream_is_said_in_the_stream(writer: Server, client: openai.OpenAI) -> None:
    asked: Any = {"max_tokens": 3_000, "stream": True, "extra_headers": {"x-halny-deadline-ms": "1500"}}
    text = ""
    with pytest.raises(openai.APIError, match="deadline"):
        for chunk in opened(client, **asked):
            text += chunk.choices[0].text
    assert text.startswith(COUNTED[:3])
    wait_for("its cells to be free", lambda: running(writer) == 0)


def assert_bad(ask: Callable[[], Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask()
    assert raised.value.type == "invalid_request_error"
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": []}, "prompt"),
        ({"logit_bias": {"cat": 1}}, "logit_bias"),
        ({"logit_bias": {"262144": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"stop": [""]}, "stop"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"extra_body": {"top_k": -2}}, "top_k"),
        ({"extra_body": {"response_format": {"type": "yaml"}}}, "response_format"),
        ({"extra_body": {"guided_regex": "a", "guided_choice": ["a"]}}, "guided_choice"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_request_raises_what_openai_raises(client: openai.OpenAI, change: Any, param: str) -> None:
    assert_bad(lambda: complete(client, **change), param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "chat_template_kwargs.messages"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_chat_raises_what_openai_raises(client: openai.OpenAI, change: Any, param: str) -> None:
    assert_bad(lambda: chat(client, **change), param)


# The Open Inference Protocol


def generate(writer: Server, path: str = "generate", model: str = "gemma", **change: Any) -> requests.Response:
    body: dict[str, Any] = {"text_input": COUNTING, "parameters": {"max_tokens": COUNTED_TOKENS, "temperature": 0}}
    return requests.post(f"{writer.url}/v2/models/{model}/{path}", json=body | change, timeout=120)


def test_the_open_protocol_generates(writer: Server) -> None:
    version = writer.version("gemma")
    answer = generate(writer, id="42").json()
    assert answer == {"id": "42", "model_name": "gemma", "model_version": version, "text_output": COUNTED}
    details = {"max_new_tokens": COUNTED_TOKENS, "temperature": 0, "details": True, "stop": "7"}
    answer = generate(writer, parameters=details).json()
    assert answer["text_output"] == " 5, 6, "
    assert answer["details"]["finish_reason"] == "stop"
    assert answer["details"]["prompt_tokens"] == 12


def test_the_open_protocol_streams(writer: Server) -> None:
    answer = generate(writer, "generate_stream", id="42")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert "".join(event["text_output"] for event in events) == COUNTED
    assert len(events) > 3
    assert {(event["model_name"], event["id"]) for event in events} == {("gemma", "42")}


def test_the_open_protocol_refuses_in_its_own_shape(writer: Server) -> None:
    for answer, status in (
        (generate(writer, model="nothing"), 404),
        (generate(writer, model="tiny"), 400),
        (generate(writer, path="versions/7/generate"), 404),
        (generate(writer, parameters={"n": 2}), 400),
        (generate(writer, parameters={"temperature": -1}), 400),
        (generate(writer, parameters=[1]), 400),
        (generate(writer, text_input=5), 400),
    ):
        assert_refused(answer, status)
        assert isinstance(answer.json()["error"], str)


# Metrics


def test_dashboards_made_for_vllm_find_their_series(writer: Server, client: openai.OpenAI) -> None:
    def now() -> dict[str, float]:
        text = requests.get(f"{writer.admin_url}/metrics", timeout=30).text
        ours = [(key, value) for key, value in series(text) if key.startswith("vllm:") and 'model_name="gemma"' in key]
        return {key.partition("{")[0]: value for key, value in ours if "finished_reason" not in key}

    wait_for("what ran before to be counted", lambda: running(writer) == 0)
    before = now()
    answer = complete(client)
    wait_for("the request to be counted", lambda: now()["vllm:num_requests_running"] == 0)
    after = now()
    rise = {name: after[name] - before[name] for name in after}
    assert rise["vllm:generation_tokens_total"] == numbers(answer.usage)[1]
    assert rise["vllm:prompt_tokens_total"] == numbers(answer.usage)[0]
    assert rise["vllm:time_to_first_token_seconds_count"] == rise["vllm:e2e_request_latency_seconds_count"] == 1
    assert rise["vllm:inter_token_latency_seconds_count"] == COUNTED_TOKENS - 1
    assert rise["vllm:prefix_cache_queries_total"] == numbers(answer.usage)[0]
    assert {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:num_preemptions_total"} <= after.keys()
    assert writer.metric("vllm:request_success", model_name="gemma", finished_reason="length") > 0


# Sharing


def cached(answer: Completion) -> int:
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    return answer.usage.prompt_tokens_details.cached_tokens or 0


def test_a_prompt_that_was_read_is_not_read_again(client: openai.OpenAI) -> None:
    # Nothing before it begins with these words.
    prompt = "Letters: " + "x, y, z, " * 33 + "x,"
    first = complete(client, prompt=prompt, max_tokens=6)
    second = complete(client, prompt=prompt, max_tokens=6)
    count = numbers(first.usage)[0]
    assert count > 180
    assert cached(first) < 10
    # The last token is computed for what follows it.
    assert count - 16 <= cached(second) < count
    assert second.choices[0].text == first.choices[0].text
    longer = complete(client, prompt=f"{prompt} y,", max_tokens=1)
    assert cached(longer) >= count - 16


def test_clients_at_once_get_what_they_would_get_alone(writer: Server, client: openai.OpenAI) -> None:
    prompts = [f"{', '.join(str(number) for number in range(first, first + 6))}," for first in range(10, 90, 5)]
    alone = [complete(client, prompt=prompt, max_tokens=8) for prompt in prompts]

    async def ask_all() -> list[Completion]:
        async with asking(writer) as client:
            asked = (
                client.completions.create(model="gemma", prompt=prompt, max_tokens=8, temperature=0)
                for prompt in prompts
            )
            return await asyncio.gather(*asked)

    # Answers leave before the step that wrote them is counted.
    wait_for("all steps to be counted", lambda: running(writer) == 0)
    before = writer.metric("halny_generation_written_tokens", model="gemma")
    together = asyncio.run(ask_all())
    wait_for("all steps to be counted", lambda: running(writer) == 0)
    written = writer.metric("halny_generation_written_tokens", model="gemma") - before
    assert [numbers(answer.usage) for answer in together] == [numbers(answer.usage) for answer in alone]
    assert sum(numbers(answer.usage)[1] for answer in together) == written
    same = sum(a.choices[0].text == b.choices[0].text for a, b in zip(together, alone, strict=True))
    # Sums of a batch are rounded otherwise: a choice between two equally likely tokens may turn.
    assert same >= len(prompts) - 2


def test_the_asynchronous_client_streams_side_by_side(writer: Server) -> None:
    async def one(client: openai.AsyncOpenAI, prompt: str) -> str:
        text = ""
        events = await client.completions.create(model="gemma", prompt=prompt, max_tokens=2, temperature=0, stream=True)
        async for chunk in events:
            text += "".join(choice.text for choice in chunk.choices)
        return text

    async def both() -> list[str]:
        async with asking(writer) as client:
            whole = client.completions.create(model="gemma", prompt=COUNTING, max_tokens=2, temperature=0)
            *texts, answer = await asyncio.gather(one(client, COUNTING), one(client, WEEK), whole)
            return [*texts, answer.choices[0].text]

    assert asyncio.run(both()) == [" 5", " Thursday,", " 5"]
