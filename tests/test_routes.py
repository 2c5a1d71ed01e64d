"""Routes of the project's own: steps over tiny models and a collection, from a request to its answer."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import projects
import pytest
import requests
import tiny_gguf
import wire
from conftest import GEMMA, Tiny
from openapi_spec_validator import validate
from refusals import GROWTH_MIB, assert_refused
from server import Server, halny, wait_for
from tiny_models import TinyText, sentences

TEXTS = sentences(40)
QUESTION = "the weather at home"

ASK = """
[[routes]]
name = "ask"
path = "/ask"
description = "Answers a question from notes."
deadline_ms = 60000
slo = { latency_ms = 30000, quantile = 0.95, errors = 0.01 }

[routes.request]
question = { type = "string", min_length = 1, max_length = 500 }
limit = { type = "integer", minimum = 1, maximum = 20, default = 5 }
kind = { type = "string", optional = true }

[[routes.steps]]
name = "query"
embed = { model = "tiny", text = "${request.question}" }

[[routes.steps]]
name = "hits"
[routes.steps.search]
collection = "notes"
vector = "${query.vector}"
limit = 20
with_payload = ["text", "kind"]
filter = { must = [{ key = "kind", match = { value = "${request.kind}" } }] }

[[routes.steps]]
name = "topic"
classify = { model = "topics", text = "${request.question}" }

[[routes.steps]]
name = "best"
fallback = { points = "${hits.points}" }
[routes.steps.rerank]
model = "rerank"
query = "${request.question}"
documents = "${hits.points[*].payload.text}"
top = "${request.limit}"

[[routes.steps]]
name = "context"
join = { items = "${best.points}", each = "${number}. ${item.payload.text}" }

[[routes.steps]]
name = "answer"
timeout_ms = 50000
[routes.steps.generate]
model = "noise"
prompt = "${context.text} ${request.question}"
max_tokens = 16
temperature = 0.0

[routes.response]
question = "${request.question}"
kind = "${request.kind}"
topic = "${topic.label}"
sources = "${best.points}"
context = "${context.text}"
answer = "${answer.text}"
tokens = "${answer.written_tokens}"
"""

#: A rerank that is there and takes nothing: its queue is shorter than what is asked.
FALL_BACK = """
[[routes]]
name = "fallback"
path = "/shop/fallback"
[routes.request]
question = { type = "string" }
[[routes.steps]]
name = "hits"
search = { collection = "notes", text = "${request.question}", limit = 10 }
[[routes.steps]]
name = "best"
rerank = { model = "idle", query = "${request.question}", documents = "${hits.points[*].payload.text}" }
fallback = { points = "${hits.points}" }
[routes.response]
points = "${best.points}"
"""

#: Vectors of a model that the collection is not bound to.
MIXED = """
[[routes]]
name = "mixed"
path = "/mixed"
[routes.request]
text = { type = "string" }
collection_is_there = { type = "boolean", default = true }
[[routes.steps]]
name = "query"
embed = { model = "other", text = "${request.text}" }
[[routes.steps]]
name = "hits"
search = { collection = "notes", vector = "${query.vector}" }
[routes.response]
points = "${hits.points}"
there = "${request.collection_is_there}"

[[routes]]
name = "nowhere"
path = "/nowhere"
[routes.request]
text = { type = "string" }
[[routes.steps]]
name = "hits"
search = { collection = "nothing", text = "${request.text}" }
[routes.response]
points = "${hits.points}"

