"""Routes that read features: recommendations that follow what a user does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import projects
import pytest
import requests
import tiny_models
from conftest import Tiny
from playwright.sync_api import expect
from refusals import assert_refused
from server import Server, halny, wait_for
from test_page import browser, opened

__all__ = ["browser"]

RECOMMEND = """
[[entities]]
name = "user"
join_key = "user_id"

[[feature_views]]
name = "looks"
entities = ["user"]
features = [{ name = "recent", type = "list<int64>" }, { name = "count", type = "int64" }]
source = { push = true }

[[on_demand_views]]
name = "habits"
sources = ["looks"]
request = { weight = "float64" }
features = [{ name = "keenness", type = "float64", expression = "double(looks.count) * request.weight" }]

[[feature_services]]
name = "taste"
features = ["looks", "habits"]

[[routes]]
name = "recommend"
path = "/recommend"

[routes.request]
user = { type = "string", min_length = 1, max_length = 64 }
not = { type = "array", items = { type = "integer" }, max_items = 10, default = [] }

[[routes.steps]]
name = "user"
[routes.steps.features]
service = "taste"
entities = { user_id = "${request.user}" }
request = { weight = 0.5 }
default = { recent = [], count = 0 }

[[routes.steps]]
name = "near"
search = { collection = "notes", positive = "${user.recent}", negative = "${request.not}", limit = 3 }

[routes.response]
packages = "${near.points}"
recent = "${user.recent}"
looks = "${user.count}"
keenness = "${user.keenness}"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[Server]:
    """A server with a collection of forty notes, and the route."""
    models = [projects.model("tiny", tiny.embed.folder, "embed")]
    folder = tmp_path_factory.mktemp("recommend")
    with projects.start(folder, models, more=RECOMMEND) as server:
        points = [
            {"id": number, "vector": {"text": text}, "payload": {"name": f"note {number}", "text": text}}
            for number, text in enumerate(tiny_models.sentences(40))
        ]
        for path, body in (("", {"model": "tiny"}), ("/points?wait=true", {"points": points})):
            requests.put(f"{server.url}/collections/notes{path}", json=body, timeout=60).raise_for_status()
        yield server
        server.end()


