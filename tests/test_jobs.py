"""Jobs as an operator meets them: submitted over HTTP, looked at and acted on by `halny jobs`, moved to another database."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engines
import projects
import pytest
import requests
import work
from server import Server, halny, serve_in_vain, wait_for

SECRET = b"0123456789abcdef0123456789abcdef"

#: Programs that jobs run. Each is one file, so that what a job does can be read here.
PROGRAMS = {
    "echo": "import json, sys; print('progress 1 2 half'); print(json.dumps({'got': json.load(sys.stdin)}))",
    "fail": "import sys; print('no luck', file=sys.stderr); sys.exit(3)",
    "usage": "import sys; sys.exit(64)",
    "hungry": "x = bytearray(1 << 30); print('true')",
    "spin": "while True: pass",
    "look": "import json, os; print(json.dumps(sorted(os.environ)))",
    "loud": "import sys; sys.stdout.write('x' * 5_000_000 + '\\n'); sys.stderr.write('y' * 5_000_000); print('1')",
    # Counts to 40 with a checkpoint on the way, and on SIGTERM.
    "count": """
import json, os, pathlib, signal, sys, time
place = pathlib.Path(os.environ["HALNY_CHECKPOINT"]) / "deep" / "count.json"
done = json.loads(place.read_text()) if place.exists() else []
def keep(*_):
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(done))
def stop(*_):
    keep()
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
pid = os.getpid()
while len(done) < 40:
    time.sleep(0.05)
    done.append(pid)
    print("progress", len(done), 40, flush=True)
    if len(done) % 10 == 0:
        keep()
        print("checkpoint", flush=True)
print(json.dumps({"steps": len(done), "runs": len(set(done))}))
""",
}


def commands(folder: Path, **settings: dict[str, Any]) -> str:
    """The tables `commands` of a project, and the programs beside it."""
    text = ""
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in PROGRAMS.items():
        (folder / f"{name}.py").write_text(program, encoding="utf-8")
        more = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.get(name, {}).items())
        text += f"[[commands]]\nname = {json.dumps(name)}\nprogram = {json.dumps([sys.executable, f'{name}.py'])}\n{more}"
    return text


QUEUES = """
[jobs]
lease_ms = 1000
grace_ms = 5000
[[queues]]
name = "quick"
max_attempts = 2
backoff_ms = 1
[[queues]]
name = "narrow"
concurrency = 1
"""


@pytest.fixture(scope="module", params=work.PLACES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without models, whose jobs are there."""
    folder = tmp_path_factory.mktemp(f"jobs-{request.param}")
    limited = commands(folder / "project", hungry={"memory": "300MiB"}, spin={"cpu_s": 1}, look={"env.MODE": "test"})
    with work.place(request.param, folder) as place:
        path = projects.write(folder / "project", [], more=place.text + QUEUES + limited)
        with projects.serve(path, SECRET_OF_THE_SERVER="hush", **place.variables) as server:
            yield server
            server.end()


def command(server: Server, name: str, given: Any = None, **more: Any) -> dict[str, Any]:
    return work.submit(server, "command", {"command": name, "input": given}, **more)


def test_a_program_gets_what_its_job_is_told_and_gives_its_result(served: Server) -> None:
    given = {"text": "zażółć", "list": [1, 2.5, None]}
    job = command(served, "echo", given)
    done = work.until(served, job["id"], "done")
    assert done["result"] == {"got": given}
    assert done["progress"] == {"done": 1, "total": 2, "message": "half"}
    assert done["created_ms"] <= done["started_ms"] <= done["ended_ms"]


def test_a_program_that_fails_is_tried_again_and_then_dead(served: Server) -> None:
    job = command(served, "fail", queue="quick")
    dead = work.until(served, job["id"], "dead")
    assert (dead["failures"], dead["max_attempts"]) == (2, 2)
    assert dead["error"] == "the program ended with 3: no luck"
    assert work.until(served, command(served, "usage", queue="quick")["id"], "dead")["failures"] == 1


