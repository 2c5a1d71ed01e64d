"""Start, change and end of a server: nothing accepted is lost, and what is wrong is said."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

import projects
from conftest import MINILM, Tiny
from server import LIBRARY, Server, halny, serve_in_vain, wait_for
from tiny_models import TinyText, sentences


class Load:
    """Threads that send embedding requests one after the other, and remember what came of each."""

    def __init__(self, server: Server, model: str, threads: int = 8) -> None:
        self.server, self.model = server, model
        self.answered, self.not_connected = 0, 0
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(seed,)) for seed in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for_answers(self, count: int) -> None:
        """Waits for so many answers more."""
        wanted = self.answered + count
        wait_for(f"{count} answers", lambda: self.answered >= wanted or self.failures)

    def _work(self, seed: int) -> None:
        for text in itertools.cycle(sentences(50, seed)):
            if self._stop.is_set() or not self._one_connection(text):
                return

    def _one_connection(self, text: str) -> bool:
        """Sends on one connection until the server says that it closes it; False when nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.connect()
        except OSError:
            with self._lock:
                self.not_connected += 1
            return False
        with contextlib.closing(connection):
            while not self._stop.is_set():
                try:
                    body = json.dumps({"model": self.model, "input": text})
                    connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
                    answer = connection.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException) as error:
                    self._failed(f"{type(error).__name__}: {error}")
                    return True
                if answer.status != 200:
                    self._failed(f"{answer.status}: {content[:200]!r}")
                with self._lock:
                    self.answered += 1
                if answer.will_close:
                    return True
        return True

    def _failed(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_accepted_request_fails_when_the_server_is_stopped_under_load(
    tmp_path: Path, tiny: Tiny, number: signal.Signals
) -> None:
    with projects.start(tmp_path, [projects.model("tiny", tiny.embed.folder, "embed")]) as server:
        with Load(server, "tiny") as load:
            load.wait_for_answers(200)
            server.send_signal(number)
            assert server.exit_code() == 0
            wait_for("every thread to see that nobody listens", lambda: load.not_connected == 8 or load.failures)
        assert load.failures == []
    assert "stopped" in server.log()


def test_a_slow_request_is_finished_after_sigterm(tmp_path: Path) -> None:
    """Half a second of work or more that is under way when the signal comes."""
    model = projects.model("minilm", MINILM, "embed", projects.profile(max_batch_tokens=512, deadline_ms=60_000))
    with projects.start(tmp_path, [model], drain_timeout_ms=60_000) as server:
        answers: list[requests.Response] = []
        body = {"model": "minilm", "input": ["some words that take a while to read " * 20] * 48}

        def ask() -> None:
            answers.append(requests.post(f"{server.url}/v1/embeddings", json=body, timeout=120))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for("the request to be under way", lambda: server.metric("halny_lane_waiting_items") > 8)
        server.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0
        thread.join(60)
        assert [answer.status_code for answer in answers] == [200]
        assert len(answers[0].json()["data"]) == 48


def vanish(server: Server, body: bytes) -> None:
    """Sends a whole request and goes away without waiting: the socket is reset."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)


def test_clients_that_vanish_leave_nothing_behind(tmp_path: Path, tiny: Tiny) -> None:
    slow = projects.profile(max_batch_delay_ms=200, max_batch_size=4_096)
    with projects.start(tmp_path, [projects.model("tiny", tiny.embed.folder, "embed", slow)]) as server:
        body = json.dumps({"model": "tiny", "input": sentences(4)}).encode()
        for _ in range(1_000):
            vanish(server, body)
        wait_for("the queue to be empty", lambda: server.metric("halny_lane_waiting_items") == 0)
        # The question itself is a request, on a connection.
        wait_for("requests to be counted out", lambda: server.metric("halny_in_flight_requests") <= 1)
        wait_for("connections to be counted out", lambda: server.metric("halny_open_connections") <= 2)
        assert server.metric("halny_lane_abandoned_items") > 0, "no item of a client that had gone was dropped"
        answer = requests.post(f"{server.url}/v1/embeddings", json={"model": "tiny", "input": "sun"}, timeout=30)
        assert answer.status_code == 200


@pytest.fixture
def many_files() -> Iterator[int]:
    """As many open files as the system allows this process; gives how many connections that is good for."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield min(10_000, before[1] - 1_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_ten_thousand_connections_are_held_while_a_request_is_answered(
    tmp_path: Path, tiny: Tiny, many_files: int
) -> None:
    model = projects.model("tiny", tiny.embed.folder, "embed")
    with projects.start(tmp_path, [model], header_timeout_ms=120_000, max_connections=20_000) as server:
        before_mib = server.resident_mib()
        with contextlib.ExitStack() as stack:
            held = [_held(server, stack) for _ in range(many_files)]
            wait_for("the server to hold them", lambda: server.metric("halny_open_connections") >= many_files)
            for text in sentences(20):
                answer = requests.post(f"{server.url}/v1/embeddings", json={"model": "tiny", "input": text}, timeout=60)
                assert answer.status_code == 200
            assert [one for one in held if _closed(one)] == []
            grown_mib = server.resident_mib() - before_mib
            assert grown_mib < 32 / 1024 * many_files, f"{grown_mib:.0f} MiB for {many_files} connections"
            # Each of them is still good for a request.
            for one in held[:: many_files // 50]:
                one.sendall(b"ealth HTTP/1.1\r\nHost: x\r\n\r\n")
                assert one.recv(12) == b"HTTP/1.1 200"
        wait_for("them to be counted out", lambda: server.metric("halny_open_connections") < 100)
    if many_files < 10_000:
        pytest.skip(f"the system allows only {many_files} connections here; that many were held")


def _held(server: Server, stack: contextlib.ExitStack) -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
    connection.sendall(b"GET /h")
    return connection


def _closed(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def models_of(server: Server) -> set[str]:
    return {model["id"] for model in requests.get(f"{server.url}/v1/models", timeout=30).json()["data"]}


def wait_for_applied(server: Server, times: int) -> None:
    wait_for("the change", lambda: server.log().count("the project file is applied") >= times)


def test_changes_of_the_project_file_are_applied_without_losing_a_request(tmp_path: Path, tiny: Tiny) -> None:
    first = projects.model("first", tiny.embed.folder, "embed")
    second = projects.model("second", tiny.topics.folder, "classify-text")
    with projects.start(tmp_path, [first]) as server:
        ports = (server.port, server.admin_port)
        with Load(server, "first") as load:
            load.wait_for_answers(50)
            projects.write(tmp_path, [first, second], ports=ports)
            wait_for("the second model", lambda: models_of(server) == {"first", "second"})
            for size in (4, 8, 16):
                changed = projects.model("first", tiny.embed.folder, "embed", projects.profile(max_batch_size=size))
                before = server.log().count("the project file is applied")
                projects.write(tmp_path, [changed, second], ports=ports)
                wait_for_applied(server, before + 1)
                load.wait_for_answers(50)
            projects.write(tmp_path, [first], ports=ports)
            wait_for("the second model to go", lambda: models_of(server) == {"first"})
            load.wait_for_answers(50)
        assert load.failures == []
        assert load.not_connected == 0


def test_a_model_whose_files_change_is_replaced_on_sighup_under_load(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    before = TinyText(folder, seed=1)
    with projects.start(tmp_path / "project", [projects.model("tiny", folder, "embed")]) as server:
        version = server.version("tiny")
        with Load(server, "tiny") as load:
            load.wait_for_answers(50)
            after = TinyText(folder, seed=2)
            server.send_signal(signal.SIGHUP)
            wait_for("the new version", lambda: server.version("tiny") != version)
            load.wait_for_answers(50)
        assert load.failures == []
        answer = requests.post(f"{server.url}/v1/embeddings", json={"model": "tiny", "input": "sun"}, timeout=30)
        found = np.array(answer.json()["data"][0]["embedding"])
        np.testing.assert_allclose(found, after.embedding("sun"), atol=1e-4)
        assert np.abs(found - before.embedding("sun")).max() > 1e-2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("this is not TOML", "halny.toml:1"),
        ("[server]\naddress = 5\n", "address"),
        ('[[models]]\nname = "../x"\nsource = "m"\ntask = "embed"\n', "name"),
    ],
    ids=["no TOML", "wrong type", "bad name"],
)
def test_a_broken_project_file_changes_nothing_and_the_log_says_why(
    tmp_path: Path, tiny: Tiny, text: str, complaint: str
) -> None:
    with projects.start(tmp_path, [projects.model("tiny", tiny.embed.folder, "embed")]) as server:
        server.project.write_text(text)
        wait_for("the complaint", lambda: "everything stays as it was" in server.log())
        assert complaint in server.log()
        assert models_of(server) == {"tiny"}
        answer = requests.post(f"{server.url}/v1/embeddings", json={"model": "tiny", "input": "sun"}, timeout=30)
        assert answer.status_code == 200


def test_a_model_that_cannot_be_loaded_any_more_keeps_answering_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    TinyText(folder)
    with projects.start(tmp_path / "project", [projects.model("tiny", folder, "embed")]) as server:
        version = server.version("tiny")
        graph = folder / "model.fp32.onnx"
        graph.write_bytes(graph.read_bytes()[:1_000])
        server.send_signal(signal.SIGHUP)
        wait_for("the failure", lambda: "could not be loaded" in server.log())
        assert server.version("tiny") == version
        answer = requests.post(f"{server.url}/v1/embeddings", json={"model": "tiny", "input": "sun"}, timeout=30)
        assert answer.status_code == 200


def test_the_operator_reloads_over_http(tmp_path: Path, tiny: Tiny) -> None:
    first = projects.model("first", tiny.embed.folder, "embed")
    with projects.start(tmp_path, [first]) as server:
        assert requests.post(f"{server.admin_url}/halny/v1/reload", timeout=30).status_code == 202
        wait_for("the file to be read", lambda: "the project file is applied" in server.log())


def test_a_second_start_takes_from_the_cache_what_the_first_made(tmp_path: Path) -> None:
    model = projects.model("minilm", MINILM, "embed", projects.profile(max_batch_tokens=2_048))
    started: list[str] = []
    for _ in range(2):
        with projects.start(tmp_path, [model]) as server:
            assert server.stop() == 0
        started.append(server.log()[len("".join(started)) :])
    first, second = started
    assert "(cached)" not in first
    assert "(cached)" in second
    assert re.search(r"started for the first time on this host.*took_ms=\d+", first)
    assert re.search(r"took_ms=\d+.*first_start_ms=\d+", second)
    for log in started:
        print(next(line for line in log.splitlines() if "model is ready" in line))


def test_health_says_ready_only_when_every_preloaded_model_answers(tmp_path: Path, tiny: Tiny) -> None:
    warm_up = projects.profile(max_batch_tokens=4_096)
    models = [
        projects.model("first", tiny.embed.folder, "embed"),
        projects.model("slow", MINILM, "embed", warm_up),
        projects.model("last", tiny.topics.folder, "classify-text"),
    ]
    seen: list[tuple[int, int, set[str]]] = []
    server = projects.start(tmp_path, models)

    def look() -> bool:
        with contextlib.suppress(requests.RequestException):
            health = requests.get(f"{server.url}/health", timeout=5).status_code
            ready = requests.get(f"{server.url}/v2/health/ready", timeout=5).status_code
            seen.append((health, ready, models_of(server)))
        return bool(seen) and seen[-1][2] == {"first", "slow", "last"}

    try:
        wait_for("all models", look)
        early = [entry for entry in seen if 200 in entry[:2] and len(entry[2]) < 3]
        assert early == []
        assert any(entry[0] == 503 for entry in seen), "it was never seen while it started"
    finally:
        server.kill()


def test_a_model_that_is_being_loaded_is_not_unknown(tmp_path: Path, tiny: Tiny) -> None:
    models = [
        projects.model("slow", MINILM, "embed", projects.profile(max_batch_tokens=4_096)),
        projects.model("last", tiny.embed.folder, "embed"),
    ]
    server = projects.start(tmp_path, models)
    statuses: list[int] = []

    def look() -> bool:
        with contextlib.suppress(requests.RequestException):
            body = {"model": "last", "input": "sun"}
            statuses.append(requests.post(f"{server.url}/v1/embeddings", json=body, timeout=30).status_code)
        return bool(statuses) and statuses[-1] == 200

    try:
        wait_for("the last model", look)
        assert set(statuses) == {503, 200}
    finally:
        server.kill()


def failed_start(folder: Path, models: list[projects.Table], *, library: Path = LIBRARY, **server: Any) -> str:
    """What the binary says when it refuses to start."""
    done = serve_in_vain(projects.write(folder, models, **server), HALNY_ONNXRUNTIME=str(library))
    assert done.returncode != 0
    assert "panicked" not in done.stderr
    return done.stderr


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a device here")
@pytest.mark.parametrize("device", ["cuda:0", "tensorrt:0"])
def test_a_device_that_is_not_there_is_named_with_what_is_missing(tmp_path: Path, tiny: Tiny, device: str) -> None:
    model = projects.model("tiny", tiny.embed.folder, "embed", projects.profile(device=device))
    said = failed_start(tmp_path, [model])
    assert device in said
    assert re.search(r"provider|driver|libcuda", said)
    assert "tiny" in said


@pytest.mark.parametrize("library", ["absent", "empty", "another"])
def test_a_library_that_does_not_serve_is_refused_with_the_version_wanted(
    tmp_path: Path, tiny: Tiny, library: str
) -> None:
    path = tmp_path / "libonnxruntime.so"
    if library == "empty":
        path.write_bytes(b"")
    elif library == "another":
        path = next(Path("/usr/lib").rglob("libstdc++.so.6"))
    model = projects.model("tiny", tiny.embed.folder, "embed")
    said = failed_start(tmp_path / "project", [model], library=path)
    assert re.search(r"ONNX Runtime 1\.\d+ or newer is wanted", said)
    assert "make setup" in said


def test_a_library_that_is_too_old_is_refused_by_its_version(tmp_path: Path, tiny: Tiny) -> None:
    source = tmp_path / "old.c"
    source.write_text(
        """
        typedef struct { const void *(*api)(unsigned); const char *(*version)(void); } Base;
        static const void *api(unsigned version) { return version > 3 ? 0 : (const void *)1; }
        static const char *version(void) { return "1.3.0"; }
        static const Base base = { api, version };
        const Base *OrtGetApiBase(void) { return &base; }
        """
    )
    library = tmp_path / "libonnxruntime.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    model = projects.model("tiny", tiny.embed.folder, "embed")
    said = failed_start(tmp_path / "project", [model], library=library)
    assert "1.3.0" in said
    assert "too old" in said


def test_a_taken_port_is_named(tmp_path: Path, tiny: Tiny, server: Server) -> None:
    model = projects.model("tiny", tiny.embed.folder, "embed")
    said = failed_start(tmp_path, [model], address=f"127.0.0.1:{server.port}")
    assert f"127.0.0.1:{server.port}" in said
    assert "server.address" in said


def test_check_accepts_the_demo_project() -> None:
    done = halny("check", Path(__file__).resolve().parents[1] / "demo" / "halny.toml")
    assert done.returncode == 0, done.stderr
    assert "3 models" in done.stdout


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[server]\nadress = "127.0.0.1:1"\n', 2, ["adress", "address"]),
        ('[server]\n\nmax_body = "16 lots"\n', 3, ["max_body", "16 lots"]),
        ('[[models]]\nname = "m"\nsource = "x"\ntask = "embedding"\n', 4, ["embedding", "embed"]),
        ('[server]\nadmin_address = "0.0.0.0:8081"\n', 2, ["loopback"]),
        ('[[models]]\nname = "m"\n', 1, ["source"]),
        (
            '[[models]]\nname = "m"\nsource = "x"\ntask = "embed"\n[[models.profiles]]\nmax_batch_size = -1\n',
            6,
            ["max_batch_size"],
        ),
        ('[server]\naddress = "127.0.0.1:1\n', 2, []),
    ],
    ids=["typo", "unit", "task", "exposed", "missing", "negative", "syntax"],
)
def test_check_names_file_line_and_fix(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    (tmp_path / "halny.toml").write_text(text)
    done = halny("check", tmp_path)
    assert done.returncode != 0
    assert f"halny.toml:{line}" in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr


def test_check_names_every_problem_at_once(tmp_path: Path) -> None:
    (tmp_path / "halny.toml").write_text("[server]\nadress = 1\nmax_body = 5\ncpu_threads = 0\n")
    done = halny("check", tmp_path)
    assert len({*re.findall(r"halny\.toml:(\d+)", done.stderr)}) == 3, done.stderr


def test_the_schema_is_json_whose_references_resolve() -> None:
    done = halny("check", "--schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert "json-schema.org" in schema["$schema"]
    assert {"server", "models", "onnxruntime", "cache"} <= schema["properties"].keys()
    references = set(re.findall(r'"\$ref":\s*"#/\$defs/([^"]+)"', done.stdout))
    assert references
    assert references <= schema["$defs"].keys()
    assert all(isinstance(part.get("description", ""), str) for part in schema["$defs"].values())


def test_the_idle_connections_of_halny_bench_are_held(server: Server) -> None:
    load = ["--model", "tiny", "--duration", "1", "--warm-up", "0.2", "--connections", "4"]
    done = halny("bench", server.url, *load, "--idle-connections", "500", "--json")
    assert done.returncode == 0, done.stderr
    idle = {"connections_wanted": 500, "connections_opened": 500, "connections_open_at_end": 500}
    assert json.loads(done.stdout)["idle"] == idle