def recommended(server: Server, user: str, **more: Any) -> dict[str, Any]:
    """The route's answer."""
    answer = requests.post(f"{server.url}/recommend", json={"user": user, **more}, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def look(server: Server, user: str, *recent: int) -> None:
    """What an application pushes when a user has looked at something."""
    row = {"user_id": [user], "recent": [list(recent)], "count": [len(recent)]}
    body = {"push_source_name": "looks", "df": row}
    requests.post(f"{server.url}/push", json=body, timeout=60).raise_for_status()


def test_a_stranger_has_the_defaults_and_is_recommended_nothing(shop: Server) -> None:
    assert recommended(shop, "stranger") == {"packages": [], "recent": [], "looks": 0, "keenness": None}


def test_a_click_changes_the_next_answer(shop: Server) -> None:
    look(shop, "ada", 3)
    first = recommended(shop, "ada")
    ids = [point["id"] for point in first["packages"]]
    # What Qdrant's own protocol says of the same examples.
    query = {"query": {"recommend": {"positive": [3]}}, "limit": 3}
    same = requests.post(f"{shop.url}/collections/notes/points/query", json=query, timeout=60).json()
    assert ids == [point["id"] for point in same["result"]["points"]]
    assert (first["recent"], first["looks"], first["keenness"]) == ([3], 1, 0.5)
    assert 3 not in ids
    look(shop, "ada", ids[0], 3)
    second = recommended(shop, "ada")
    assert ids[0] not in [point["id"] for point in second["packages"]]
    assert second["packages"] != first["packages"]
    assert recommended(shop, "ada", **{"not": [second["packages"][0]["id"]]})["packages"] != second["packages"]


def test_users_are_kept_apart(shop: Server) -> None:
    look(shop, "grace", 7)
    look(shop, "alan", 9)
    assert recommended(shop, "grace")["recent"] == [7]
    assert recommended(shop, "alan")["recent"] == [9]


def test_what_a_feature_names_wrongly_fails_in_words(shop: Server) -> None:
    look(shop, "lost", 1_000_000)
    answer = requests.post(f"{shop.url}/recommend", json={"user": "lost"}, timeout=60)
    assert assert_refused(answer, 404) == 'the step "near": there is no point 1000000'


def test_the_schema_tells_the_types_of_features(shop: Server) -> None:
    told = requests.get(f"{shop.url}/halny/v1/routes/recommend/schema", timeout=30).json()["response"]
    assert told["properties"]["recent"] == {"type": "array", "items": {"type": "integer"}}
    assert told["properties"]["looks"] == {"type": "integer"}


def test_types_follow_the_project_file_while_it_runs(shop: Server) -> None:
    text = shop.project.read_text(encoding="utf-8")
    changed = text.replace('name = "count", type = "int64"', 'name = "count", type = "float64"')
    changed = changed.replace('expression = "double(looks.count)', 'expression = "(looks.count)')
    for now, kind in ((changed, "number"), (text, "integer")):
        shop.project.write_text(now, encoding="utf-8")

        def looks(kind: str = kind) -> bool:
            told = requests.get(f"{shop.url}/halny/v1/routes/recommend/schema", timeout=30).json()
            return bool(told["response"]["properties"]["looks"] == {"type": kind})

        wait_for("the change to be applied", looks)
    look(shop, "ada", 5)
    assert recommended(shop, "ada")["recent"] == [5]


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ('service = "taste"', 'service = "tast"', r'no feature service is called "tast"; write taste'),
        ('service = "taste"', 'service = "taste@2"', 'the feature service "taste" has no such version'),
        ('service = "taste"', 'list = ["looks:recnt"]', '"looks" has no feature "recnt"; write recent'),
        ('service = "taste"\n', "", "service or list is missing"),
        ("entities = { user_id", "entities = { usr_id", 'the features need "user_id" (string)'),
        ("request = { weight = 0.5 }\n", "", 'the features need "weight" (float64)'),
        ("weight = 0.5", 'weight = "${request.user}"', 'text is given for "weight"'),
        ("recent = [], count = 0", 'recent = [], count = "none"', 'text stands for "count"'),
        ("recent = [], count = 0", "count = 0", '"${user.recent}" may be missing, and a value is needed here'),
        ("recent = [], count = 0", "recent = [], cont = 0", 'none of the features is called "cont"; write count'),
        ('looks = "${user.count}"', 'looks = "${user.cnt}"', "count"),
        ("* request.weight", "* request.wait", 'the request has no field "wait"'),
        ('positive = "${user.recent}", negative', "negative", "positive is missing"),
    ],
)
def test_the_check_says_what_is_wrong_with_its_line(tmp_path: Path, old: str, new: str, wrong: str) -> None:
    assert RECOMMEND.count(old) == 1
    text = '[[models]]\nname = "tiny"\nsource = "x"\ntask = "embed"\n' + RECOMMEND.replace(old, new)
    (tmp_path / "halny.toml").write_text(text, encoding="utf-8")
    ended = halny("check", tmp_path)
    assert ended.returncode == 1, ended.stdout
    assert wrong in ended.stderr, ended.stderr
    assert "halny.toml:" in ended.stderr


def test_the_pages_recommendation_changes_after_a_click(browser: Any, shop: Server) -> None:
    with opened(browser, shop) as page:
        expect(page.locator("#recommend-card")).to_be_visible()
        page.fill("#recommend-user", "mary")
        expect(page.locator("#recommend-empty")).to_be_visible()
        page.fill("#search-query", tiny_models.sentences(40)[11])
        expect(page.locator("#search-results button.look").first).to_have_text("note 11")
        page.click("#search-results button.look >> nth=0")
        expect(page.locator("#recommend-said")).to_have_text("mary has looked at note 11.")
        expect(page.locator("#recommend-results li")).to_have_count(3)
        expect(page.locator("#recommend-facts")).to_contain_text("from 1 look")
        before = page.locator("#recommend-results").inner_text()
        # The same with the keyboard alone.
        page.locator("#recommend-results button.look").first.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#recommend-facts")).to_contain_text("from 2 looks")
        expect(page.locator("#recommend-results li")).to_have_count(3)
        assert page.locator("#recommend-results").inner_text() != before
        assert page.locator("#recommend-error").is_hidden()
        # Another user has looked at nothing.
        page.fill("#recommend-user", "nobody")
        expect(page.locator("#recommend-results li")).to_have_count(0)
