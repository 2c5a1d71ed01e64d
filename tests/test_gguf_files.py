"""GGUF files that lie: refused when they are loaded, in a sentence, with the server alive and other models writing."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

import projects
from conftest import GEMMA
from server import Server, serve_in_vain
from tiny_gguf import FILE, WIDTH, Gguf

#: All of Gemma's header, and some of its tensors.
HEAD_BYTES = 12 << 20

Change = Callable[[Gguf], Any]


def key(name: str, kind: str, value: Any) -> Change:
    return lambda gguf: gguf.keys.__setitem__(name, (kind, value))


def dims(name: str, *numbers: int) -> Change:
    return lambda gguf: setattr(gguf.tensor(name), "dims", numbers)


def claim(**claims: Any) -> Change:
    return lambda gguf: vars(gguf).update(claims)


def same_name(gguf: Gguf) -> None:
    gguf.tensor("blk.0.attn_q.weight").name = "blk.0.attn_k.weight"


#: A value as it stands in the file: its type's number and what follows.
def raw(kind: int, content: bytes) -> bytes:
    return struct.pack("<I", kind) + content


LIES: dict[str, Change] = {
    "another mark": claim(magic=b"GGML"),
    "big-endian": claim(magic=b"FUGG"),
    "version 0": claim(version=0),
    "version 1": claim(version=1),
    "a version to come": claim(version=4),
    "no tensors": claim(claimed_tensors=0),
    "a tensor too many": claim(claimed_tensors=12),
    "2^63 tensors": claim(claimed_tensors=2**63),
    "2^64 tensors": claim(claimed_tensors=2**64 - 1),
    "tensors that wrap": claim(claimed_tensors=2**61 + 11),
    "no keys": claim(claimed_keys=0),
    "2^64 keys": claim(claimed_keys=2**64 - 1),
    "a key twice": claim(twice="llama.block_count"),
    "alignment 0": key("general.alignment", "u32", 0),
    "alignment 3": key("general.alignment", "u32", 3),
    "alignment 2^31": key("general.alignment", "u32", 2**31),
    "alignment as text": key("general.alignment", "text", "32"),
    "alignment 4096": key("general.alignment", "u32", 4_096),
    "type 13": key("general.name", "raw", raw(13, bytes(8))),
    "type 2^32": key("general.name", "raw", raw(2**32 - 1, bytes(8))),
    "a text of 2^64": key("general.name", "raw", raw(8, struct.pack("<Q", 2**64 - 1))),
    "a text past the end": key("general.name", "raw", raw(8, struct.pack("<Q", 2**40))),
    "an array of 2^64": key("general.tags", "raw", raw(9, struct.pack("<IQ", 4, 2**64 - 1))),
    "an array that wraps": key("general.tags", "raw", raw(9, struct.pack("<IQ", 10, 2**61 + 1) + bytes(8))),
    "arrays in arrays": key("general.tags", "raw", raw(9, struct.pack("<IQ", 9, 1) * 10_000)),
    "no architecture": lambda gguf: gguf.keys.pop("general.architecture"),
    "an unknown architecture": key("general.architecture", "text", "llamb"),
    "an architecture with a path": key("general.architecture", "text", "../llama"),
    "a piece of a model": key("split.count", "raw", raw(2, struct.pack("<H", 3))),
    "an adapter": key("general.type", "text", "adapter"),
    "a file for pictures": key("general.architecture", "text", "clip"),
    "no layers": key("llama.block_count", "u32", 0),
    "2^32 layers": key("llama.block_count", "u32", 2**32 - 1),
    "a layer too many": key("llama.block_count", "u32", 2),
    "no heads": key("llama.attention.head_count", "u32", 0),
    "heads that do not divide": key("llama.attention.head_count", "u32", 5),
    "2^32 heads": key("llama.attention.head_count", "u32", 2**32 - 1),
    "more key heads than heads": key("llama.attention.head_count_kv", "u32", 8),
    "no key heads": key("llama.attention.head_count_kv", "u32", 0),
    "no context": key("llama.context_length", "u32", 0),
    "no width": key("llama.embedding_length", "u32", 0),
    "another width": key("llama.embedding_length", "u32", 2 * WIDTH),
    "width as text": key("llama.embedding_length", "text", "32"),
    "width as a fraction": key("llama.embedding_length", "f32", 32.0),
    "no hidden width": lambda gguf: gguf.keys.pop("llama.feed_forward_length"),
    "epsilon NaN": key("llama.attention.layer_norm_rms_epsilon", "f32", float("nan")),
    "epsilon below 0": key("llama.attention.layer_norm_rms_epsilon", "f32", -1.0),
    "an odd rotation": key("llama.rope.dimension_count", "u32", 7),
    "a wide rotation": key("llama.rope.dimension_count", "u32", 4_096),
    "2^32 experts": key("llama.expert_count", "u32", 2**32 - 1),
    "no vocabulary": lambda gguf: gguf.keys.pop("tokenizer.ggml.tokens"),
    "an empty vocabulary": key("tokenizer.ggml.tokens", "texts", []),
    "fewer tokens than rows": key("tokenizer.ggml.tokens", "texts", ["a", "b", "c"]),
    "tokens that are numbers": key("tokenizer.ggml.tokens", "u32s", [1] * 260),
    "fewer scores than tokens": key("tokenizer.ggml.scores", "f32s", [0.0]),
    "fewer types than tokens": key("tokenizer.ggml.token_type", "i32s", [1]),
    "no bytes": key("tokenizer.ggml.tokens", "texts", [f"<{number}>" for number in range(260)]),
    "a beginning beyond the vocabulary": key("tokenizer.ggml.bos_token_id", "u32", 10**6),
    "an end beyond the vocabulary": key("tokenizer.ggml.eos_token_id", "u32", 2**32 - 1),
    "an unknown tokenizer": key("tokenizer.ggml.model", "text", "../../x"),
    "dims of 2^63": dims("token_embd.weight", 2**63, 2),
    "dims that wrap": dims("blk.0.attn_q.weight", 2**62, 8),
    "dims that wrap to the right size": dims("blk.0.attn_q.weight", 2**59 + WIDTH, WIDTH),
    "dims of 0": dims("blk.0.attn_q.weight", 0, WIDTH),
    "dims that are too large": dims("blk.0.ffn_up.weight", WIDTH, 10**9),
    "dims the other way round": dims("blk.0.ffn_up.weight", 64, WIDTH),
    "a vocabulary of other dims": dims("token_embd.weight", WIDTH, 259),
    "no dims": dims("blk.0.attn_q.weight"),
    "five dims": dims("blk.0.attn_q.weight", WIDTH, WIDTH, 1, 1, 1),
    "an offset past the end": lambda gguf: setattr(gguf.tensor("output_norm.weight"), "offset", 2**40),
    "an offset that wraps": lambda gguf: setattr(gguf.tensor("output_norm.weight"), "offset", 2**64 - 32),
    "an odd offset": lambda gguf: setattr(gguf.tensor("output_norm.weight"), "offset", 33),
    "tensors on top of each other": lambda gguf: setattr(gguf.tensor("output_norm.weight"), "offset", 0),
    "an unknown number format": lambda gguf: setattr(gguf.tensor("blk.0.attn_q.weight"), "kind", 200),
    "a number format of the past": lambda gguf: setattr(gguf.tensor("blk.0.attn_q.weight"), "kind", 4),
    "a number format that is larger": lambda gguf: setattr(gguf.tensor("blk.0.ffn_down.weight"), "kind", 28),
    "two tensors of one name": same_name,
    "a tensor of another name": lambda gguf: setattr(gguf.tensor("output_norm.weight"), "name", "x" * 10_000),
    "weights that are no numbers": claim(fill=float("nan")),
    "a template that is broken": key("tokenizer.chat_template", "text", "{% for a in b %}"),
}


def write_lie(change: Change, folder: Path) -> None:
    gguf = Gguf()
    change(gguf)
    gguf.write(folder)


def gemma_head() -> bytes:
    with (GEMMA / FILE).open("rb") as file:
        return file.read(HEAD_BYTES)


def write_gemma(folder: Path, head: bytes, size: int | None = None) -> None:
    """A file that begins so, and goes on with nothing: it takes no room on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(head)
    os.truncate(folder / FILE, (GEMMA / FILE).stat().st_size if size is None else size)


