"""OpenAI's files and batches, by the unmodified `openai` client, on SQLite with a folder and PostgreSQL with S3."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import projects
import pytest
import requests
import work
from conftest import GEMMA, MINILM, Tiny
from server import Server, wait_for

ENDPOINT = "/v1/embeddings"


@pytest.fixture(scope="module", params=work.PLACES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[Server]:
    """A server with tiny models that keeps files and jobs there."""
    folder = tmp_path_factory.mktemp(f"batches-{request.param}")
    models = [
        projects.model("minilm", MINILM, "embed", projects.profile(precision="int8")),
        projects.model("tiny", tiny.embed.folder, "embed"),
        projects.model("rerank", tiny.rerank.folder, "rerank"),
    ]
    with work.place(request.param, folder) as place:
        path = projects.write(folder / "project", models, more=place.text)
        with projects.serve(path, **place.variables) as server:
            yield server
            server.end()


@pytest.fixture(scope="module")
def client(served: Server) -> openai.OpenAI:
    return openai.OpenAI(**served.openai)


def line(name: str, text: Any, model: str = "tiny", url: str = ENDPOINT) -> str:
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": {"model": model, "input": text}})


def upload(client: openai.OpenAI, text: str | bytes, **more: Any) -> Any:
    data = text.encode() if isinstance(text, str) else text
    return client.files.create(file=("requests.jsonl", data), purpose="batch", **more)


def run(client: openai.OpenAI, text: str | bytes, endpoint: Any = ENDPOINT, **more: Any) -> Any:
    file = upload(client, text)
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)
    assert batch.status in ("validating", "in_progress", "finalizing", "completed")
    return ended(client, batch.id)


def ended(client: openai.OpenAI, name: str) -> Any:
    def look() -> Any:
        batch = client.batches.retrieve(name)
        return batch if batch.status in ("completed", "failed", "cancelled", "expired") else None

    return wait_for("the batch to end", look)


def lines(client: openai.OpenAI, name: str | None) -> list[dict[str, Any]]:
    assert name
    return [json.loads(one) for one in client.files.content(name).text.splitlines()]


def test_a_file_is_what_was_uploaded(client: openai.OpenAI) -> None:
    content = bytes(range(256)) * 5_000
    file = client.files.create(file=("weights żółć.bin", content), purpose="user_data")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "weights żółć.bin", "user_data")
    assert file.expires_at is None
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.delete(file.id)


def test_a_file_larger_than_other_bodies_is_taken(client: openai.OpenAI, served: Server) -> None:
    # `max_body` is 16 MiB; a file goes to its place as it comes.
    served.forget_peak()
    before = served.resident_mib()
    content = b"0123456789abcdef" * (40 << 16)
    file = client.files.create(file=io.BytesIO(content), purpose="user_data")
    assert file.bytes == len(content) == 40 << 20
    assert client.files.content(file.id).read() == content
    assert served.peak_mib() - before < 64
    client.files.delete(file.id)


def test_files_are_listed_page_by_page(client: openai.OpenAI) -> None:
    made = [upload(client, line(str(number), "a")).id for number in range(5)]
    listed = [file.id for file in client.files.list(purpose="batch", limit=2)]
    assert listed[:5] == made[::-1]
    ascending = [file.id for file in client.files.list(purpose="batch", order="asc", limit=1)]
    assert ascending[-5:] == made
    page = client.files.list(limit=3)
    assert len(page.data) == 3 and page.has_next_page()


def test_a_file_expires_when_its_owner_said(client: openai.OpenAI) -> None:
    file = upload(client, line("a", "a"), expires_after={"anchor": "created_at", "seconds": 3_600})
    assert file.expires_at == file.created_at + 3_600
    # Files for batches do in any case.
    assert upload(client, line("a", "a")).expires_at == pytest.approx(file.created_at + 2_592_000, abs=60)


@pytest.mark.parametrize(
    ("bad", "says"),
    [({"purpose": "fun"}, "purpose"), ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "seconds")],
)
def test_a_file_that_is_not_wanted_leaves_nothing(client: openai.OpenAI, bad: dict[str, Any], says: str) -> None:
    before = [file.id for file in client.files.list()]
    arguments: dict[str, Any] = {"file": ("a.jsonl", b"x" * 100_000), "purpose": "batch", **bad}
    with pytest.raises(openai.BadRequestError, match=says):
        client.files.create(**arguments)
    assert [file.id for file in client.files.list()] == before


def test_answers_are_those_of_the_endpoint_in_the_order_of_the_lines(client: openai.OpenAI) -> None:
    texts = [f"the cat sleeps on roof {number}" for number in range(300)]
    order = np.random.default_rng(1).permutation(300)
    text = "\n".join(line(f"r{number}", texts[number]) for number in order)
    batch = run(client, text, metadata={"who": "tests"})
    assert batch.status == "completed" and batch.errors is None and batch.error_file_id is None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (300, 300, 0)
    assert batch.metadata == {"who": "tests"} and batch.model == "tiny"
    assert batch.created_at <= batch.in_progress_at <= batch.completed_at
    answers = lines(client, batch.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"r{number}" for number in order]
    expected = client.embeddings.create(model="tiny", input=texts).data
    for answer, number in zip(answers, order):
        assert answer["error"] is None and answer["response"]["status_code"] == 200
        found = answer["response"]["body"]["data"][0]["embedding"]
        np.testing.assert_allclose(found, expected[number].embedding, atol=1e-5)
    tokens = sum(answer["response"]["body"]["usage"]["total_tokens"] for answer in answers)
    assert batch.usage.input_tokens == batch.usage.total_tokens == tokens > 0


def test_requests_that_are_refused_are_in_the_error_file(client: openai.OpenAI) -> None:
    text = "\n".join([line("good", "a"), line("empty", ""), line("typed", {"a": 1}), line("last", ["b", "c"])])
    batch = run(client, text)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (4, 2, 2)
    assert [answer["custom_id"] for answer in lines(client, batch.output_file_id)] == ["good", "last"]
    errors = lines(client, batch.error_file_id)
    assert [error["custom_id"] for error in errors] == ["empty", "typed"]
    assert {error["response"]["status_code"] for error in errors} == {400}
    assert "empty" in errors[0]["response"]["body"]["error"]["message"]


def test_a_batch_all_of_which_fails_has_no_output_file(client: openai.OpenAI) -> None:
    batch = run(client, line("a", "", model="tiny"))
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert len(lines(client, batch.error_file_id)) == 1


def test_other_endpoints_take_batches(client: openai.OpenAI) -> None:
    body = {"model": "rerank", "query": "warm roof", "documents": ["the cat", "a warm roof"]}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/rerank", "body": body}
    batch = run(client, json.dumps(request), endpoint="/v1/rerank")
    answer = lines(client, batch.output_file_id)[0]["response"]["body"]
    assert {result["index"] for result in answer["results"]} == {0, 1}


def test_ends_of_lines_and_a_byte_order_mark_mean_nothing(client: openai.OpenAI) -> None:
    text = "\ufeff" + "\r\n".join([line("a", "one"), line("b", "two")]) + "\r\n"
    batch = run(client, text)
    assert [answer["custom_id"] for answer in lines(client, batch.output_file_id)] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("", "empty_file", None),
        ("{", "invalid_json_line", 1),
        (line("a", "x") + "\n\n" + line("b", "y"), "invalid_json_line", 2),
        (line("a", "x") + "\n" + line("a", "y"), "duplicate_custom_id", 2),
        (line("a", "x", url="/v1/completions"), "url_mismatch", 1),
        (line("a", "x") + "\n" + line("b", "x", model="rerank"), "mismatched_model", 2),
        ('{"custom_id": "a", "method": "POST", "url": "/v1/embeddings"}', "missing_required_parameter", 1),
        (b"\xff\xfe\x00", "invalid_json_line", 1),
        ("[" * 100_000, "invalid_json_line", 1),
    ],
)
def test_a_file_that_is_wrong_fails_whole(client: openai.OpenAI, text: str | bytes, code: str, place: int | None) -> None:
    batch = run(client, text)
    assert batch.status == "failed" and batch.failed_at
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, place)
    assert batch.output_file_id is None and batch.error_file_id is None


def test_what_cannot_be_a_batch_is_refused_at_once(client: openai.OpenAI) -> None:
    file = upload(client, line("a", "a"))
    other = client.files.create(file=("a", b"a"), purpose="user_data")
    good: dict[str, Any] = {"input_file_id": file.id, "endpoint": ENDPOINT, "completion_window": "24h"}
    for bad in (
        {"endpoint": "/v1/files"},
        {"endpoint": "http://elsewhere/v1/embeddings"},
        {"completion_window": "1h"},
        {"input_file_id": other.id},
        {"metadata": {"k" * 65: "v"}},
        {"metadata": {str(number): "v" for number in range(17)}},
        {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
    ):
        with pytest.raises(openai.BadRequestError):
            client.batches.create(**(good | bad))
    with pytest.raises(openai.NotFoundError):
        client.batches.create(**(good | {"input_file_id": "file-none"}))
    for name in ("batch_none", "none", "batch_" + "0" * 32):
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve(name)


def test_batches_are_listed_the_latest_first(client: openai.OpenAI) -> None:
    made = [run(client, line("a", str(number))).id for number in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:3] == made[::-1]


def test_a_batch_that_has_ended_cannot_be_cancelled(client: openai.OpenAI) -> None:
    batch = run(client, line("a", "a"))
    with pytest.raises(openai.ConflictError) as caught:
        client.batches.cancel(batch.id)
    # The client would try again otherwise.
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_what_was_done_of_a_cancelled_batch_is_kept(client: openai.OpenAI) -> None:
    text = "\n".join(line(f"r{number}", f"the cat sleeps on roof {number}", "minilm") for number in range(6_000))
    file = upload(client, text)
    batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
    wait_for("some of it to be done", lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(client, batch.id)
    assert batch.status == "cancelled"
    done, left = lines(client, batch.output_file_id), lines(client, batch.error_file_id)
    assert [answer["custom_id"] for answer in done + left] == [f"r{number}" for number in range(6_000)]
    assert all(error["error"]["code"] == "batch_cancelled" and error["response"] is None for error in left)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (len(done), len(left))
    assert done and left


def test_forms_that_are_none_are_refused(served: Server) -> None:
    for headers, body in (
        ({"content-type": "application/json"}, b"{}"),
        ({"content-type": "multipart/form-data"}, b"x"),
        ({"content-type": "multipart/form-data; boundary=b"}, b"--b\r\nbroken"),
        ({"content-type": "multipart/form-data; boundary=b"}, b"--b--\r\n"),
    ):
        answer = requests.post(f"{served.url}/v1/files", data=body, headers=headers, timeout=30)
        assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text
    long = {"purpose": (None, "batch"), "file": ("x" * 5_000, b"a"), "more": (None, "y" * 5_000)}
    assert requests.post(f"{served.url}/v1/files", files=long, timeout=30).status_code == 400


def test_no_job_can_be_reached_from_the_clients_port(served: Server) -> None:
    for path in ("/halny/v1/jobs", "/halny/v1/queues"):
        assert requests.get(f"{served.url}{path}", timeout=30).status_code == 404
        assert requests.post(f"{served.url}{path}", json={}, timeout=30).status_code == 404


def test_a_batch_goes_on_where_a_killed_server_was(tmp_path: Path) -> None:
    model = projects.model("minilm", MINILM, "embed", projects.profile(precision="int8"))
    path = projects.write(tmp_path, [model], more="[jobs]\nlease_ms = 1000\n")
    text = "\n".join(line(f"r{number}", f"the cat sleeps on roof {number}", "minilm") for number in range(1_500))
    with projects.serve(path) as server:
        client = openai.OpenAI(**server.openai)
        file = upload(client, text)
        name = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h").id
        wait_for("some of it to be done", lambda: client.batches.retrieve(name).request_counts.completed > 100)
        server.kill()
    for _ in range(2):
        with projects.serve(path) as server:
            client = openai.OpenAI(**server.openai)
            before = client.batches.retrieve(name).request_counts.completed
            wait_for("more to be done", lambda: client.batches.retrieve(name).request_counts.completed > before + 50)
            assert server.stop() == 0
    with projects.serve(path) as server:
        client = openai.OpenAI(**server.openai)
        batch = ended(client, name)
        assert batch.status == "completed"
        answers = lines(client, batch.output_file_id)
        assert [answer["custom_id"] for answer in answers] == [f"r{number}" for number in range(1_500)]
        assert [file.id for file in client.files.list()] == [batch.output_file_id, file.id]


def slow_lines() -> str:
    """Sixteen requests: the first is answered at once, the others write for minutes."""
    body = {"model": "gemma", "prompt": "a", "ignore_eos": True}
    asked = [{"custom_id": str(number), "method": "POST", "url": "/v1/completions",
              "body": body | {"max_tokens": 3_000 if number else 1}} for number in range(16)]
    return "\n".join(json.dumps(one) for one in asked)


def test_a_batch_whose_model_does_not_answer_ends_with_its_day(tmp_path: Path) -> None:
    model = projects.model("gemma", GEMMA, "generate", projects.writing(threads=2))
    with projects.serve(projects.write(tmp_path, [model], more='[store]\nfolder = "store"\n')) as server:
        client = openai.OpenAI(**server.openai)
        queue = f"{server.admin_url}/halny/v1/queues/batches"
        assert requests.post(f"{queue}/drain", timeout=30).status_code == 200
        file = upload(client, slow_lines())
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        # All of its day is over but a few seconds.
        with contextlib.closing(sqlite3.connect(tmp_path / "store" / "halny.db", timeout=30)) as database, database:
            database.execute("UPDATE jobs SET created_ms = created_ms - ?", (86_400_000 - 6_000,))
        assert requests.post(f"{queue}/resume", timeout=30).status_code == 200
        done = ended(client, batch.id)
        assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("expired", 1, 15)
        assert [answer["custom_id"] for answer in lines(client, done.output_file_id)] == ["0"]
        errors = lines(client, done.error_file_id)
        assert [error["custom_id"] for error in errors] == [str(number) for number in range(1, 16)]
        assert {error["error"]["code"] for error in errors} == {"batch_expired"}
        # Nothing is written for it any more.
        wait_for("its cells to be free", lambda: server.metric("halny_generation_cells_ratio", model="gemma") == 0)
        server.end()

def test_a_batch_whose_input_is_deleted_keeps_what_was_done(tmp_path: Path) -> None:
    model = projects.model("gemma", GEMMA, "generate", projects.writing(threads=2))
    path = projects.write(tmp_path, [model], more="[jobs]\ngrace_ms = 1000\n")
    with projects.serve(path) as server:
        client = openai.OpenAI(**server.openai)
        file = upload(client, slow_lines())
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        wait_for("a request to be done", lambda: client.batches.retrieve(batch.id).request_counts.completed == 1)
        assert client.files.delete(file.id).deleted
        server.end()
    with projects.serve(path) as server:
        client = openai.OpenAI(**server.openai)
        done = ended(client, batch.id)
        assert (done.status, done.error_file_id) == ("failed", None)
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (16, 1, 15)
        assert [answer["custom_id"] for answer in lines(client, done.output_file_id)] == ["0"]
        server.end()
