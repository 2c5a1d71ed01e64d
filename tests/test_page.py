"""The page in headless Chromium: what a person who opens the server's address gets."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Page, expect, sync_playwright

import projects
from conftest import Tiny
from pictures import encoded, landscape
from server import CACHE, Server, wait_for

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_GEMMA = CACHE / "models" / "gemma3-270m"

# Tokens come slowly where other work shares the cores; only a hang takes as long.
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    assert path is not None, "no Chromium is installed; `make test-e2e` installs it"
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=quiet)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a language model, and nothing else."""
    profile = projects.profile(generate={"cells": 4_096, "max_running": 4})
    with projects.start(
        tmp_path_factory.mktemp("writer"), [projects.model("gemma", _GEMMA, "generate", profile)]
    ) as server:
        yield server
        assert server.alive(), "the server did not live through the tests"


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, loaded; what it logs as an error fails the test that expects none."""
    with opened(browser, server) as page:
        page.select_option("#image-model", "nsfw")
        yield page


@pytest.fixture
def writing(browser: Browser, writer: Server) -> Iterator[Page]:
    """The page of the server with a language model."""
    with opened(browser, writer) as page:
        yield page


@contextmanager
def opened(browser: Browser, server: Server) -> Iterator[Page]:
    """The page of a server in a window of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.extend(_foreign(request.url, server)))
    page.goto(server.url)
    expect(page.locator("#status")).to_contain_text("answer")
    yield page
    context.close()
    # Refused requests are logged by the browser itself, as network errors.
    assert [problem for problem in problems if "status of 4" not in problem] == []


def _foreign(url: str, server: Server) -> list[str]:
    return [] if url.startswith((server.url, "data:", "blob:")) else [f"the page asked for {url}"]


def number(page: Page, place: str) -> float:
    return float(page.locator(place).inner_text())


def test_it_shows_the_similarity_of_two_texts_and_follows_typing(page: Page) -> None:
    expect(page.locator("#similarity-value")).to_have_text(re.compile(r"^0\.\d{3}$"))
    page.fill("#embed-b", "The central bank raised interest rates.")
    expect(page.locator("#similarity-words")).to_contain_text("different things")
    far = number(page, "#similarity-value")
    page.fill("#embed-b", page.input_value("#embed-a"))
    expect(page.locator("#similarity-value")).to_have_text(re.compile(r"^(1\.000|0\.99\d)$"))
    assert far < 0.3
    expect(page.locator("#pair-facts")).to_have_text(
        re.compile(r"Answered in [\d.]+ ms, \d+ tokens, version [0-9a-f]{12}")
    )
    width = page.locator("#similarity-bar i").evaluate("bar => bar.style.width")
    assert float(width.rstrip("%")) > 98


def test_it_ranks_sentences_most_similar_first(page: Page) -> None:
    page.select_option("#embed-profile", "default")
    first = page.locator("#rank-results li").first
    expect(first).to_contain_text(re.compile("dough|Knead"))
    page.fill("#rank-query", "playing a song")
    expect(first).to_contain_text("guitar")
    scores = [float(text) for text in page.locator("#rank-results li b").all_inner_texts()]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)


