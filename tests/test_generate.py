"""Language models behind the unmodified `openai` client's completions: texts, streams, logprobs, formats."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from writing import COUNTED, COUNTED_TOKENS, COUNTING, USAGE, WEEK, complete, joined, numbers, stream

#: "The cat" and " cat" in Gemma's vocabulary.
THE_CAT, CAT = [2, 818, 5866], 5866
#: Each of these is several tokens, and the tokens of the last three are parts of characters.
FOREIGN = "日本語é🦀𓂀ঔ"


def test_a_text_is_continued_and_counted(client: openai.OpenAI) -> None:
    answer = complete(client)
    assert (answer.object, answer.model) == ("text_completion", "gemma")
    assert answer.id.startswith("cmpl-")
    assert [(one.index, one.text, one.finish_reason) for one in answer.choices] == [(0, COUNTED, "length")]
    # Eleven characters are a token each, and one begins the text.
    assert numbers(answer.usage)[:2] == (12, COUNTED_TOKENS)


def test_an_answer_has_sixteen_tokens_where_nothing_is_said(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="noise", prompt="a", extra_body={"ignore_eos": True})
    assert numbers(answer.usage)[1] == 16


def test_each_text_of_a_list_gets_its_own_answers_in_order(client: openai.OpenAI) -> None:
    answer = complete(client, prompt=[COUNTING, WEEK], n=2, max_tokens=2)
    assert [one.index for one in answer.choices] == [0, 1, 2, 3]
    assert [one.text for one in answer.choices] == [" 5", " 5", " Thursday,", " Thursday,"]
    alone = [complete(client, prompt=text, max_tokens=2) for text in (COUNTING, WEEK)]
    # A prompt is counted once, however many answers it has.
    assert numbers(answer.usage)[0] == sum(numbers(one.usage)[0] for one in alone)
    assert numbers(answer.usage)[1] == 8


def test_tokens_are_continued_as_their_text_is(client: openai.OpenAI) -> None:
    text = complete(client, prompt="The cat", max_tokens=4)
    tokens = complete(client, prompt=THE_CAT, max_tokens=4)
    lists = complete(client, prompt=[THE_CAT, THE_CAT], max_tokens=4)
    assert tokens.choices[0].text == text.choices[0].text
    assert [one.text for one in lists.choices] == [text.choices[0].text] * 2
    assert numbers(tokens.usage) == numbers(text.usage)


@pytest.mark.parametrize("prompt", ["The cat", THE_CAT], ids=["text", "tokens"])
def test_echo_puts_the_prompt_in_front(client: openai.OpenAI, prompt: Any) -> None:
    plain = complete(client, prompt=prompt, max_tokens=3).choices[0].text
    assert complete(client, prompt=prompt, max_tokens=3, echo=True).choices[0].text == f"The cat{plain}"
    assert joined(stream(client, prompt=prompt, max_tokens=3, echo=True)) == f"The cat{plain}"


def test_equal_seeds_give_equal_texts_and_others_do_not(client: openai.OpenAI) -> None:
    def texts(seed: int) -> list[str]:
        answer = complete(client, model="noise", prompt="a", n=3, max_tokens=32, temperature=1, seed=seed)
        return [one.text for one in answer.choices]

    first = texts(7)
    assert texts(7) == first
    assert texts(-7) != first
    assert len(set(first)) == 3, "answers to one request differ"


def test_a_seed_repeats_what_the_large_model_draws(client: openai.OpenAI) -> None:
    # The first reads the whole prompt, the others find it read: only those compute the same sums.
    texts = [complete(client, prompt="Once", temperature=1, seed=11, max_tokens=12).choices[0].text for _ in range(3)]
    assert texts[1] == texts[2]


def test_temperature_zero_repeats_itself(client: openai.OpenAI) -> None:
    texts = {complete(client, model="noise", prompt="a", max_tokens=64).choices[0].text for _ in range(3)}
    assert len(texts) == 1
    assert {complete(client).choices[0].text for _ in range(2)} == {COUNTED}


def test_logit_bias_forces_a_token_and_forbids_another(client: openai.OpenAI) -> None:
    def text(**change: Any) -> str:
        return complete(client, prompt="The", max_tokens=2, **change).choices[0].text

    assert complete(client, prompt=[CAT], echo=True, max_tokens=1).choices[0].text.startswith(" cat")
    assert text(logit_bias={str(CAT): 100}) == " cat cat"
    # 236743 is a space and 236810 a 5.
    assert complete(client, logit_bias={"236810": -100}, max_tokens=2).choices[0].text != COUNTED[:2]


def test_penalties_and_filters_change_what_is_written(client: openai.OpenAI) -> None:
    repeated = {"prompt": "no no no no no no no no", "max_tokens": 4}
    assert complete(client, **repeated).choices[0].text == " no no no no"
    found = complete(client, **repeated, frequency_penalty=2, presence_penalty=2, extra_body={"repetition_penalty": 10})
    assert found.choices[0].text != " no no no no"
    for one_token_is_left in ({"top_p": 1e-6}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1}}):
        assert complete(client, temperature=2, **one_token_is_left).choices[0].text == COUNTED


@pytest.mark.parametrize(
    ("stop", "expected"),
    [("7", " 5, 6, "), ("6, 7", " 5, "), (["zzz", ", 7", "7"], " 5, 6"), ([" 5"], ""), ("zzz", COUNTED)],
    ids=str,
)
def test_a_stop_string_ends_the_text_and_is_in_no_chunk(client: openai.OpenAI, stop: Any, expected: str) -> None:
    whole = complete(client, stop=stop).choices[0]
    assert whole.text == expected
    assert whole.finish_reason == ("length" if stop == "zzz" else "stop")
    chunks = stream(client, stop=stop)
    assert joined(chunks) == expected, [chunk.choices for chunk in chunks]
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_a_stop_string_is_kept_where_that_is_asked_for(client: openai.OpenAI) -> None:
    kept = {"include_stop_str_in_output": True}
    assert complete(client, stop="6, 7", extra_body=kept).choices[0].text == " 5, 6, 7"
    assert joined(stream(client, stop="6, 7", extra_body=kept)) == " 5, 6, 7"


def test_logprobs_are_those_of_the_tokens_of_the_text(client: openai.OpenAI) -> None:
    choice = complete(client, logprobs=3).choices[0]
    found = choice.logprobs
    assert found is not None
    assert found.tokens and found.token_logprobs and found.top_logprobs and found.text_offset
    assert "".join(found.tokens) == choice.text == COUNTED
    for token, logprob, top, offset in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset, strict=True
    ):
        assert choice.text.startswith(token, offset)
        assert len(top) == 3
        assert all(value <= 0 for value in top.values())
        # At temperature 0 the likeliest token is the one that is written.
        assert max(top.values()) == top[token] == logprob


def test_streamed_logprobs_are_those_of_the_whole_answer(client: openai.OpenAI) -> None:
    whole = complete(client, logprobs=2).choices[0].logprobs
    parts = [chunk.choices[0].logprobs for chunk in stream(client, logprobs=2)]
    assert whole is not None
    assert [token for part in parts if part for token in part.tokens or []] == whole.tokens
    assert [offset for part in parts if part for offset in part.text_offset or []] == whole.text_offset


def test_offsets_point_into_the_text_where_tokens_are_parts_of_characters(client: openai.OpenAI) -> None:
    choice = complete(client, max_tokens=40, logprobs=1, extra_body={"guided_choice": [FOREIGN]}).choices[0]
    assert choice.text == FOREIGN
    assert choice.logprobs is not None
    assert choice.logprobs.text_offset
    assert max(choice.logprobs.text_offset) < len(FOREIGN)


@pytest.mark.parametrize("usage", [{}, USAGE], ids=["plain", "with usage"])
def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI, usage: Any) -> None:
    whole = complete(client)
    chunks = stream(client, **usage)
    assert joined(chunks) == whole.choices[0].text
    assert {(chunk.id, chunk.object, chunk.model) for chunk in chunks} == {(chunks[0].id, "text_completion", "gemma")}
    said = chunks
    if usage:
        *said, last = chunks
        assert not last.choices
        assert numbers(last.usage) == numbers(whole.usage)
    assert all(chunk.usage is None for chunk in said)
    reasons = [choice.finish_reason for chunk in said for choice in chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    # More than one write: it is not the whole answer that is sent at the end.
    assert len(said) > 3


def test_a_stream_of_several_answers_keeps_them_apart(client: openai.OpenAI) -> None:
    asked: Any = {"model": "noise", "prompt": ["a", "b"], "n": 2, "temperature": 1, "seed": 3, "max_tokens": 24}
    whole = complete(client, **asked)
    chunks = stream(client, **asked, **USAGE)
    assert [joined(chunks, index) for index in range(4)] == [one.text for one in whole.choices]
    assert numbers(chunks[-1].usage) == numbers(whole.usage)
    ends = [one.index for chunk in chunks for one in chunk.choices if one.finish_reason]
    assert sorted(ends) == [0, 1, 2, 3]


# UTF-8


@pytest.mark.parametrize(
    "format",
    [
        {"guided_choice": [FOREIGN]},
        {"guided_regex": FOREIGN},
        {"structured_outputs": {"choice": [FOREIGN]}},
        {"guided_json": {"enum": [FOREIGN]}},
    ],
    ids=lambda format: next(iter(format)),
)
@pytest.mark.parametrize("model", ["gemma", "noise"])
def test_no_chunk_ends_within_a_character(client: openai.OpenAI, model: str, format: Any) -> None:
    expected = json.dumps(FOREIGN, ensure_ascii=False) if "guided_json" in format else FOREIGN
    chunks = stream(client, model=model, max_tokens=60, extra_body=format)
    # JSON may write any character as `\u....`; what it stands for is the same.
    read = json.loads if "guided_json" in format else str
    assert read(joined(chunks)) == read(expected)
    assert not any("\ufffd" in choice.text for chunk in chunks for choice in chunk.choices)
    assert chunks[-1].choices[0].finish_reason == "stop"