[[routes]]
name = "read"
path = "/read"
[routes.request]
ids = { type = "array", items = { type = "integer", minimum = 0 }, max_items = 5 }
[[routes.steps]]
name = "points"
fetch-payload = { collection = "notes", ids = "${request.ids}", with_payload = ["text"] }
[routes.response]
texts = "${points.points[*].payload.text}"
ids = "${points.points[*].id}"
"""

#: Counts for as long as it is let.
COUNT = """
[[routes]]
name = "count"
path = "/count"
deadline_ms = 120000
[routes.request]
from = { type = "string" }
[[routes.steps]]
name = "numbers"
generate = { model = "gemma", prompt = "${request.from}", max_tokens = 2000, temperature = 0.0 }
[[routes.steps]]
name = "after"
embed = { model = "tiny", text = "${numbers.text}" }
[routes.response]
numbers = "${numbers.text}"
from = "${request.from}"
after = "${after.vector}"
"""

#: The guide's example, at a path of its own and with a shorter answer.
GUIDE = Path(__file__).resolve().parents[1] / "docs" / "routes.md"
GUIDED = (
    re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0]
    .replace('name = "ask"', 'name = "guided"')
    .replace('path = "/ask"', 'path = "/guided"')
    .replace("max_tokens = 128", "max_tokens = 8")
    .replace("deadline_ms = 20000", "deadline_ms = 60000")
)

ROUTES = ASK + FALL_BACK + MIXED + COUNT + GUIDED


def models(folder: Path, tiny: Tiny) -> list[projects.Table]:
    """Tiny models of each task, and one that writes for long."""
    small = projects.profile(max_batch_tokens=2_048)
    return [
        projects.model("tiny", tiny.embed.folder, "embed", small),
        projects.model("other", TinyText(folder / "other", seed=77).folder, "embed", small),
        projects.model("rerank", tiny.rerank.folder, "rerank", small),
        projects.model("minilm", tiny.embed.folder, "embed", small),
        projects.model("reranker", tiny.rerank.folder, "rerank", small),
        projects.model("idle", tiny.rerank.folder, "rerank", small, preload=False),
        projects.model("topics", tiny.topics.folder, "classify-text", small),
        projects.model("noise", tiny_gguf.Gguf().write(folder / "noise"), "generate", projects.writing()),
        projects.model("gemma", GEMMA, "generate", projects.writing(cells=4_096)),
    ]


def fill(server: Server, name: str, model: str, payloads: list[dict[str, str]]) -> None:
    """A collection of a model's vectors of all texts."""
    assert ask(server, "PUT", f"/collections/{name}", {"model": model}).json()["result"] is True
    points = [
        {"id": n, "vector": {"text": text}, "payload": payload}
        for n, (text, payload) in enumerate(zip(TEXTS, payloads, strict=True))
    ]
    assert ask(server, "PUT", f"/collections/{name}/points?wait=true", {"points": points}).status_code == 200


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[Server]:
    """A server with a filled collection and all routes of this file."""
    folder = tmp_path_factory.mktemp("routed")
    with projects.start(folder, models(folder, tiny), more=ROUTES) as server:
        notes = [{"text": text, "kind": "even" if n % 2 == 0 else "odd"} for n, text in enumerate(TEXTS)]
        fill(server, "notes", "tiny", notes)
        packages = [{"name": f"p{n}", "description": text, "language": "rust"} for n, text in enumerate(TEXTS)]
        fill(server, "packages", "minilm", packages)
        yield server
        server.end()


