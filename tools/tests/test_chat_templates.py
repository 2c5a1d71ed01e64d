"""The chat templates that are written here, rendered as model libraries render theirs."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import jinja2
import jinja2.sandbox
import pytest

_FOLDER = Path(__file__).resolve().parents[1] / "setup" / "chat_templates"

Message = dict[str, object]


def _refuse(reason: str) -> NoReturn:
    raise jinja2.TemplateError(reason)


def _gemma3(*messages: Message, reply: bool = True) -> str:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    template = environment.from_string((_FOLDER / "gemma3.jinja").read_text(encoding="utf-8"))
    return template.render(messages=messages, bos_token="<bos>", add_generation_prompt=reply)


def _says(role: str, content: object) -> Message:
    return {"role": role, "content": content}


def test_a_question_opens_the_turn_of_the_model() -> None:
    expected = "<bos><start_of_turn>user\nHello<end_of_turn>\n"
    assert _gemma3(_says("user", " Hello\n"), reply=False) == expected
    assert _gemma3(_says("user", " Hello\n")) == f"{expected}<start_of_turn>model\n"


def test_the_system_message_opens_the_first_user_turn_alone() -> None:
    messages = [_says("system", "Be brief."), _says("user", "A?"), _says("assistant", "B."), _says("user", "C?")]
    assert _gemma3(*messages) == (
        "<bos><start_of_turn>user\nBe brief.\n\nA?<end_of_turn>\n"
        "<start_of_turn>model\nB.<end_of_turn>\n"
        "<start_of_turn>user\nC?<end_of_turn>\n"
        "<start_of_turn>model\n"
    )


def test_content_in_parts_is_read_as_one_text() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert _gemma3(_says("system", parts), _says("user", parts)) == _gemma3(
        _says("system", "one two"), _says("user", "one two")
    )


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([_says("assistant", "A")], "`user` was expected, not `assistant`"),
        ([_says("user", "A"), _says("user", "B")], "`assistant` was expected, not `user`"),
        ([_says("user", "A"), _says("system", "B")], "`assistant` was expected, not `system`"),
        ([_says("system", "A"), _says("system", "B")], "`user` was expected, not `system`"),
        ([_says("system", "A")], "a user message must follow"),
        ([_says("user", [{"type": "image_url"}])], "not `image_url`"),
        ([_says("user", None)], "text as its content"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_place_in_the_turns_is_refused(messages: list[Message], reason: str) -> None:
    with pytest.raises(jinja2.TemplateError, match=reason):
        _gemma3(*messages)
