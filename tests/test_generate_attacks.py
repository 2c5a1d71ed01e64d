"""Parameters, formats, conversations and chat templates that have broken servers of language models. What must
come back is a clear refusal or a bounded answer, with the process alive, memory flat, and the next request answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests

import projects
import tiny_gguf
from conftest import GEMMA, HERMES, Tiny
from refusals import GROWTH_MIB, assert_refused
from server import Server, wait_for

CELLS = 2_048
COMPLETIONS, CHATS, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"

pytestmark = pytest.mark.usefixtures("answers")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[Server]:
    """A server of a large vocabulary, of noise, and of noise with every template that is a bomb."""
    folder = tmp_path_factory.mktemp("generate")

    def noise(name: str, template: str | None = None, **more: Any) -> projects.Table:
        source = tiny_gguf.Gguf().write(folder / name, template)
        return projects.model(name, source, "generate", projects.writing(cells=CELLS), **more)

    models = [
        projects.model("tiny", tiny.embed.folder, "embed"),
        projects.model("gemma", GEMMA, "generate", projects.writing(cells=CELLS)),
        noise("noise"),
        noise("caller", HERMES),
        *(noise(f"bomb{number}", template) for number, template in enumerate(BOMBS.values())),
        *(noise(f"broken{number}", text, preload=False) for number, text in enumerate(BROKEN.values())),
    ]
    with projects.start(folder, models) as server:
        for model in ("gemma", "caller"):
            # What a vocabulary needs for formats is made with the first and stays.
            body = {"model": model, "prompt": "a", "guided_choice": ["a"]}
            assert ask(server, COMPLETIONS, body).status_code == 200
        yield server
        server.end()


@pytest.fixture
def answers(target: Server, lives: None) -> Iterator[None]:
    """After a test: language models answer, and nothing is left running."""
    yield
    wait_for("nothing to run", lambda: target.metric("halny_generation_running_requests") == 0)
    for model, path, more in (("gemma", COMPLETIONS, {"prompt": "a"}), ("caller", CHATS, {"messages": HELLO})):
        answer = ask(target, path, {"model": model, "max_tokens": 1, **more})
        assert answer.status_code == 200, answer.text


HELLO = [{"role": "user", "content": "Hello."}]


def ask(target: Server, path: str, body: dict[str, Any] | str) -> requests.Response:
    data = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": "application/json"}
    return requests.post(f"{target.url}{path}", data=data.encode(), headers=headers, timeout=120)


def complete(target: Server, **change: Any) -> requests.Response:
    return ask(target, COMPLETIONS, {"model": "gemma", "prompt": "a", "max_tokens": 2} | change)


def chat(target: Server, **change: Any) -> requests.Response:
    return ask(target, CHATS, {"model": "caller", "messages": HELLO, "max_tokens": 2} | change)


def nested(depth: int, begin: str, end: str) -> str:
    return begin * depth + end * depth


# Parameters


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-3", "1e38", "99999999999999999999", '"1"', "[]", "true"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "name",
    [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "n",
        "max_tokens",
        "logprobs",
        "best_of",
    ],
)
def test_a_number_that_is_none_or_out_of_range_is_refused(target: Server, name: str, number: str) -> None:
    # A `top_k` beyond the vocabulary means all of it, whatever its size.
    body = f'{{"model": "noise", "prompt": "a", "{name}": {number}}}'
    assert_refused(ask(target, COMPLETIONS, body), 400)


@pytest.mark.parametrize("number", ["NaN", "1e999", "1.5", "9223372036854775808", "-9223372036854775809", '"1"'])
def test_a_seed_that_is_no_whole_number_of_64_bits_is_refused(target: Server, number: str) -> None:
    assert_refused(ask(target, COMPLETIONS, f'{{"model": "noise", "prompt": "a", "seed": {number}}}'), 400)


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_any_64_bits_are_a_seed(target: Server, seed: int) -> None:
    assert complete(target, model="noise", seed=seed).status_code == 200


@pytest.mark.parametrize("number", ["NaN", "1e999", "-101", '"a"', "null", "[]"])
@pytest.mark.parametrize("key", ["5", "-5", "5.0", "99999999999", "", "five"])
def test_a_bias_that_is_none_is_refused(target: Server, key: str, number: str) -> None:
    body = f'{{"model": "noise", "prompt": "a", "logit_bias": {{"{key}": {number}}}}}'
    assert_refused(ask(target, COMPLETIONS, body), 400)


@pytest.mark.parametrize(
    "change",
    [
        {"n": 1_000_000},
        {"n": 129},
        {"prompt": ["a"] * 129},
        {"prompt": ["a"] * 65, "n": 2},
        {"max_tokens": 1_000_000_000},
        {"logit_bias": {str(token): 1 for token in range(100_000)}},
        {"logit_bias": {str(token): 1 for token in range(200_000)}},
        {"stop": ["x"] * 17},
        {"stop": ["x"] * 200_000},
        {"stop": ""},
        {"stop": ["x", ""]},
        {"stop": "x" * (1 << 20)},
        {"stop": 5},
        {"logprobs": 21},
        {"guided_choice": []},
        {"guided_choice": [""]},
        {"stream": "yes"},
        {"stream_options": 5},
    ],
    ids=lambda change: str(change)[:40],
)
def test_too_much_of_a_parameter_is_refused(target: Server, change: dict[str, Any]) -> None:
    assert_refused(complete(target, **change), 400, 413)


def test_as_many_answers_as_may_be_are_written(target: Server) -> None:
    answer = complete(target, model="noise", n=128, max_tokens=8, ignore_eos=True)
    assert len(answer.json()["choices"]) == 128
    assert answer.json()["usage"]["completion_tokens"] == 128 * 8


def test_alternatives_beyond_the_limit_are_refused(target: Server) -> None:
    assert_refused(chat(target, logprobs=True, top_logprobs=21), 400)
    assert_refused(chat(target, logprobs=True, top_logprobs=-1), 400)
    # A vocabulary of 260 tokens has 20; no more are made up.
    answer = chat(target, logprobs=True, top_logprobs=20).json()
    assert all(len(one["top_logprobs"]) == 20 for one in answer["choices"][0]["logprobs"]["content"])


def test_extreme_values_that_are_allowed_are_survived(target: Server) -> None:
    for change in (
        {"temperature": 1e-45},
        {"temperature": 2, "top_p": 1e-45, "min_p": 1.0},
        {"repetition_penalty": 1e-45, "prompt": "aaaa"},
        {"repetition_penalty": 10, "frequency_penalty": -2, "presence_penalty": -2},
        {"logit_bias": {str(token): -100 for token in range(260)}},
        {"logit_bias": {str(token): 100 for token in range(260)}, "temperature": 0},
        {"top_k": 2**62},
        {"stop": ["\u0000", "\ufffd", "🦀" * 64]},
        {"logprobs": 0, "n": 128, "stream": True},
    ):
        answer = complete(target, **({"model": "noise", "max_tokens": 16} | change))
        assert answer.status_code == 200, (change, answer.text[:300])


@pytest.mark.parametrize("prompt", ["", [[]], [], [[], [5]], [1, "a"], [-1], [260], [2**32], [1.5], None, {}])
def test_a_prompt_that_is_none_is_refused(target: Server, prompt: Any) -> None:
    # An empty text is the beginning of any.
    answer = complete(target, model="noise", prompt=prompt)
    if prompt == "":
        assert answer.status_code == 200
    else:
        assert_refused(answer, 400)


@pytest.mark.parametrize(
    "prompt",
    ["word " * 200_000, "a" * (1 << 20), "🦀" * (1 << 18), " " * (1 << 20), "\n" * (1 << 20), [5] * 1_000_000],
    ids=["words", "one word", "foreign", "spaces", "lines", "tokens"],
)
def test_a_prompt_of_a_megabyte_is_refused_with_its_length(target: Server, prompt: Any) -> None:
    assert str(CELLS) in assert_refused(complete(target, prompt=prompt), 400)
    # A template may strip the white space off a message.
    if isinstance(prompt, str) and prompt.strip():
        assert_refused(chat(target, model="gemma", messages=[{"role": "user", "content": prompt}]), 400)


def peak_growth_mib(target: Server, send: Callable[[], requests.Response]) -> float:
    """How much more memory the process held at worst while it answered."""
    before = target.resident_mib()
    target.forget_peak()
    send()
    return target.peak_mib() - before


def test_a_prompt_that_is_far_too_long_is_not_even_made_tokens_of(target: Server) -> None:
    body = {"prompt": "word " * (3 << 20)}
    assert peak_growth_mib(target, lambda: complete(target, **body)) < 4 * GROWTH_MIB


def test_texts_that_are_hard_to_make_tokens_of_do_not_stop_the_others(tmp_path: Path, tiny: Tiny) -> None:
    """llama.cpp takes 10 s for 100,000 characters that no token has, for 200,000 four times as long."""
    models = [
        projects.model("gemma", GEMMA, "generate", projects.writing(cells=32_768)),
        projects.model("tiny", tiny.embed.folder, "embed"),
    ]
    # Of a private use plane. Few enough bytes that they might fit.
    body = {"model": "gemma", "prompt": "\U000f0000" * 200_000}
    answered = Event()

    def keep_asking(server: Server) -> set[str]:
        refused = {assert_refused(ask(server, COMPLETIONS, body), 400)}
        while not answered.is_set():
            refused.add(assert_refused(ask(server, COMPLETIONS, body), 400))
        return refused

    with projects.start(tmp_path, models) as server, ThreadPoolExecutor(8) as pool:
        try:
            hard = [pool.submit(keep_asking, server) for _ in range(8)]
            # Some of the eight are always between two requests; one more is the one that asks.
            wait_for("most of the long texts to arrive", lambda: server.metric("halny_in_flight_requests") > 5)
            # Long enough to be made tokens of beside them, and not on the spot.
            asked = {"model": "tiny", "input": ["sun rain wind " * 10] * 8}
            answer = requests.post(f"{server.url}/v1/embeddings", json=asked, timeout=20)
            answered.set()
            refused = set().union(*(one.result(timeout=60) for one in hard))
        finally:
            answered.set()
            server.kill()
    assert answer.status_code == 200, answer.text
    assert refused and all("the prompt has 800001 tokens" in one for one in refused)


@pytest.mark.parametrize(
    "name",
    ["gemma:polish", "gemma:../../x", "../gemma", "gemma:", ":", "::", "gemma:gemma", "gemma\0", "GEMMA", "g" * 10_000]
    + ["gemma:" + "x" * 10_000, "gemma:%2e%2e", "gemma/../noise", ""],
    ids=lambda name: repr(name)[:24],
)
def test_a_name_that_is_no_models_or_adapters_is_unknown(target: Server, name: str) -> None:
    for path, more in ((COMPLETIONS, {"prompt": "a"}), (CHATS, {"messages": HELLO}), (RESPONSES, {"input": "a"})):
        assert_refused(ask(target, path, {"model": name, **more}), 404, sent=name)


# Formats


REFUSED_SCHEMAS: dict[str, Any] = {
    "many patterns": {"allOf": [{"type": "string", "pattern": f"a{{1,{count}}}b*"} for count in range(2, 102)]},
    "many options": {"anyOf": [{"const": str(number)} for number in range(10_000)]},
    "products": {
        "allOf": [
            {"anyOf": [{"properties": {f"p{one}-{other}": {"type": "integer"}}} for other in range(8)]}
            for one in range(20)
        ]
    },
    "itself": {"$ref": "#"},
    "a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "another document": {"$ref": "http://169.254.169.254/latest"},
    "a file": {"$ref": "file:///etc/passwd"},
    "nothing": {"$ref": "#/$defs/nothing"},
    "many properties": {"type": "object", "properties": {f"p{number}": {} for number in range(5_000)}},
    "no schema": 5,
    "false": False,
    "a list": [],
    "a bad pattern": {"type": "string", "pattern": "("},
    "a pattern of lookarounds": {"type": "string", "pattern": "(?=a)(?!b)(?<c>d)\\1"},
    "a long pattern": {"type": "string", "pattern": "a" * 50_000},
    "unheard of": {"type": "tuple"},
    "contradiction": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "a megabyte": {"enum": ["x" * (1 << 20)]},
    "a megabyte of arrays": {"enum": [[]] * 300_000},
}


@pytest.mark.parametrize("case", REFUSED_SCHEMAS)
def test_a_schema_that_cannot_be_kept_to_is_refused(target: Server, case: str) -> None:
    schema = REFUSED_SCHEMAS[case]
    format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert_refused(complete(target, guided_json=schema), 400, 413)
    assert_refused(chat(target, response_format=format), 400, 413)
    assert_refused(ask(target, RESPONSES, {"model": "caller", "input": "a", "text": {"format": format}}), 400, 413)


@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
@pytest.mark.parametrize(
    ("begin", "end"), [('{"properties": {"a": ', "}}"), ('{"not": ', "}"), ("[", "]"), ('{"items": ', "}")]
)
def test_a_schema_that_is_nested_deep_is_refused(target: Server, depth: int, begin: str, end: str) -> None:
    schema = nested(depth, begin, end).replace(": }", ": {}}", 1)
    for path, more in (
        (COMPLETIONS, f'"prompt": "a", "guided_json": {schema}'),
        (CHATS, f'"messages": [], "response_format": {{"type": "json_schema", "json_schema": {{"schema": {schema}}}}}'),
        (CHATS, f'"messages": [], "tools": [{{"function": {{"name": "f", "parameters": {schema}}}}}]'),
    ):
        assert_refused(ask(target, path, f'{{"model": "caller", {more}}}'), 400, 413)


def doubled(combine: Callable[[Any], Any]) -> dict[str, Any]:
    """30 definitions, each of which uses the next twice: a billion when written out."""
    defs = {f"d{level}": combine({"$ref": f"#/$defs/d{level + 1}"}) for level in range(30)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, "d30": {"type": "string"}}}


BOUNDED_FORMATS: dict[str, dict[str, Any]] = {
    "counts in counts": {"guided_regex": "((a{1,1000}){1,1000}){1,1000}"},
    "counts five deep": {"guided_regex": "(((((a{1,30}){1,30}){1,30}){1,30}){1,30})"},
    "many ways to match": {"guided_regex": "(a|b|ab)*c(a|b)*d.{0,900}x.{0,900}y"},
    "classic backtracking": {"guided_regex": "(a+)+(a*)*(a|aa)+b"},
    "classes of Unicode": {"guided_regex": r"(\p{L}{0,500}\p{N}{0,500}){0,50}"},
    "many states": {"guided_regex": "(.*a.{20})|(.*b.{20})|(.*c.{20})"},
    "a long count": {"guided_regex": ".{1000000}"},
    "counts in a pattern": {"guided_json": {"type": "string", "pattern": "^((a{1,300}){1,300}){1,300}$"}},
    "a long text": {"guided_json": {"type": "string", "minLength": 1_000_000, "maxLength": 2_000_000}},
    "a cube of items": {
        "guided_json": {
            "type": "array",
            "minItems": 1_000,
            "items": {"type": "array", "minItems": 1_000, "items": {"type": "array", "minItems": 1_000}},
        }
    },
    "doubled by allOf": {"guided_json": doubled(lambda next: {"allOf": [next, next]})},
    "doubled by anyOf": {"guided_json": doubled(lambda next: {"anyOf": [next, next]})},
    "doubled by properties": {"guided_json": doubled(lambda next: {"properties": {"l": next, "r": next}})},
    "a huge range": {"guided_json": {"type": "integer", "minimum": 1, "maximum": 10**300}},
    "a thousand properties": {
        "guided_json": {"type": "object", "properties": {f"p{number}": {} for number in range(1_000)}}
    },
    "a thousand choices": {"guided_choice": [f"{'x' * 50}{number}" for number in range(1_000)]},
    "an object of anything": {"response_format": {"type": "json_object"}},
}


@pytest.mark.parametrize("case", BOUNDED_FORMATS)
def test_a_format_that_explodes_is_bounded(target: Server, case: str) -> None:
    """Some of these are refused at once, some while they are written, some are simply kept to."""
    for model, tokens in (("gemma", 6), ("noise", 300)):
        body = {"model": model, "max_tokens": tokens, "temperature": 1, "seed": 4} | BOUNDED_FORMATS[case]
        answer = complete(target, **body)
        if answer.status_code != 200:
            assert_refused(answer, 400, 413)


def test_a_format_that_is_refused_in_a_stream_ends_it_with_an_error(target: Server) -> None:
    """A format that grows too complex while it is written: the text so far, an error, the end."""
    answer = complete(
        target, stream=True, guided_regex="(a|b|ab)*c(a|b)*d.{0,900}x.{0,900}y", model="noise", max_tokens=300
    )
    assert answer.status_code == 200
    assert answer.text.rstrip().endswith("data: [DONE]")


# Conversations


@pytest.mark.parametrize(
    "messages",
    [
        None,
        5,
        "Hello.",
        {},
        [],
        [[]],
        [None],
        [{}],
        [{"role": "user"}],
        [{"role": "root", "content": "a"}],
        [{"role": "", "content": "a"}],
        [{"role": None, "content": "a"}],
        [{"role": ["user"], "content": "a"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": {"text": "a"}}],
        [{"role": "user", "content": ["a"]}],
        [{"role": "user", "content": [{"text": "a"}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 5}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}],
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}],
        [{"role": "user", "content": [{"type": "file", "file": {"file_id": "../../etc/passwd"}}]}],
        [{"role": "user", "content": "a", "tool_calls": [{"id": "1"}]}],
        [{"role": "tool", "content": "a"}],
        [{"role": "assistant", "tool_calls": []}],
        [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[" * 100_000}}]}],
        [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "../f", "arguments": "{}"}}]}],
        [{"role": "assistant", "content": "a", "function_call": {"name": "f"}}],
        [{"role": "user", "content": "a", "name": 5}],
        [{"role": "user", "content": "a"}] * 5_000,
        [[]] * 100_000,
        [[]] * 1_000_000,
        [{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}],
    ],
    ids=lambda messages: str(messages)[:60],
)
def test_a_conversation_that_is_none_is_refused(target: Server, messages: Any) -> None:
    assert_refused(chat(target, messages=messages), 400, 413)


def test_a_conversation_that_is_nested_deep_is_refused(target: Server) -> None:
    deep = nested(100_000, "[", "]")
    for more in (
        f'"messages": {deep}',
        f'"messages": [{{"role": "user", "content": {deep}}}]',
        f'"messages": [], "tools": {deep}',
        f'"messages": [], "tool_choice": {deep}',
        f'"messages": [], "chat_template_kwargs": {{"a": {deep}}}',
    ):
        assert_refused(ask(target, CHATS, f'{{"model": "caller", {more}}}'), 400, 413)
    assert_refused(ask(target, RESPONSES, f'{{"model": "caller", "input": {deep}}}'), 400, 413)


def tool(name: Any = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


@pytest.mark.parametrize(
    "tools",
    [
        5,
        {},
        [None],
        [[]],
        [{"type": "function"}],
        [{"type": "web_search", "function": {"name": "f"}}],
        [tool(f"f{number}") for number in range(129)],
        [tool(""), tool("f")],
        [tool("f"), tool("f")],
        [tool("a b")],
        [tool("../f")],
        [tool("f\0")],
        [tool("é")],
        [tool("f" * 65)],
        [tool(5)],
        [tool("f", description=5)],
        [tool("f", parameters=5)],
        [tool("f", parameters={"enum": ["x" * 70_000]})],
        [[]] * 1_000_000,
    ],
    ids=lambda tools: str(tools)[:60],
)
def test_tools_that_are_none_are_refused(target: Server, tools: Any) -> None:
    assert_refused(chat(target, tools=tools, tool_choice="auto"), 400, 413)


@pytest.mark.parametrize("choice", [5, "always", [], {}, {"type": "function"}, tool("g"), tool("../f"), "required"])
def test_a_choice_of_no_tool_is_refused(target: Server, choice: Any) -> None:
    tools = None if choice == "required" else [tool("f")]
    assert_refused(chat(target, tools=tools, tool_choice=choice), 400)


@pytest.mark.parametrize("case", ["many patterns", "itself", "a file", "a bad pattern", "products"])
def test_a_tool_whose_schema_cannot_be_kept_to_is_refused(target: Server, case: str) -> None:
    tools = [tool("f", parameters=REFUSED_SCHEMAS[case])]
    answer = chat(target, tools=tools, tool_choice="required")
    if case == "itself":
        # A root within a call is an object within an object: a call can be written.
        assert answer.status_code in (200, 400)
    else:
        assert_refused(answer, 400, 413)


def test_as_many_messages_and_tools_as_may_be_are_read(target: Server) -> None:
    messages = [{"role": "user", "content": ""}] * 4_096
    # Read and rendered; then it is too long.
    assert str(CELLS) in assert_refused(chat(target, messages=messages), 400)
    tools = [tool(f"f{number}") for number in range(128)]
    assert str(CELLS) in assert_refused(chat(target, tools=tools, tool_choice="required"), 400)


@pytest.mark.parametrize("tools", [[5], ["a"], [tool("f")], {}, "a", 5])
def test_a_response_is_not_given_tools_of_any_form(target: Server, tools: Any) -> None:
    assert_refused(ask(target, RESPONSES, {"model": "caller", "input": "a", "tools": tools}), 400, 501)


FLOOD: list[Any] = [[]] * 3_000_000


@pytest.mark.parametrize(
    ("path", "change"),
    [
        pytest.param(CHATS, {"metadata": FLOOD}, id="what nobody reads"),
        pytest.param(CHATS, {"messages": FLOOD}, id="messages"),
        pytest.param(CHATS, {"tools": FLOOD}, id="tools"),
        pytest.param(CHATS, {"response_format": {"type": "json_schema", "schema": FLOOD}}, id="schema"),
        pytest.param(CHATS, {"chat_template_kwargs": {"a": FLOOD}}, id="chat_template_kwargs"),
        pytest.param(CHATS, {"tool_choice": FLOOD}, id="tool_choice"),
        pytest.param(RESPONSES, {"tools": FLOOD}, id="responses' tools"),
        pytest.param(RESPONSES, {"metadata": FLOOD}, id="responses' metadata"),
    ],
)
def test_twelve_megabytes_of_nothing_unfold_to_little(target: Server, path: str, change: Any) -> None:
    body = {"model": "caller", "messages": HELLO, "input": "a", "max_tokens": 1, "max_output_tokens": 1} | change
    assert peak_growth_mib(target, lambda: ask(target, path, body)) < GROWTH_MIB


# Chat templates


LOOP = "{% for a in range(100000) %}{% for b in range(100000) %}"
ENDLOOP = "{% endfor %}{% endfor %}"

#: Templates as a model from the internet may bring them: each would take all memory, or for ever.
BOMBS: dict[str, str] = {
    "doubling": "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "doubling by join": "{% set n = namespace(s='x') %}"
    "{% for i in range(60) %}{% set n.s = [n.s, n.s] | join %}{% endfor %}{{ n.s }}",
    "doubling by replace": "{% set n = namespace(s='x') %}"
    "{% for i in range(60) %}{% set n.s = n.s | replace('x', 'xx') %}{% endfor %}{{ n.s }}",
    "doubling lists": "{% set n = namespace(s=[1]) %}"
    "{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s | length }}",
    "sharing": "{% set n = namespace(s=['x']) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "for ever": LOOP + ENDLOOP,
    "for ever, writing": LOOP + "x" * 1_000 + ENDLOOP,
    "for ever, in vain": LOOP + "{% if a == b + 100000 %}{{ a }}{% endif %}" + ENDLOOP,
    "a macro of itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "two macros of each other": "{% macro f() %}{{ g() }}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a long range": "{{ range(1000000000000) | list | length }}",
    "a long product": "{{ 'x' * 1000000000000 }}",
    "a long list": "{{ ([1] * 10000000000) | length }}",
    "a large number": "{{ 9 ** 9 ** 9 ** 9 }}",
    "a wide field": "{{ 'x' | center(1000000000000) }}{{ '%01000000000d' % 1 }}{{ '{:>1000000000}'.format(1) }}",
    "a wide indent": "{{ messages | tojson(indent=1000000000) }}{{ 'a\nb' | indent(1000000000) }}",
    "nesting": "{% set n = namespace(v=[]) %}"
    "{% for i in range(1000000) %}{% set n.v = [n.v] %}{% endfor %}{{ n.v | tojson }}",
    "nesting maps": "{% set n = namespace(v={}) %}"
    "{% for i in range(1000000) %}{% set n.v = {'a': n.v} %}{% endfor %}{{ n.v }}",
    "a circle": "{% set n = namespace() %}{% set n.n = n %}{{ n }}{{ n | tojson }}{{ [n] == [n] }}",
    "sorting": "{% for i in range(100000) %}{% set x = range(100000) | map('string') | sort | list %}{% endfor %}",
    "slices": "{% set n = namespace(v=range(100000) | list) %}"
    "{% for i in range(100000) %}{% set n.v = n.v[::1] %}{% endfor %}",
    "splits": "{% for i in range(100000) %}{% set x = ('a ' * 100000).split(' ') %}{% endfor %}",
    "the inside": "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "its own error": "{{ raise_exception('x' * 10000000) }}",
    "a page of errors": "{{ raise_exception('/etc/passwd and 127.0.0.1 are what it says') }}",
}
#: Templates that are refused when they are read, and with them their models.
BROKEN: dict[str, str] = {
    "a file": "{% include '/etc/passwd' %}",
    "an import": "{% import '/etc/passwd' as f %}",
    "half a template": "{% for a in messages %}",
    "blocks in blocks": nested(100_000, "{% if 1 %}", "{% endif %}"),
    "brackets in brackets": "{{ " + nested(100_000, "(", ")") + " }}",
    "lists in lists": "{{ " + nested(20_000, "[", "]") + " }}",
    "a megabyte": "x" * (1 << 20),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_template_that_is_a_bomb_is_refused_and_the_model_still_completes(target: Server, case: str) -> None:
    model = f"bomb{list(BOMBS).index(case)}"
    assert peak_growth_mib(target, lambda: assert_bounded(chat(target, model=model))) < 2 * GROWTH_MIB
    assert complete(target, model=model).status_code == 200


@pytest.mark.parametrize("case", BROKEN)
def test_a_template_that_cannot_be_read_is_refused_with_its_model(target: Server, case: str) -> None:
    model = f"broken{list(BROKEN).index(case)}"
    answer = target.load(model)
    assert answer.status_code == 400, answer.text
    assert "chat template" in answer.json()["error"]
    assert_refused(chat(target, model=model), 404, 503)


def assert_bounded(answer: requests.Response) -> requests.Response:
    """A template may write something short; what it may not is to take long or to say more than it should."""
    if answer.status_code != 200:
        error = answer.json()["error"]["message"]
        assert answer.status_code in (400, 413, 500), answer.text[:300]
        assert 8 < len(error) < 600
        assert "root:" not in error
    return answer


def test_bombs_side_by_side_leave_the_others_their_answers(target: Server) -> None:
    """Rendering has its own threads and its own bounds: an embedding does not wait for a hundred bombs."""
    names = [f"bomb{number}" for number in range(len(BOMBS))]
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(chat, target, model=name) for name in names]
        body = {"model": "tiny", "input": "sun"}
        assert requests.post(f"{target.url}/v1/embeddings", json=body, timeout=60).status_code == 200
        for future in sent:
            assert_bounded(future.result())


def test_variables_of_the_request_cannot_replace_the_templates_own(target: Server) -> None:
    for name in ("messages", "tools", "bos_token", "eos_token", "add_generation_prompt"):
        assert_refused(chat(target, chat_template_kwargs={name: "x"}), 400)
    assert_refused(chat(target, chat_template_kwargs=5), 400)
    assert chat(target, chat_template_kwargs={"enable_thinking": False, "__class__": 1}).status_code == 200


def test_a_template_in_a_request_is_not_run(target: Server) -> None:
    """vLLM and others take `chat_template` from requests; here it is the operator's."""
    template = BOMBS["for ever, writing"]
    answer = chat(target, chat_template=template, chat_template_kwargs={"chat_template": template})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert answer.json()["usage"]["prompt_tokens"] < 100


