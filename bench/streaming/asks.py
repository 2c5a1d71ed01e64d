"""What is asked: prompts cut from real texts, with lengths drawn from the Azure conversation trace.

The trace's quantiles (Azure public dataset, "AzureLLMInferenceTrace_conv"; Patel et al., "Splitwise",
ISCA 2024) are what is known of it here; between two of them lengths are drawn evenly.
"""

from __future__ import annotations

import bisect
import json
import random
import urllib.request
from pathlib import Path

from streaming.streams import Ask

_SHARES = (0.05, 0.25, 0.50, 0.75, 0.90)
_INPUT_TOKENS = (181, 396, 1020, 1189, 2735)
_OUTPUT_TOKENS = (41, 85, 129, 395, 424)
#: Both are divided by this: the machines this runs on are small.
SCALE = 4


class Texts:
    """A long run of tokens of real texts, of which prompts are cut."""

    def __init__(self, port: int, corpus: Path, seed: int) -> None:
        self._random = random.Random(seed)
        lines = corpus.read_text(encoding="utf-8").splitlines()
        self._random.shuffle(lines)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/tokenize",
            data=json.dumps({"content": "\n".join(lines[:4_000])}).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            self._tokens: list[int] = json.load(answer)["tokens"]

    def cut(self, length: int) -> tuple[int, ...]:
        """A run of tokens from anywhere, behind the token that begins a text."""
        start = self._random.randrange(len(self._tokens) - length)
        return (2, *self._tokens[start : start + length - 1])

    def conversations(self, count: int) -> list[Ask]:
        """(a): independent prompts, lengths as in the trace."""
        return [Ask(self.cut(self._drawn(_INPUT_TOKENS)), self._drawn(_OUTPUT_TOKENS)) for _ in range(count)]

    def sharing(self, count: int, prefix: int, own: int, max_tokens: int) -> list[Ask]:
        """(b): prompts that begin alike."""
        trunk = self.cut(prefix)
        return [Ask((*trunk, *self.cut(own)[1:]), max_tokens) for _ in range(count)]

    def _drawn(self, quantiles: tuple[int, ...]) -> int:
        share = self._random.uniform(_SHARES[0], _SHARES[-1])
        upper = max(1, bisect.bisect_left(_SHARES, share))
        low, high = _SHARES[upper - 1], _SHARES[upper]
        part = (share - low) / (high - low)
        drawn = quantiles[upper - 1] + part * (quantiles[upper] - quantiles[upper - 1])
        return max(2, round(drawn / SCALE))
