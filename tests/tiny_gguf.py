"""A language model of 100 KB as a GGUF file, written by hand so that it can be made to lie.

It is a Llama of one layer whose tokens are the 256 bytes: what it writes is noise, in microseconds.
The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FILE = "model.gguf"

WIDTH, HIDDEN, CONTEXT = 32, 64, 2_048
#: Beginning, end and unknown, 256 bytes, a space.
TOKENS = 3 + 256 + 1

_F32 = 0
ALIGNMENT = 32

#: A value: what its type is in the format, and what it is. Arrays have the type of their elements in front.
Value = tuple[str, Any]
_TYPES = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q")}
_TEXT, _ARRAY = 8, 9


@dataclass
class Tensor:
    """A tensor as the header describes it; dimensions innermost first."""

    name: str
    dims: tuple[int, ...]
    kind: int = _F32
    #: Where it is said to lie in the data, where that is not the truth.
    offset: int | None = None

    def data(self, fill: float | None) -> bytes:
        """Ones for what vectors are scaled by, small noise for the rest, or `fill` everywhere."""
        count = int(np.prod(self.dims))
        if fill is not None:
            return np.full(count, fill, np.float32).tobytes()
        if len(self.dims) == 1:
            return np.ones(count, np.float32).tobytes()
        random = np.random.default_rng(list(self.name.encode()))
        return random.normal(0, 0.3, count).astype(np.float32).tobytes()


@dataclass
class Gguf:
    """A file in the making; what it claims may differ from what it holds."""

    keys: dict[str, Value] = field(default_factory=lambda: dict(_keys()))
    tensors: list[Tensor] = field(default_factory=lambda: list(_tensors()))
    magic: bytes = b"GGUF"
    version: int = 3
    claimed_keys: int | None = None
    claimed_tensors: int | None = None
    #: Each weight of each tensor.
    fill: float | None = None
    #: A key that is there once more.
    twice: str | None = None

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name, to be changed."""
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def header(self) -> bytes:
        """All that stands before the data."""
        data = [tensor.data(self.fill) for tensor in _tensors()]
        keys = [*self.keys.items(), *((key, self.keys[key]) for key in [self.twice] if key)]
        counts = (self._claimed(self.claimed_tensors, self.tensors), self._claimed(self.claimed_keys, keys))
        parts = [self.magic, struct.pack("<IQQ", self.version, *counts)]
        parts += [text(name) + value(content) for name, content in keys]
        place = 0
        for tensor, content in zip(self.tensors, data, strict=False):
            offset = place if tensor.offset is None else tensor.offset
            parts.append(described(tensor.name, tensor.dims, offset, tensor.kind))
            place += len(padded(content))
        return b"".join(parts)

    def whole(self) -> bytes:
        """The file: the tensors' data is what an honest header would announce."""
        return padded(self.header()) + b"".join(padded(tensor.data(self.fill)) for tensor in _tensors())

    def write(self, folder: Path, template: str | None = None) -> Path:
        """A model folder with this file, and a chat template beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(self.whole())
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return folder

    @staticmethod
    def _claimed(claim: int | None, things: list[Any]) -> int:
        return len(things) if claim is None else claim


def _keys() -> Iterator[tuple[str, Value]]:
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    yield "general.architecture", ("text", "llama")
    yield "general.alignment", ("u32", ALIGNMENT)
    for name, number in {
        "block_count": 1,
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": HIDDEN,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "rope.dimension_count": 8,
    }.items():
        yield f"llama.{name}", ("u32", number)
    yield "llama.attention.layer_norm_rms_epsilon", ("f32", 1e-5)
    yield "tokenizer.ggml.model", ("text", "llama")
    yield "tokenizer.ggml.tokens", ("texts", names)
    yield "tokenizer.ggml.scores", ("f32s", [0.0] * TOKENS)
    yield "tokenizer.ggml.token_type", ("i32s", [2, 3, 3, *[6] * 256, 1])
    for name, token in {"bos": 1, "eos": 2, "unknown": 0}.items():
        yield f"tokenizer.ggml.{name}_token_id", ("u32", token)


def _tensors() -> Iterator[Tensor]:
    square, half = (WIDTH, WIDTH), (WIDTH, WIDTH // 2)
    yield Tensor("token_embd.weight", (WIDTH, TOKENS))
    yield Tensor("output_norm.weight", (WIDTH,))
    for name, dims in {
        "attn_norm": (WIDTH,),
        "attn_q": square,
        "attn_k": half,
        "attn_v": half,
        "attn_output": square,
        "ffn_norm": (WIDTH,),
        "ffn_gate": (WIDTH, HIDDEN),
        "ffn_up": (WIDTH, HIDDEN),
        "ffn_down": (HIDDEN, WIDTH),
    }.items():
        yield Tensor(f"blk.0.{name}.weight", dims)


def text(content: str) -> bytes:
    """A text as the format writes it."""
    data = content.encode()
    return struct.pack("<Q", len(data)) + data


def value(typed: Value) -> bytes:
    """A value with its type in front."""
    kind, content = typed
    if kind == "raw":
        return bytes(content)
    if kind == "text":
        return struct.pack("<I", _TEXT) + text(content)
    if kind == "texts":
        return struct.pack("<IIQ", _ARRAY, _TEXT, len(content)) + b"".join(text(one) for one in content)
    if kind.endswith("s"):
        code, form = _TYPES[kind[:-1]]
        return struct.pack("<IIQ", _ARRAY, code, len(content)) + b"".join(struct.pack(form, one) for one in content)
    code, form = _TYPES[kind]
    return struct.pack("<I", code) + struct.pack(form, content)


def described(name: str, dims: tuple[int, ...], offset: int, kind: int = _F32) -> bytes:
    """A tensor as the header tells of it; dimensions innermost first."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def padded(data: bytes) -> bytes:
    """Filled up to where the next tensor may begin."""
    return data + bytes(-len(data) % ALIGNMENT)
