"""One server for most tests, with real and tiny models; small servers where a test needs its own.

Everything listens on loopback, on ports that were free, and ends with the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import requests

_ROOT = Path(__file__).resolve().parents[1]
# `tiny_bert` is the tools' own reference forward pass; the graphs are built by the tools.
sys.path[:0] = [str(Path(__file__).parent), str(_ROOT / "tools"), str(_ROOT / "tools" / "tests")]

import projects  # noqa: E402
import tiny_gguf  # noqa: E402
from refusals import GROWTH_MIB  # noqa: E402
from server import BINARY, CACHE, LIBRARY, Server  # noqa: E402
from tiny_models import TinyText, write_arithmetic, write_image_classifier, write_mirror  # noqa: E402
from writing import connected  # noqa: E402

TARGET_MAX_BODY = 4 << 20
#: Tokens that the large model of `writer` holds, and so the most that a request may have.
WRITER_CELLS = 4_096
MINILM = CACHE / "models" / "minilm"
NSFW = CACHE / "models" / "opennsfw"
GEMMA = CACHE / "models" / "gemma3-270m"

#: A chat template that teaches calls of tools, as Qwen's and Hermes' do.
HERMES = """\
{%- if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call>{"name": ...}</tool_call>{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def pytest_sessionstart() -> None:
    """Says at once what is missing, instead of failing in every test."""
    missing = [path for path in (BINARY, LIBRARY, MINILM / "model.int8.onnx", NSFW, GEMMA) if not path.exists()]
    if missing:
        names = ", ".join(str(path) for path in missing)
        raise pytest.UsageError(f"missing: {names}; `make test-e2e` builds and fetches what these tests need")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the end of the log of every server that runs when a test fails."""
    report = yield
    if report.failed:
        for server in Server.running:
            report.sections.append((f"log of {server.project.parent.name}", server.log()[-6000:]))
    return report


@dataclass(frozen=True)
class Tiny:
    """The tiny models, made once."""

    embed: TinyText
    topics: TinyText
    rerank: TinyText
    arithmetic: Path
    brightness: Path
    mirror: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Model folders of the tiny models."""
    folder = tmp_path_factory.mktemp("models")
    write_arithmetic(folder / "arithmetic")
    write_image_classifier(folder / "brightness")
    write_mirror(folder / "mirror")
    return Tiny(
        TinyText(folder / "embed"),
        TinyText(folder / "topics", head="classify", labels=("weather", "food", "home"), seed=8),
        TinyText(folder / "rerank", head="rerank", labels=("relevant",), seed=9),
        folder / "arithmetic",
        folder / "brightness",
        folder / "mirror",
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[Server]:
    """The server that most tests share: MiniLM in fp32 and int8, the image model, and tiny ones."""
    narrow = projects.profile(max_queue_items=4, max_batch_size=2)

    def short(name: str = "default", **more: str) -> projects.Table:
        # Warming up runs full batches of the longest texts: seconds for each thousand tokens.
        return projects.profile(name, max_batch_tokens=2_048, **more)

    models = [
        projects.model("minilm", MINILM, "embed", short(), short("int8", precision="int8")),
        projects.model("nsfw", NSFW, "classify-image", projects.profile(max_batch_size=4)),
        projects.model("tiny", tiny.embed.folder, "embed"),
        projects.model("narrow", tiny.embed.folder, "embed", narrow),
        projects.model("topics", tiny.topics.folder, "classify-text"),
        projects.model("rerank", tiny.rerank.folder, "rerank"),
        projects.model("arithmetic", tiny.arithmetic, "tensor"),
        projects.model("mirror", tiny.mirror, "classify-image"),
    ]
    with projects.start(tmp_path_factory.mktemp("shared"), models) as server:
        yield server
        assert server.alive(), "the server did not live through the tests"


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[Server]:
    """A server of language models: Gemma 3 270M without tuning, and noise that is written at once."""
    folder = tmp_path_factory.mktemp("writer")
    # With two threads a token takes ten times as long as with one while something else has a core.
    models = [
        projects.model("gemma", GEMMA, "generate", projects.writing(cells=WRITER_CELLS)),
        projects.model("noise", tiny_gguf.Gguf().write(folder / "noise"), "generate", projects.writing()),
        projects.model("caller", tiny_gguf.Gguf().write(folder / "caller", HERMES), "generate", projects.writing()),
        projects.model("tiny", tiny.embed.folder, "embed"),
    ]
    with projects.start(folder, models) as server:
        yield server
        server.end()


@pytest.fixture(scope="module")
def client(writer: Server) -> Iterator[openai.OpenAI]:
    """The `openai` client of the language models."""
    with connected(writer) as client:
        yield client


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[Server]:
    """A server with small limits and tiny models, that has to live through all of this."""
    models = [
        projects.model("tiny", tiny.embed.folder, "embed"),
        projects.model("rerank", tiny.rerank.folder, "rerank"),
        projects.model("arithmetic", tiny.arithmetic, "tensor"),
        projects.model("brightness", tiny.brightness, "classify-image"),
    ]
    limits = {"max_body": f"{TARGET_MAX_BODY >> 20}MiB", "header_timeout_ms": 1_500, "body_timeout_ms": 3_000}
    with projects.start(tmp_path_factory.mktemp("target"), models, **limits) as server:
        yield server
        server.end()


@pytest.fixture
def lives(target: Server) -> Iterator[None]:
    """After a test: the process lives, a normal request is answered, memory is where it was."""
    before_mib = target.resident_mib()
    yield
    assert target.alive()
    answer = requests.post(f"{target.url}/v1/embeddings", json={"model": "tiny", "input": "sun"}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert target.resident_mib() < before_mib + GROWTH_MIB