def test_it_shows_the_verdict_on_an_image_with_its_preview(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "hills.jpg"
    file.write_bytes(encoded(landscape(640, 400), "JPEG"))
    page.set_input_files("#image-file", file)
    expect(page.locator("#image-verdict")).to_have_text(re.compile(r"^sfw: \d+\.\d %$"))
    expect(page.locator("#image-preview")).to_be_visible()
    assert page.locator("#image-preview").evaluate("image => image.naturalWidth") == 640
    shares = [float(text) for text in page.locator("#image-scores b").all_inner_texts()]
    assert sum(shares) == pytest.approx(1.0, abs=0.01)


def test_it_has_an_image_of_its_own_to_try(page: Page) -> None:
    page.click("#image-sample")
    expect(page.locator("#image-verdict")).to_have_text(re.compile(r"^\w+: \d+\.\d %$"))


def test_it_classifies_texts_and_reranks_documents(page: Page) -> None:
    page.fill("#text-input", "sun rain wind")
    expect(page.locator("#text-verdict")).to_have_text(re.compile(r"^(weather|food|home): \d+\.\d %$"))
    page.fill("#rerank-query", "rain")
    page.fill("#rerank-lines", "storm cloud\nbread salt\nclock")
    expect(page.locator("#rerank-results li")).to_have_count(3)


def test_errors_are_shown_in_words_and_go_away(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "broken.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    page.set_input_files("#image-file", file)
    expect(page.locator("#image-error")).to_contain_text("damaged")
    page.fill("#embed-a", "word " * 2_000)
    expect(page.locator("#pair-error")).to_contain_text("tokens")
    expect(page.locator("#similarity-value")).to_have_text("\u2013")
    page.fill("#embed-a", "A short text.")
    expect(page.locator("#pair-error")).to_be_hidden()
    expect(page.locator("#similarity-value")).to_have_text(re.compile(r"^-?0\.\d{3}$"))


def test_the_profile_and_model_that_are_chosen_answer(page: Page) -> None:
    with page.expect_request("**/v1/embeddings") as asked:
        page.select_option("#embed-profile", "int8")
    assert asked.value.headers["x-halny-profile"] == "int8"
    with page.expect_request("**/v1/embeddings") as asked:
        page.select_option("#embed-model", "tiny")
    assert (asked.value.post_data_json or {})["model"] == "tiny"
    assert asked.value.headers["x-halny-profile"] == "default"


def test_it_shows_words_as_they_are_written_and_stops(writing: Page, writer: Server) -> None:
    text, stop = writing.locator("#generate-text"), writing.locator("#generate-stop")
    # A model that counts goes on counting.
    writing.fill("#generate-prompt", "1, 2, 3, 4, 5, 6, 7,")
    writing.fill("#generate-temperature", "0")
    writing.fill("#generate-tokens", "3000")
    writing.click("#generate-start")
    expect(text).to_have_text(re.compile(r"\d+,\s*\d+"))
    expect(stop).to_be_visible()
    stop.click()
    expect(stop).to_be_hidden()
    expect(writing.locator("#generate-facts")).to_have_text(
        re.compile(r"^First token after [\d.]+ ms, [\d.]+ tokens a second, \d+ tokens, version [0-9a-f]{12}$")
    )
    expect(writing.locator("#generate-start")).to_be_focused()
    expect(writing.locator("#generate-error")).to_be_hidden()
    wait_for("the cells to be free", lambda: writer.metric("halny_generation_running_requests") == 0)
    assert writer.metric("halny_generation_finished_requests", reason="abort") >= 1
    writing.fill("#generate-tokens", "4")
    writing.click("#generate-start")
    known = re.compile(r" 4 tokens, \d+ of the prompt's \d+ were known")
    expect(writing.locator("#generate-facts")).to_contain_text(known)


def test_a_chat_and_a_text_go_where_they_belong(writing: Page) -> None:
    writing.fill("#generate-prompt", "Good morning!")
    writing.fill("#generate-tokens", "3")
    with writing.expect_request("**/v1/completions") as asked:
        writing.click("#generate-start")
    assert (asked.value.post_data_json or {})["prompt"] == "Good morning!"
    expect(writing.locator("#generate-begun")).to_have_text("Good morning!")
    expect(writing.locator("#generate-stop")).to_be_hidden()
    writing.select_option("#generate-form", "chat")
    with writing.expect_request("**/v1/chat/completions") as asked:
        writing.click("#generate-start")
    assert (asked.value.post_data_json or {})["messages"] == [{"role": "user", "content": "Good morning!"}]
    expect(writing.locator("#generate-begun")).to_be_empty()
    expect(writing.locator("#generate-stop")).to_be_hidden()


def test_what_a_language_model_refuses_is_shown_in_words_and_goes_away(writing: Page) -> None:
    writing.fill("#generate-tokens", "100000")
    writing.click("#generate-start")
    expect(writing.locator("#generate-error")).to_contain_text("shorten the prompt or lower `max_tokens`")
    writing.fill("#generate-tokens", "2")
    writing.click("#generate-start")
    expect(writing.locator("#generate-error")).to_be_hidden()
    expect(writing.locator("#generate-text")).not_to_be_empty()


def test_a_part_is_shown_only_where_a_model_serves_it(page: Page, writing: Page) -> None:
    expect(page.locator("#generate-card")).to_be_hidden()
    expect(page.locator("#embed-card")).to_be_visible()
    expect(writing.locator("#generate-card")).to_be_visible()
    expect(writing.locator("#embed-card")).to_be_hidden()


@pytest.mark.parametrize("shown", ["page", "writing"])
def test_every_control_is_reached_with_the_keyboard_and_has_a_name(shown: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(shown)
    reached: set[str] = set()
    page.locator("body").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    visible = "input, textarea, select, button"
    controls = page.locator(visible).evaluate_all("all => all.filter(one => one.offsetParent).map(one => one.id)")
    assert set(controls) <= reached
    nameless = page.locator(visible).evaluate_all(
        "all => all.filter(one => !one.labels?.length && !one.textContent.trim()).map(one => one.id)"
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(page: Page, tmp_path: Path, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.locator("#similarity-value")).to_have_text(re.compile(r"^0\.\d{3}$"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#image-sample")
    expect(page.locator("#image-verdict")).not_to_be_empty()
    page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    for place, least in (("#status", 4.5), (".lead", 4.5), ("#similarity-words", 4.5), ("h1", 7.0)):
        assert contrast(page, place) >= least, f"{place} in {scheme}"


def contrast(page: Page, place: str) -> float:
    """The contrast of a text and what lies behind it (WCAG 2.2, 1.4.3)."""
    return float(
        page.locator(place).first.evaluate(
            """element => {
              const levels = (text) => text.match(/[\\d.]+/g).map(Number);
              const light = (rgb) => rgb.slice(0, 3).map((level) => level / 255)
                .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
                .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
              let behind = element;
              const ground = (one) => levels(getComputedStyle(one).backgroundColor);
              while (behind.parentElement && ground(behind)[3] === 0) behind = behind.parentElement;
              const [a, b] = [light(levels(getComputedStyle(element).color)), light(ground(behind))];
              return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            }"""
        )
    )


def test_the_policy_lets_no_foreign_script_in(server: Server) -> None:
    answer = requests.get(server.url, headers={"accept": "text/html"}, timeout=30)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}';", policy)
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"].startswith("text/html")


def test_text_of_a_request_is_never_markup(page: Page) -> None:
    page.fill("#rank-lines", "<img src=x onerror=document.title='taken'>\nplain")
    expect(page.locator("#rank-results li")).to_have_count(2)
    expect(page.locator("#rank-results")).to_contain_text("<img src=x")
    assert page.locator("#rank-results img").count() == 0
    assert page.title() != "taken"


@pytest.fixture
def searching(browser: Browser, server: Server) -> Iterator[Page]:
    """The page of a server that has a collection whose vectors its model makes."""
    notes = [
        ("bread", "Fresh dough has to rest before it goes into the oven."),
        ("music", "She tuned her guitar before the concert."),
        ("network", "A firewall drops packets that no rule allows."),
    ]
    points = [
        {"id": number, "vector": {"text": text}, "payload": {"name": name, "description": text, "length": len(text)}}
        for number, (name, text) in enumerate(notes)
    ]
    for method, path, body in [
        ("PUT", "/collections/notes", {"model": "minilm"}),
        ("PUT", "/collections/vectors-only", {"vectors": {"size": 3, "distance": "Dot"}}),
        ("PUT", "/collections/notes/points?wait=true", {"points": points}),
    ]:
        answer = requests.request(method, server.url + path, json=body, timeout=60)
        assert answer.status_code == 200, answer.text
    with opened(browser, server) as page:
        expect(page.locator("#search-card")).to_be_visible()
        yield page
    for name in ("notes", "vectors-only"):
        assert requests.delete(f"{server.url}/collections/{name}", timeout=60).status_code == 200


def test_it_finds_while_one_types_and_tells_the_p95(searching: Page) -> None:
    assert searching.locator("#search-collection option").all_inner_texts() == ["notes (3 points)"]
    first = searching.locator("#search-results li").first
    searching.locator("#search-query").press_sequentially("how do I bake", delay=5)
    expect(first.locator("strong")).to_have_text("bread")
    expect(first).to_contain_text("Fresh dough")
    searching.fill("#search-query", "a song on strings")
    expect(first.locator("strong")).to_have_text("music")
    assert searching.locator("#search-results li").count() == 3
    expect(searching.locator("#search-facts")).to_have_text(
        re.compile(r"Answered in [\d.]+ ms, the text embedded; P95 of \d+ search(es)? over HTTP: [\d.]+ ms")
    )
    searching.fill("#search-query", "")
    expect(searching.locator("#search-results li")).to_have_count(0)


def test_it_says_what_is_wrong_with_a_search_and_goes_on(searching: Page, server: Server) -> None:
    assert requests.delete(f"{server.url}/collections/notes", timeout=60).status_code == 200
    searching.fill("#search-query", "anything")
    expect(searching.locator("#search-error")).to_contain_text("no collection")
    requests.put(f"{server.url}/collections/notes", json={"model": "minilm"}, timeout=60).raise_for_status()
    searching.fill("#search-query", "anything else")
    expect(searching.locator("#search-error")).to_be_hidden()


def test_there_is_nothing_to_search_where_no_collection_takes_texts(page: Page) -> None:
    expect(page.locator("#search-card")).to_be_hidden()


_ASK = """
[[routes]]
name = "ask"
path = "/ask"
[routes.request]
question = { type = "string" }
[[routes.steps]]
name = "hits"
search = { collection = "notes", text = "${request.question}", limit = 1 }
[[routes.steps]]
name = "words"
join = { items = "${hits.points}", each = "${item.payload.text}" }
[[routes.steps]]
name = "answer"
generate = { model = "gemma", prompt = "${words.text} 1, 2, 3, 4, 5,", max_tokens = 8, temperature = 0.0 }
[routes.response]
answer = "${answer.text}"
"""


def test_it_answers_by_a_route_of_the_project_token_by_token(browser: Browser, tiny: Tiny, tmp_path: Path) -> None:
    models = [
        projects.model("tiny", tiny.embed.folder, "embed"),
        projects.model("gemma", _GEMMA, "generate", projects.profile(generate={"cells": 1_024, "max_running": 1})),
    ]
    with projects.start(tmp_path, models, more=_ASK) as server:
        point = {"id": 1, "vector": {"text": "sun"}, "payload": {"text": "Numbers in their order:"}}
        for asked, body in [("/collections/notes", {"model": "tiny"}), ("/collections/notes/points", {"points": [point]})]:
            requests.put(f"{server.url}{asked}?wait=true", json=body, timeout=60).raise_for_status()
        with opened(browser, server) as page:
            # It comes when the page knows the project's routes.
            expect(page.locator("#answer-part")).to_be_visible()
            page.fill("#search-query", "rain")
            page.keyboard.press("Enter")
            expect(page.locator("#answer-text")).to_have_text(re.compile(r"^6, 7,"))
            expect(page.locator("#answer-facts")).to_have_text(re.compile(r"First word after [\d.]+ ms; hits .+, answer "))
            expect(page.locator("#answer-stop")).to_be_hidden()