def patched(at: int, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        head = gemma_head()
        write_gemma(folder, head[:at] + content + head[at + len(content) :])

    return write


def patched_after(name: bytes, content: bytes) -> Callable[[Path], None]:
    """Changes what follows the first mention of a key, and the number of its type."""

    def write(folder: Path) -> None:
        patched(gemma_head().index(name) + len(name) + 4, content)(folder)

    return write


def made(folder: Path) -> Path:
    """Where the model's file belongs, in a folder that is there."""
    folder.mkdir()
    return folder / FILE


def two_files(folder: Path) -> None:
    Gguf().write(folder)
    (folder / "other.gguf").write_bytes(Gguf().whole())


#: The same with a file that people use.
FILES: dict[str, Callable[[Path], None]] = {
    "cut off in the header": lambda folder: write_gemma(folder, gemma_head(), 3 << 20),
    "cut off in the tensors": lambda folder: write_gemma(folder, gemma_head(), HEAD_BYTES),
    "a byte short": lambda folder: write_gemma(folder, gemma_head(), (GEMMA / FILE).stat().st_size - 64),
    "another number of tensors": patched(8, struct.pack("<Q", 237)),
    "a huge number of tensors": patched(8, struct.pack("<Q", 2**60)),
    "another number of keys": patched(16, struct.pack("<Q", 34)),
    "another number of layers": patched_after(b"gemma3.block_count", struct.pack("<I", 17_000)),
    "another width": patched_after(b"gemma3.embedding_length", struct.pack("<I", 641)),
    "no heads": patched_after(b"gemma3.attention.head_count", struct.pack("<I", 0)),
    "an end beyond the vocabulary": patched_after(b"tokenizer.ggml.eos_token_id", struct.pack("<I", 262_144)),
    "empty": lambda folder: write_gemma(folder, b"", 0),
    "four bytes": lambda folder: write_gemma(folder, b"GGUF", 4),
    "zeros": lambda folder: write_gemma(folder, b""),
    "a link out": lambda folder: made(folder).symlink_to("/etc/passwd"),
    "a link to a device": lambda folder: made(folder).symlink_to("/dev/zero"),
    "a folder": lambda folder: (folder / FILE).mkdir(parents=True),
    "a pipe": lambda folder: os.mkfifo(made(folder)),
    "nothing": lambda folder: folder.mkdir(),
    "two files": two_files,
}
CASES: dict[str, Callable[[Path], None]] = {
    **{name: partial(write_lie, change) for name, change in LIES.items()},
    **{f"gemma: {name}": write for name, write in FILES.items()},
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose project names every bad file, none of them loaded at start."""
    folder = tmp_path_factory.mktemp("gguf")
    models = [projects.model("noise", Gguf().write(folder / "noise"), "generate", writing())]
    for number, write in enumerate(CASES.values()):
        write(folder / f"case{number}")
        models.append(projects.model(f"case{number}", folder / f"case{number}", "generate", writing(), preload=False))
    models.append(projects.model("changing", Gguf().write(folder / "changing"), "generate", writing(), preload=False))
    with projects.start(folder, models) as server:
        yield server
        server.end()


def writing() -> projects.Table:
    return projects.writing(cells=512)


def complete(target: Server, model: str = "noise") -> requests.Response:
    body: Any = {"model": model, "prompt": "a", "max_tokens": 2}
    return requests.post(f"{target.url}/v1/completions", json=body, timeout=60)


def state(target: Server, name: str) -> dict[str, str]:
    index = requests.post(f"{target.admin_url}/v2/repository/index", timeout=30).json()
    return next(entry for entry in index if entry["name"] == name)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_refused_with_a_reason(target: Server, case: str) -> None:
    name = f"case{list(CASES).index(case)}"
    before_mib = target.resident_mib()
    answer = target.load(name)
    assert target.alive(), f"the process ended:\n{target.log()[-2_000:]}"
    assert answer.status_code == 400, answer.text
    reason = answer.json()["error"]
    assert 20 < len(reason) < 600
    assert complete(target).status_code == 200
    assert target.resident_mib() < before_mib + 64
    # The operator finds it in the index and in the log; clients learn that it is not there, not why.
    assert state(target, name)["state"] == "UNAVAILABLE"
    assert state(target, name)["reason"]
    said = [line for line in target.log().splitlines() if f"model={name} " in line and "ERROR" in line]
    assert said, "the log says nothing"
    refused = complete(target, name)
    assert refused.status_code in (404, 503), refused.text
    assert "passwd" not in refused.text and "GGUF" not in refused.text


def test_a_file_changed_anywhere_never_ends_the_process(target: Server) -> None:
    """Most changes of a header are lies, some are another model; none is an end of the server."""
    path = target.project.parent / "changing" / FILE
    header = len(Gguf().header())
    # Most of it is the vocabulary; what describes the model stands around that.
    places = [*range(0, 700, 3), *range(700, header - 1_200, 257), *range(header - 1_200, header, 5)]
    outcomes = target.outcomes_of_changes("changing", path, places, lambda: complete(target, "changing"))
    assert set(outcomes) == {200, 400}
    assert target.load("changing").status_code == 200
    assert complete(target, "changing").status_code == 200
    # That each byte was seen: a folder whose changes go unnoticed would always load.
    assert min(outcomes.values()) > len(places) // 10, outcomes


@pytest.mark.parametrize("case", ["alignment 0", "dims that wrap", "gemma: cut off in the tensors"])
def test_a_server_that_has_to_have_a_bad_file_says_so_and_ends(tmp_path: Path, case: str) -> None:
    CASES[case](tmp_path / "model")
    path = projects.write(tmp_path, [projects.model("bad", tmp_path / "model", "generate")])
    done = serve_in_vain(path)
    assert done.returncode not in (0, -6, -11, 134, 139), done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "bad" in last and FILE in last, done.stderr


def test_a_server_whose_other_models_are_good_serves_them(target: Server) -> None:
    assert requests.get(f"{target.url}/health", timeout=30).status_code == 200
    assert state(target, "noise")["state"] == "READY"


def test_the_file_that_the_cases_change_is_a_model(target: Server) -> None:
    """The cases above fail for what they change, not for what they have in common."""
    answer = complete(target)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] > 0
