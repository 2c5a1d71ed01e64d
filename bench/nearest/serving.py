"""What HTTP adds: the same collection behind `halny serve`, asked by `halny bench` over one connection."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from servers import Request, System

from nearest.datasets import Dataset
from nearest.systems import LIMIT, SystemLost

_Json = dict[str, Any]
_TIMEOUT_S = 120
#: Of the collection that the example `measure` makes.
_PATH = "/collections/measured/points/query"
_SCORE_TOLERANCE = 1e-5
#: The load generator's own start, before it measures.
_WARM_UP_S = 0.5


class Served:
    """A server over a copy of a collection's folder."""

    def __init__(self, binary: Path, folder: Path, data: Dataset, scratch: Path) -> None:
        self._binary, self._scratch = binary, scratch
        # The process that made the collection holds its folder, and nothing is written while it is copied.
        self._folder = scratch / "served"
        shutil.copytree(folder, self._folder)
        self._queries = scratch / f"{data.name}-queries.jsonl"
        with self._queries.open("w", encoding="utf-8") as file:
            for query in data.queries.tolist():
                file.write(json.dumps(query) + "\n")
        self.count = len(data.queries)

    def system(self) -> System:
        """How it is started."""
        project = self._scratch / "serving" / "halny.toml"
        project.parent.mkdir(exist_ok=True)

        def command(port: int) -> list[str]:
            # JSON strings are TOML strings.
            text = f'[server]\naddress = "127.0.0.1:{port}"\nadmin_address = "127.0.0.1:0"\n\n[vectors]\nfolder = '
            project.write_text(f"{text}{json.dumps(str(self._folder))}\n", encoding="utf-8")
            return [str(self._binary), "serve", "--project", str(project)]

        return System("halny-http", command, Request("", {}, lambda _: []), "/v2/health/ready")

    def check(self, url: str, query: list[float], scores: list[float]) -> None:
        """Refuses to measure a server whose answer is not that of the collection."""
        request = urllib.request.Request(
            f"{url}{_PATH}", json.dumps({"query": query, "limit": LIMIT}).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            points = json.load(answer)["result"]["points"]
        found = [point["score"] for point in points]
        if len(found) != len(scores) or any(abs(a - b) > _SCORE_TOLERANCE for a, b in zip(found, scores)):
            raise SystemLost(f"the server finds other points: scores {found[:3]}..., in process {scores[:3]}...")

    def ask(self, url: str, ef: int | None) -> _Json:
        """Every query once, one after the other."""
        body: _Json = {"query": "{json}", "limit": LIMIT}
        if ef is not None:
            body["params"] = {"hnsw_ef": ef}
        options = {
            "--path": _PATH,
            "--template": json.dumps(body),
            "--texts": self._queries,
            "--connections": 1,
            "--count": self.count,
            "--warm-up": _WARM_UP_S,
        }
        flags = [str(part) for pair in options.items() for part in pair]
        command = [str(self._binary), "bench", url, *flags, "--json"]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise SystemLost(f"the load did not end within {_TIMEOUT_S} s") from error
        if ended.returncode != 0:
            raise SystemLost(f"the load generator ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
        report: _Json = json.loads(ended.stdout)
        if report["failed"] or report["refused"]:
            raise SystemLost(f"{report['failed']} requests failed and {report['refused']} were refused")
        return report
