"""procrastinate with PostgreSQL: `python jobs_procrastinate.py FOLDER` prints its figures as one line of JSON.

The worker is its asynchronous one, jobs are coroutines, finished jobs are deleted, `NOTIFY` wakes it.
PostgreSQL's defaults decide what is durable: `fsync` and `synchronous_commit` are on.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import sys
import time

import job_runs
import procrastinate
from postgres_server import PROGRAMS, SETTINGS, Server


def _app(connector: procrastinate.BaseConnector) -> procrastinate.App:
    app = procrastinate.App(connector=connector)

    @app.task(name="empty")
    async def empty() -> None:
        job_runs.empty()

    @app.task(name="started")
    async def started(sent_s: float) -> None:
        job_runs.started(sent_s)

    return app


def _work(address: str, concurrency: int, until: str) -> None:
    """A worker's process: until no job is left, or until it is stopped."""
    asyncio.run(_worked(address, concurrency, wait=until == "wait"))


async def _worked(address: str, concurrency: int, wait: bool) -> None:
    # One more, which listens.
    pool = procrastinate.PsycopgConnector(conninfo=address, min_size=concurrency + 1, max_size=concurrency + 1)
    app = _app(pool)
    async with app.open_async():
        if wait:
            job_runs.say_ready()
        began_s = time.perf_counter()
        await app.run_worker_async(concurrency=concurrency, delete_jobs="always", listen_notify=wait, wait=wait)
        if not wait:
            job_runs.say({"took_s": time.perf_counter() - began_s})


def main() -> None:
    """Starts a server, and measures."""
    flags = job_runs.parser(__doc__.partition("\n")[0])
    flags.add_argument("--concurrency", type=int, default=8, help="jobs that the worker runs at once")
    chosen = flags.parse_args()
    server = Server(chosen.folder, PROGRAMS, SETTINGS)
    try:
        with server.connect() as connection:
            version = connection.execute("SHOW server_version").fetchone()
            fsync = connection.execute("SHOW fsync").fetchone()
        app = _app(procrastinate.SyncPsycopgConnector(conninfo=server.address))
        with app.open():
            app.schema_manager.apply_schema()

            def enqueue(job: str, *arguments: float) -> None:
                app.tasks[job].defer(**dict(zip(("sent_s",), arguments, strict=False)))

            worker = [sys.executable, __file__, "--work", server.address, str(chosen.concurrency)]
            told = job_runs.measured(chosen, enqueue, worker)
    finally:
        server.stop()
    settings = {"concurrency": chosen.concurrency, "fsync": fsync[0] if fsync else "unknown"}
    about = {"version": importlib.metadata.version("procrastinate"), "postgres": version[0] if version else "unknown"}
    job_runs.say({"system": "procrastinate", **about, "settings": settings, **told})


if __name__ == "__main__":
    # It warns that an app is made in the program itself; jobs are found by their names here.
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    if sys.argv[1:2] == ["--work"]:
        _work(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