def ask(server: Server, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
    return requests.request(method, server.url + path, json=body, headers=headers, timeout=120)


def answered(server: Server, path: str, body: Any) -> Any:
    answer = ask(server, "POST", path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def embedded(server: Server, texts: list[str]) -> np.ndarray[Any, Any]:
    answer = answered(server, "/v1/embeddings", {"model": "tiny", "input": texts})
    return np.array([entry["embedding"] for entry in answer["data"]])


def schemas(server: Server, name: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(server, "GET", f"/halny/v1/routes/{name}/schema").json()
    for schema in found.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    return found


# From one request to its answer


def test_one_request_embeds_searches_reranks_joins_classifies_and_writes(routed: Server) -> None:
    answer = ask(routed, "POST", "/ask", {"question": QUESTION, "limit": 3})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    # The same by hand, over the models' own endpoints.
    near = answered(
        routed, "/collections/notes/points/query", {"query": {"text": QUESTION}, "limit": 20, "with_payload": True}
    )
    hits = near["result"]["points"]
    documents = [hit["payload"]["text"] for hit in hits]
    ranked = answered(routed, "/v1/rerank", {"model": "rerank", "query": QUESTION, "documents": documents, "top_n": 3})
    wanted = [hits[one["index"]]["id"] for one in ranked["results"]]
    assert [point["id"] for point in body["sources"]] == wanted
    scores = [one["relevance_score"] for one in ranked["results"]]
    assert np.allclose([point["score"] for point in body["sources"]], scores, atol=1e-5)
    assert all(set(point["payload"]) == {"text", "kind"} for point in body["sources"])
    context = "\n".join(f"{n + 1}. {point['payload']['text']}" for n, point in enumerate(body["sources"]))
    assert body["context"] == context
    prompt = {"model": "noise", "prompt": f"{context} {QUESTION}", "max_tokens": 16, "temperature": 0}
    written = answered(routed, "/v1/completions", prompt)
    assert body["answer"] == written["choices"][0]["text"]
    assert body["tokens"] == written["usage"]["completion_tokens"]
    topic = answered(routed, "/halny/v1/classify", {"model": "topics", "input": QUESTION})
    assert body["topic"] == topic["results"][0]["label"]
    assert body["question"] == QUESTION
    assert "kind" not in body, "what was left out of the request is left out of the answer"
    jsonschema.validate(body, schemas(routed, "ask")["response"])


def test_the_guides_example_works(routed: Server) -> None:
    body = answered(routed, "/guided", {"question": QUESTION, "limit": 3})
    assert body["question"] == QUESTION
    assert all(point["payload"].keys() == {"name", "description"} for point in body["sources"])
    assert 3 <= len(body["sources"]) <= 40
    assert isinstance(body["answer"], str)
    assert answered(routed, "/guided", {"question": QUESTION, "language": "none"})["sources"] == []
    card = next(r for r in ask(routed, "GET", "/halny/v1/routes").json()["routes"] if r["name"] == "guided")
    assert card["slo"] == {"latency_ms": 2000, "quantile": 0.95, "errors": 0.01}


def test_a_condition_holds_only_where_the_request_has_what_it_compares_with(routed: Server) -> None:
    all_kinds = answered(routed, "/ask", {"question": QUESTION, "limit": 20})
    odd = answered(routed, "/ask", {"question": QUESTION, "limit": 20, "kind": "odd"})
    assert {point["payload"]["kind"] for point in all_kinds["sources"]} == {"even", "odd"}
    assert {point["payload"]["kind"] for point in odd["sources"]} == {"odd"}
    assert odd["kind"] == "odd"


def test_payloads_are_read_by_id_in_the_order_of_the_ids(routed: Server) -> None:
    assert answered(routed, "/read", {"ids": [7, 999, 3]}) == {"texts": [TEXTS[7], TEXTS[3]], "ids": [7, 3]}
    assert answered(routed, "/read", {"ids": []}) == {"texts": [], "ids": []}


def test_an_answer_says_what_each_step_took(routed: Server) -> None:
    answer = ask(routed, "POST", "/ask", {"question": QUESTION}, **{"x-halny-trace": "1"})
    timing = answer.headers["server-timing"]
    entries = [part.strip() for part in timing.split(",")]
    assert all(re.fullmatch(r"[a-z]+;dur=\d+(\.\d+)?", entry) for entry in entries), timing
    assert {entry.split(";")[0] for entry in entries} == {"query", "hits", "topic", "best", "context", "answer"}
    steps = {step["step"]: step for step in json.loads(answer.headers["x-halny-trace"])}
    assert all(step["outcome"] == "ok" for step in steps.values())
    for first, second in [("query", "hits"), ("hits", "best"), ("best", "context"), ("context", "answer")]:
        assert steps[first]["end_ms"] <= steps[second]["start_ms"], (first, second)
    assert "x-halny-trace" not in ask(routed, "POST", "/ask", {"question": QUESTION}).headers


def test_many_at_once_get_their_own_answers(routed: Server) -> None:
    alone = {text: answered(routed, "/ask", {"question": text, "limit": 1})["sources"][0]["id"] for text in TEXTS[:8]}
    with ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(lambda text: answered(routed, "/ask", {"question": text, "limit": 1}), TEXTS[:8] * 6))
    for text, body in zip(TEXTS[:8] * 6, bodies, strict=True):
        assert (body["question"], body["sources"][0]["id"]) == (text, alone[text])


def test_metrics_count_requests_steps_and_what_was_promised(routed: Server) -> None:
    def count(name: str, **labels: str) -> float:
        return routed.metric(f"halny_route_{name}", route="ask", **labels)

    before = {
        "requests": count("requests", outcome="ok"),
        "steps": count("step_duration_seconds_count", step="best"),
        "good": count("slo_requests", objective="latency", event="good"),
        "invalid": count("requests", outcome="invalid_request"),
    }
    answered(routed, "/ask", {"question": QUESTION})
    assert ask(routed, "POST", "/ask", {"question": ""}).status_code == 400
    wait_for("the request to be counted", lambda: count("requests", outcome="ok") == before["requests"] + 1)
    assert count("step_duration_seconds_count", step="best") == before["steps"] + 1
    assert count("slo_requests", objective="latency", event="good") == before["good"] + 1
    assert count("requests", outcome="invalid_request") == before["invalid"] + 1
    assert count("slo_objective_ratio", objective="latency") == 0.95
    assert routed.metric("halny_http_requests", route="{route}", status="200") > 0


# What fails


def test_a_fallback_stands_in_and_is_told_and_counted(routed: Server) -> None:
    before = routed.metric("halny_route_fallbacks", route="fallback", step="best")
    answer = ask(routed, "POST", "/shop/fallback", {"question": QUESTION})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-halny-fallback"] == "best"
    assert "best;dur=" in answer.headers["server-timing"] and 'desc="fallback"' in answer.headers["server-timing"]
    near = answered(routed, "/collections/notes/points/query", {"query": {"text": QUESTION}, "limit": 10})
    assert [point["id"] for point in answer.json()["points"]] == [hit["id"] for hit in near["result"]["points"]]
    wait_for(
        "the fallback to be counted",
        lambda: routed.metric("halny_route_fallbacks", route="fallback", step="best") == before + 1,
    )


def test_a_vector_of_another_model_is_refused_by_the_names_of_both(routed: Server) -> None:
    text = assert_refused(ask(routed, "POST", "/mixed", {"text": "sun"}), 400)
    assert "tiny@" in text and "other@" in text and '"hits"' in text


def test_a_collection_that_is_not_there_is_not_found(routed: Server) -> None:
    text = assert_refused(ask(routed, "POST", "/nowhere", {"text": "sun"}), 404)
    assert '"nothing"' in text and '"hits"' in text


def test_a_deadline_that_cannot_be_met_gives_504_and_names_the_step(routed: Server) -> None:
    answer = ask(routed, "POST", "/count", {"from": "1, 2, 3, 4,"}, **{"x-halny-deadline-ms": "700"})
    assert '"numbers"' in assert_refused(answer, 504)
    assert assert_refused(ask(routed, "POST", "/count", {"from": "1"}, **{"x-halny-deadline-ms": "x"}), 400)


def gemma(server: Server, name: str, **labels: str) -> float:
    return server.metric(f"halny_generation_{name}", model="gemma", **labels)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_goes_takes_its_steps_along(routed: Server, stream: bool) -> None:
    wait_for("nothing to run", lambda: gemma(routed, "running_requests") == 0)
    aborted = gemma(routed, "finished_requests", reason="abort")
    cancelled = routed.metric("halny_route_requests", route="count", outcome="cancelled")
    after = routed.metric("halny_route_step_duration_seconds_count", route="count", step="after")
    body = json.dumps({"from": "1, 2, 3, 4,", "stream": stream}).encode()
    head = wire.head("/count", "Content-Type: application/json", f"Content-Length: {len(body)}")
    with wire.connect(routed.port) as connection:
        connection.sendall(head + body)
        wait_for("the model to write", lambda: gemma(routed, "running_requests") == 1)
    wait_for("the request to be given up", lambda: gemma(routed, "finished_requests", reason="abort") == aborted + 1)
    wait_for("its cells to be free", lambda: gemma(routed, "cells_ratio") == 0)
    wait_for(
        "the route to count it",
        lambda: routed.metric("halny_route_requests", route="count", outcome="cancelled") == cancelled + 1,
    )
    assert routed.metric("halny_route_step_duration_seconds_count", route="count", step="after") == after


# Events


def events(answer: requests.Response) -> Iterator[tuple[str, Any]]:
    """Server-sent events as a reader over `fetch` takes them apart."""
    name = ""
    for line in answer.iter_lines(decode_unicode=True):
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_stream_tells_fields_then_text_then_the_end(routed: Server) -> None:
    body = {"question": QUESTION, "limit": 2}
    whole = answered(routed, "/ask", body)
    with requests.post(f"{routed.url}/ask", json=body | {"stream": True}, stream=True, timeout=120) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = list(events(answer))
    assert {name for name, _ in told} <= {"field", "text", "done"}
    fields = {data["name"]: data["value"] for name, data in told if name == "field"}
    pieces = "".join(data["text"] for name, data in told if name == "text")
    fields.setdefault("answer", pieces)
    assert fields == whole
    assert told[0] == ("field", {"name": "question", "value": QUESTION}), "what needs no step is told at once"
    last, data = told[-1]
    assert last == "done" and data["fallbacks"] == []
    assert {step["step"] for step in data["steps"]} == {"query", "hits", "topic", "best", "context", "answer"}


def test_text_comes_piece_by_piece(routed: Server) -> None:
    body = {"from": "1, 2, 3, 4,", "stream": True}
    pieces: list[str] = []
    with requests.post(f"{routed.url}/count", json=body, stream=True, timeout=120) as answer:
        for name, data in events(answer):
            if name == "text":
                assert data["name"] == "numbers"
                pieces.append(data["text"])
            if len(pieces) == 5:
                break
    assert "".join(pieces).startswith(" 5, 6")
    wait_for("nothing to run", lambda: gemma(routed, "running_requests") == 0)


def test_a_route_that_writes_nothing_does_not_stream(routed: Server) -> None:
    answer = ask(routed, "POST", "/read", {"ids": [1], "stream": True})
    assert "`stream`" in assert_refused(answer, 400)
    assert ask(routed, "POST", "/read", {"ids": [1], "stream": False}).status_code == 200


def test_what_fails_in_a_stream_is_told_in_it(routed: Server) -> None:
    headers = {"x-halny-deadline-ms": "1500"}
    body = {"from": "1, 2, 3, 4,", "stream": True}
    with requests.post(f"{routed.url}/count", json=body, headers=headers, stream=True, timeout=60) as answer:
        told = list(events(answer))
    assert told[-1][0] == "error"
    assert told[-1][1]["error"]["code"] == "deadline_exceeded"
    wait_for("nothing to run", lambda: gemma(routed, "running_requests") == 0)


# What clients' tools read


def test_the_openapi_document_describes_every_route(routed: Server) -> None:
    document = ask(routed, "GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    listed = ask(routed, "GET", "/halny/v1/routes").json()["routes"]
    assert set(document["paths"]) == {route["path"] for route in listed}
    assert {route["name"] for route in listed} == {"ask", "count", "fallback", "guided", "mixed", "nowhere", "read"}
    by_name = {route["name"]: route for route in listed}
    assert by_name["ask"]["streams"] and not by_name["read"]["streams"]
    assert [step["reads"] for step in by_name["ask"]["steps"] if step["name"] == "hits"] == [["query"]]
    operations = set()
    for path, item in document["paths"].items():
        assert set(item) == {"post"}, path
        operation = item["post"]
        operations.add(operation["operationId"])
        sent = operation["requestBody"]["content"]["application/json"]["schema"]
        got = operation["responses"]["200"]["content"]["application/json"]["schema"]
        for schema in (sent, got):
            jsonschema.Draft202012Validator.check_schema(schema)
        assert schemas(routed, operation["operationId"]) == {"request": sent, "response": got}
        for response in operation["responses"].values():
            assert response["description"]
            for content in response["content"].values():
                reference = content["schema"].get("$ref", "#/components/schemas/Error")
                assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    assert len(operations) == len(document["paths"]), "operation ids differ"
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_openapi_document_is_one(routed: Server) -> None:
    validate(ask(routed, "GET", "/openapi.json").json())


def test_errors_have_the_published_shape(routed: Server) -> None:
    document = ask(routed, "GET", "/openapi.json").json()
    error = document["components"]["schemas"]["Error"]
    for path, body in [("/ask", {}), ("/ask", []), ("/nowhere", {"text": "a"})]:
        jsonschema.validate(ask(routed, "POST", path, body).json(), error)


# Requests that are wrong


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "question", "missing"),
        ({"question": 3}, "question", "text of 1 to 500 characters"),
        ({"question": "x" * 501}, "question", "501 characters"),
        ({"question": "x", "limit": 21}, "limit", "from 1 to 20"),
        ({"question": "x", "limit": -1}, "limit", "from 1 to 20"),
        ({"question": "x", "limit": 1.5}, "limit", "whole number"),
        ({"question": "x", "limit": 10**30}, "limit", "from 1 to 20"),
        ({"question": "x", "kind": None}, "kind", "null"),
        ({"question": "x", "stream": "yes"}, "stream", "true or false"),
        ({"question": "x", "other": 1}, "other", "no field"),
        ({"question": "x", "../../etc/passwd": 1}, "../../etc/passwd", "no field"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_may_be(routed: Server, body: Any, field: str, words: str) -> None:
    answer = ask(routed, "POST", "/ask", body)
    text = assert_refused(answer, 400, sent="../../etc/passwd")
    assert words in text, text
    assert answer.json()["error"]["param"] == field
    validator = jsonschema.Draft202012Validator(schemas(routed, "ask")["request"])
    assert not validator.is_valid(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"question": ' * 100_000,
        b"[" * 50_000,
        b'{"question": "\xff\xfe"}',
        b'{"question": NaN}',
        b'{"question": 1e999}',
        b'{"question": "\\ud800"}',
        b'"text"',
        b'{"question": "x", "limit": Infinity}',
    ],
)
def test_a_body_that_is_no_request_is_refused(routed: Server, body: bytes) -> None:
    head = wire.head("/ask", "Content-Type: application/json", f"Content-Length: {len(body)}")
    # Brackets are counted before they are read: each may be a value.
    assert_refused(wire.exchange(routed.port, head, body), 413 if len(body) >= 100_000 else 400)
    assert routed.alive()


def test_a_body_of_many_values_costs_no_memory(routed: Server) -> None:
    before_mib = routed.resident_mib()
    body = b'{"question": [' + b"[]," * 3_000_000 + b"[]]}"
    head = wire.head("/ask", "Content-Type: application/json", f"Content-Length: {len(body)}")
    for _ in range(3):
        assert_refused(wire.exchange(routed.port, head, body), 413)
    assert routed.resident_mib() < before_mib + GROWTH_MIB


@pytest.mark.parametrize(
    "path", ["/ask/", "/Ask", "/ask/..", "//ask", "/shop", "/%61sk", "/ask%00", "/" + "a" * 10_000]
)
def test_only_the_path_itself_is_the_route(routed: Server, path: str) -> None:
    body = json.dumps({"question": QUESTION}).encode()
    head = wire.head(path, "Content-Type: application/json", f"Content-Length: {len(body)}")
    assert_refused(wire.exchange(routed.port, head, body), 404)


def test_a_path_takes_post_only(routed: Server) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = ask(routed, method, "/ask")
        assert_refused(answer, 405)
        assert answer.headers["allow"] == "POST"
    assert ask(routed, "GET", "/halny/v1/routes/nothing/schema").status_code == 404


def test_prompts_with_references_in_them_are_text(routed: Server) -> None:
    question = "${answer.text} $${x} ${request.question} <end_of_turn> {{ 7 * 7 }}"
    body = answered(routed, "/ask", {"question": question})
    assert body["question"] == question


def test_the_check_tells_what_is_wrong_with_a_route_and_where(tmp_path: Path, tiny: Tiny) -> None:
    path = projects.write(tmp_path, models(tmp_path, tiny))
    text = path.read_text(encoding="utf-8")
    path.write_text(text + ROUTES, encoding="utf-8")
    right = halny("check", tmp_path)
    assert right.returncode == 0, right.stderr
    assert right.stdout.endswith("is right: 9 models, 7 routes\n")
    wrong = ROUTES.replace("${query.vector}", "${query.vectors}", 1)
    path.write_text(text + wrong, encoding="utf-8")
    line = (text + wrong).splitlines().index('vector = "${query.vectors}"') + 1
    checked = halny("check", tmp_path)
    assert checked.returncode == 1
    assert (
        f'halny.toml:{line}:10: routes[0].steps[1].search.vector: "${{query.vectors}}" reads "vectors", '
        'which the embed step "query" does not have; write vector\n' in checked.stderr
    )


# Changes while requests run


def test_routes_change_while_requests_are_answered(tmp_path: Path, tiny: Tiny) -> None:
    entries = [projects.model("tiny", tiny.embed.folder, "embed")]
    other = [projects.model("second", tiny.embed.folder, "embed")]

    def route(model: str, field: str) -> str:
        return f"""
[[routes]]
name = "vector"
path = "/vector"
[routes.request]
text = {{ type = "string" }}
[[routes.steps]]
name = "query"
embed = {{ model = "{model}", text = "${{request.text}}" }}
[routes.response]
{field} = "${{query.vector}}"
"""

    with projects.start(tmp_path, entries, more=route("tiny", "one")) as server:
        pair = (server.port, server.admin_port)
        wrong: list[str] = []
        seen: set[str] = set()
        stop = threading.Event()

        def keep_asking() -> None:
            while not stop.is_set():
                answer = ask(server, "POST", "/vector", {"text": "sun rain"})
                if answer.status_code == 200:
                    seen.update(answer.json())
                else:
                    wrong.append(answer.text)

        threads = [threading.Thread(target=keep_asking) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            # Another model under the same path, and the first one gone: nobody notices but for the field's name.
            wait_for("the first answers", lambda: "one" in seen)
            projects.write(tmp_path, other, ports=pair, more=route("second", "two"))
            wait_for("the changed route", lambda: "two" in seen)
            # A file that is wrong changes nothing.
            projects.write(tmp_path, other, ports=pair, more=route("third", "three"))
            wait_for("the refusal", lambda: 'no model is called "third"' in server.log())
            projects.write(tmp_path, other, ports=pair, more=route("second", "four"))
            wait_for("the route changed again", lambda: "four" in seen)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert "three" not in seen
        projects.write(tmp_path, other, ports=pair)
        wait_for("the route to go", lambda: ask(server, "POST", "/vector", {"text": "sun"}).status_code == 404)
        assert ask(server, "GET", "/halny/v1/routes").json() == {"routes": []}
        assert server.metric("halny_route_requests", route="vector") == 0