def test_a_program_has_the_limits_that_the_project_says(served: Server) -> None:
    hungry = command(served, "hungry", queue="quick", max_attempts=1)
    assert "MemoryError" in work.until(served, hungry["id"], "dead")["error"]
    spin = command(served, "spin", queue="quick", max_attempts=1)
    assert "signal" in work.until(served, spin["id"], "dead")["error"]
    slow = command(served, "count", queue="quick", max_attempts=1, timeout_ms=200)
    assert "longer than its 200 ms" in work.until(served, slow["id"], "dead")["error"]


def test_a_program_sees_nothing_of_the_servers_environment(served: Server) -> None:
    names = work.until(served, command(served, "look")["id"], "done")["result"]
    assert "MODE" in names and "HALNY_CHECKPOINT" in names
    assert not [name for name in names if "SECRET" in name or name.startswith(("AWS_", "HALNY_ONNX"))]


def test_a_program_that_says_much_does_not_fill_the_server(served: Server) -> None:
    served.forget_peak()
    before = served.resident_mib()
    assert work.until(served, command(served, "loud")["id"], "done")["result"] == 1
    assert served.peak_mib() - before < 30


def test_the_same_key_gives_the_same_job(served: Server) -> None:
    first = command(served, "echo", 1, key="order-1")
    assert command(served, "echo", 1, key="order-1")["id"] == first["id"]
    form = {"kind": "command", "payload": {"command": "echo", "input": 2}}
    url = f"{served.admin_url}/halny/v1/jobs"
    answer = requests.post(url, json=form, headers={"Idempotency-Key": "order-1"}, timeout=30)
    assert answer.status_code == 409 and "order-1" in answer.json()["error"]["message"]
    with ThreadPoolExecutor(16) as pool:
        racing = pool.map(lambda _: command(served, "echo", 1, key="race")["id"], range(32))
        assert len(set(racing)) == 1


@pytest.mark.parametrize(
    ("form", "status", "says"),
    [
        ({"kind": "none"}, 400, "webhook"),
        ({"kind": "command"}, 400, "command"),
        ({"kind": "command", "payload": {"command": "rm"}}, 400, "[[commands]]"),
        ({"kind": "command", "payload": {"command": "echo", "program": ["sh"]}}, 400, "program"),
        ({"kind": "webhook", "payload": {"webhook": "http://169.254.169.254/"}}, 400, "[[webhooks]]"),
        ({"kind": "command", "payload": {"command": "echo"}, "queue": "none"}, 400, "narrow"),
        ({"kind": "command", "payload": {"command": "echo"}, "timeout_ms": 0}, 400, "timeout_ms"),
        ({"kind": "command", "payload": {"command": "echo"}, "max_attempts": 0}, 400, "max_attempts"),
        ({"kind": "command", "payload": {"command": "echo"}, "delay_ms": 1 << 60}, 400, "ten years"),
        ({"kind": "command", "payload": {"command": "echo", "input": "x" * (1 << 20)}}, 413, "file"),
        ({"kind": "embed-collection", "payload": {"collection": "c", "source": {"path": "../../etc/passwd"}}}, 400, ".."),
        ({"kind": "embed-collection", "payload": {"collection": "c", "source": {"path": "/etc/passwd"}}}, 400, ".."),
        ({"kind": "batch", "payload": {"input_file_id": "a", "endpoint": "/halny/v1/jobs"}}, 400, "endpoint"),
        ({"kind": "command", "payload": {"command": "echo"}, "when": "now"}, 400, "when"),
        ([], 400, "JSON"),
    ],
)
def test_what_is_no_job_is_refused_with_what_to_change(served: Server, form: Any, status: int, says: str) -> None:
    answer = requests.post(f"{served.admin_url}/halny/v1/jobs", json=form, timeout=30)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


def test_a_key_that_is_none_is_refused(served: Server) -> None:
    form = {"kind": "command", "payload": {"command": "echo"}}
    for key in (b"", b"x" * 256, b"\xff\xfe"):
        headers = {b"Idempotency-Key": key}
        answer = requests.post(f"{served.admin_url}/halny/v1/jobs", json=form, headers=headers, timeout=30)
        assert answer.status_code == 400, (key, answer.text)


def test_a_job_that_is_not_there_is_missing(served: Server) -> None:
    for name in ("none", "0" * 32, "%00", "A" * 5_000):
        for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
            answer = requests.request(method, f"{served.admin_url}/halny/v1/jobs/{name}{path}", timeout=30)
            assert answer.status_code == 404, answer.text


