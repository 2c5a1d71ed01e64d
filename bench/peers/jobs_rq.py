"""rq with Valkey: `python jobs_rq.py FOLDER` prints its figures as one line of JSON.

`SimpleWorker` runs jobs in its own process and is the fast one; `--worker fork` is rq's default, a process
a job. Results are not kept, the description is not made of the call, nothing is logged a job, replies are
parsed by hiredis, Valkey is asked over its local socket. What is left of the time is rq's own: about 20
round trips a job, each that writes flushed to the disk with `--durable always`.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time

import job_runs
import redis_server
from redis import Redis
from rq import Queue, SimpleWorker, Worker
from rq.serializers import JSONSerializer

_WORKERS = {"simple": SimpleWorker, "fork": Worker}
_JOB_TIMEOUT_S = 60


def _queue(socket: str) -> Queue:
    return Queue("bench", connection=Redis(unix_socket_path=socket), serializer=JSONSerializer)


def _work(kind: str, socket: str, until: str) -> None:
    """A worker's process: until no job is left, or until it is stopped."""
    queue = _queue(socket)
    worker = _WORKERS[kind]([queue], connection=queue.connection, serializer=JSONSerializer)
    if until == "wait":
        job_runs.say_ready()
        worker.work(logging_level="WARNING")
        return
    began_s = time.perf_counter()
    worker.work(burst=True, logging_level="WARNING")
    job_runs.say({"took_s": time.perf_counter() - began_s})


def main() -> None:
    """Starts a server, and measures."""
    flags = job_runs.parser(__doc__.partition("\n")[0])
    flags.add_argument("--durable", choices=redis_server.DURABLE, default="always", help="how Valkey writes its log")
    flags.add_argument("--worker", choices=_WORKERS, default="simple", help="in one process, or a process a job")
    chosen = flags.parse_args()
    with redis_server.running(chosen.folder, chosen.durable):
        socket = str(redis_server.socket_of(chosen.folder))
        queue = _queue(socket)

        def enqueue(job: str, *arguments: float) -> None:
            queue.enqueue_call(f"job_runs.{job}", arguments, timeout=_JOB_TIMEOUT_S, result_ttl=0, description=job)

        worker = [sys.executable, __file__, "--work", chosen.worker, socket]
        told = job_runs.measured(chosen, enqueue, worker)
        version = importlib.metadata.version("rq")
        about: dict[str, object] = queue.connection.info("server")  # type: ignore[assignment]
    settings = {"worker": chosen.worker, "appendfsync": chosen.durable}
    server = str(about.get("valkey_version") or about.get("redis_version"))
    job_runs.say({"system": "rq", "version": version, "valkey": server, "settings": settings, **told})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        _work(sys.argv[2], sys.argv[3], sys.argv[4])
    else:
        main()