# Everything at once


def test_many_heavy_requests_leave_memory_where_it_was(target: Server) -> None:
    def heavy() -> None:
        assert complete(target, model="noise", n=128, max_tokens=20, prompt="a" * 1_500).status_code == 200
        assert complete(target, model="noise", n=64, max_tokens=20, logprobs=20, stream=True).status_code == 200
        for case in ("a thousand properties", "counts in counts", "many states"):
            complete(target, model="noise", max_tokens=20, n=8, **BOUNDED_FORMATS[case])
        chat(target, messages=[{"role": "user", "content": "a"}] * 4_096)

    for _ in range(2):
        heavy()
    before_mib = target.resident_mib()
    for _ in range(5):
        heavy()
    assert target.resident_mib() < before_mib + 48


def test_clients_that_leave_at_once_leave_nothing_running(target: Server) -> None:
    body: Any = {"model": "noise", "prompt": "a", "n": 16, "max_tokens": 1_500, "stream": True, "ignore_eos": True}
    for _ in range(40):
        with requests.post(f"{target.url}{COMPLETIONS}", json=body, stream=True, timeout=30) as answer:
            next(answer.iter_content(16))
    wait_for("nothing to run", lambda: target.metric("halny_generation_running_requests") == 0)
    assert target.metric("halny_generation_cells_ratio", model="noise") == 0


def test_answers_that_nobody_reads_are_bounded(target: Server) -> None:
    """A client that asks for much and reads nothing holds no more than what it asked for."""
    body: Any = {"model": "noise", "prompt": "a", "n": 64, "max_tokens": 1_500, "logprobs": 20, "stream": True}
    before_mib = target.resident_mib()
    with requests.post(f"{target.url}{COMPLETIONS}", json=body, stream=True, timeout=60):
        # The model has written everything, and the connection's buffers are full.
        wait_for("all to be written", lambda: target.metric("halny_generation_running_requests", model="noise") == 0)
        assert target.resident_mib() < before_mib + 4 * GROWTH_MIB