def test_a_running_program_is_cancelled_with_all_its_processes(served: Server) -> None:
    job = command(served, "count")
    wait_for("it to count", lambda: work.job(served, job["id"])["progress"])
    assert requests.post(f"{served.admin_url}/halny/v1/jobs/{job['id']}/cancel", timeout=30).status_code == 200
    work.until(served, job["id"], "cancelled")
    again = requests.post(f"{served.admin_url}/halny/v1/jobs/{job['id']}/cancel", timeout=30)
    assert again.status_code == 409


def jobs(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return halny("jobs", "--admin-address", f"127.0.0.1:{server.admin_port}", *arguments)


def test_the_command_line_shows_and_acts(served: Server) -> None:
    done = jobs(served, "submit", "command", '{"command": "echo", "input": [1]}', "--follow")
    assert done.returncode == 0, done.stderr
    name, _, result = done.stdout.partition("\n")
    assert json.loads(result) == {"got": [1]}
    assert json.loads(jobs(served, "show", name).stdout)["state"] == "done"
    listed = jobs(served, "list", "--kind", "command", "--state", "done")
    assert name in listed.stdout and "echo" not in listed.stderr
    assert len(json.loads(jobs(served, "list", "--limit", "2", "--json").stdout)) == 2

    dead = jobs(served, "submit", "command", '{"command": "fail"}', "--queue", "quick", "--follow")
    assert dead.returncode == 1 and "no luck" in dead.stderr
    name = dead.stdout.strip()
    assert name in jobs(served, "dead", "quick").stdout
    assert jobs(served, "retry", name).stdout.strip() in ("ready", "running", "delayed")
    work.until(served, name, "dead")
    assert "are tried again" in jobs(served, "dead", "quick", "--retry").stdout
    work.until(served, name, "dead")
    assert "forgotten" in jobs(served, "dead", "quick", "--purge").stdout
    assert jobs(served, "show", name).returncode == 1

    assert jobs(served, "cancel", "none").returncode == 1
    assert "quick" in jobs(served, "queues").stdout


def test_a_drained_queue_starts_nothing_until_it_is_resumed(served: Server) -> None:
    running = command(served, "count", queue="narrow")
    work.until(served, running["id"], "running")
    waiting = command(served, "echo", queue="narrow")
    # Waits for what runs.
    assert jobs(served, "drain", "narrow").returncode == 0
    assert work.job(served, running["id"])["state"] == "done"
    assert work.job(served, waiting["id"])["state"] == "ready"
    assert "drained" in jobs(served, "queues").stdout
    assert jobs(served, "resume", "narrow").returncode == 0
    work.until(served, waiting["id"], "done")
    assert jobs(served, "drain", "none").returncode == 1


def test_metrics_tell_where_queues_stand(served: Server) -> None:
    work.until(served, command(served, "echo")["id"], "done")
    delayed = command(served, "echo", delay_ms=3_600_000)
    wait_for("the gauges", lambda: served.metric("halny_jobs", queue="default", state="delayed") >= 1)
    assert served.metric("halny_jobs_started_total", queue="default", kind="command") >= 1
    assert served.metric("halny_jobs_ended_total", queue="default", kind="command", how="done") >= 1
    requests.post(f"{served.admin_url}/halny/v1/jobs/{delayed['id']}/cancel", timeout=30)


def test_a_program_goes_on_from_its_checkpoint_when_its_server_stops_or_dies(tmp_path: Path) -> None:
    path = projects.write(tmp_path, [], more=QUEUES + commands(tmp_path))
    with projects.serve(path) as server:
        name = command(server, "count")["id"]
        work.until_it_has(server, name, 5)
        assert server.stop() == 0
    with projects.serve(path) as server:
        # As many as there were when it was told to stop, at least.
        work.until_it_has(server, name, 22)
        server.send_signal(signal.SIGKILL)
    with projects.serve(path) as server:
        done = work.until(server, name, "done")
        assert done["result"] == {"steps": 40, "runs": 3}
        assert (done["failures"], done["losses"]) == (0, 0)


class Receiver:
    """A web application that receives webhooks."""

    def __init__(self, *answers: int) -> None:
        self.answers, self.got = list(answers), queue.Queue[tuple[dict[str, str], bytes]]()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.put(({name.lower(): value for name, value in self.headers.items()}, body))
                status = receiver.answers.pop(0) if receiver.answers else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_webhook_is_signed_and_sent_until_it_is_taken(tmp_path: Path) -> None:
    receiver = Receiver(503, 302, 200, 410)
    secret = "whsec_" + base64.b64encode(SECRET).decode()
    hook = f'[[webhooks]]\nname = "app"\nurl = "{receiver.url}"\nsecret_env = "HOOK_SECRET"\n'
    path = projects.write(tmp_path, [], more=hook + QUEUES)
    with projects.serve(path, HOOK_SECRET=secret) as server:
        form = {"webhook": "app", "type": "batch.completed", "data": {"id": 7}}
        job = work.submit(server, "webhook", form, queue="quick", max_attempts=5)
        assert work.until(server, job["id"], "done")["failures"] == 2
        tries = [receiver.got.get(timeout=10) for _ in range(3)]
        assert {headers["webhook-id"] for headers, _ in tries} == {job["id"]}
        for headers, body in tries:
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
            assert headers["webhook-signature"] == f"v1,{expected}"
            assert json.loads(body)["data"] == {"id": 7}
        # Who says that it is gone is not asked again.
        gone = work.submit(server, "webhook", form, queue="quick", max_attempts=5)
        assert work.until(server, gone["id"], "dead")["failures"] == 1
        assert server.stop() == 0
    receiver.close()
    assert secret not in (tmp_path / "server.log").read_text()


def test_the_metadata_moves_to_another_database_with_nothing_lost(tmp_path: Path) -> None:
    path = projects.write(tmp_path / "project", [], more=QUEUES + commands(tmp_path / "project"))
    with projects.serve(path) as server:
        done = [work.until(server, command(server, "echo", number)["id"], "done") for number in range(20)]
        waiting = command(server, "echo", "later", delay_ms=3_600_000, key="key")
        file = requests.post(
            f"{server.url}/v1/files", files={"purpose": (None, "user_data"), "file": ("a", b"abc")}, timeout=30
        ).json()
        assert server.stop() == 0
    with engines.postgres() as url:
        moved = halny("store", "migrate", "--project", path, "--to", url)
        assert moved.returncode == 0, moved.stderr
        assert "engine = \"postgres\"" in moved.stdout and " 21 " in moved.stdout
        # The old one is used by nobody any more.
        refused = serve_in_vain(path)
        assert refused.returncode == 1 and "was moved to PostgreSQL" in refused.stderr + refused.stdout
        text = path.read_text() + f'\n[store]\nengine = "postgres"\nurl = "{url}"\nblobs = "store/blobs"\n'
        path.write_text(text)
        with projects.serve(path) as server:
            for before in done:
                assert work.job(server, before["id"]) == before
            assert command(server, "echo", "later", delay_ms=3_600_000, key="key")["id"] == waiting["id"]
            content = requests.get(f"{server.url}/v1/files/{file['id']}/content", timeout=30)
            assert content.content == b"abc"
            assert work.until(server, command(server, "echo", "new")["id"], "done")["result"] == {"got": "new"}
            assert server.stop() == 0
        again = halny("store", "migrate", "--project", path, "--to", url)
        assert again.returncode == 1 and "there already" in again.stderr


def test_a_project_whose_jobs_cannot_be_kept_does_not_start(tmp_path: Path) -> None:
    for more, says in (
        ('[[schedules]]\nname = "s"\ncron = "99 99 * * *"\nkind = "webhook"\n', "cron"),
        ('[[webhooks]]\nname = "app"\nurl = "https://h/"\nsecret_env = "NOT_SET"\n', "NOT_SET"),
        ('[store]\nengine = "postgres"\nurl = "postgres://nobody@127.0.0.1:1/none"\n', "store"),
    ):
        path = projects.write(tmp_path, [], more=more)
        ended = serve_in_vain(path)
        assert ended.returncode == 1 and says in ended.stderr + ended.stdout, ended.stderr
