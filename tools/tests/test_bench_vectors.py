"""The pure parts of `make bench-vectors`: recall with ties, figures read off curves, filters, what the report says."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

from nearest import filters, picture, report
from nearest.curves import Measured, at_recall, frontier
from nearest.datasets import DIMENSIONS, Dataset
from nearest.recall import TIE, recall, truth
from nearest.systems import System, SystemLost, running, subspaces


def _rows(count: int, dimensions: int = 8, seed: int = 5) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_exact_search_has_recall_one_and_what_was_not_found_counts_against_it() -> None:
    table, queries = _rows(500), _rows(20, seed=6)
    right = truth(table, queries, 10)
    best = np.argsort(-(queries @ table.T), axis=1)[:, :10].tolist()
    assert recall(table, queries, best, right) == 1.0
    assert recall(table, queries, [ids[:7] for ids in best], right) == pytest.approx(0.7)
    assert recall(table, queries, [[] for _ in best], right) == 0.0


def test_a_row_as_near_as_the_tenth_counts_whichever_it_is() -> None:
    table = np.repeat(_rows(5), 4, axis=0)
    queries = table[:1]
    right = truth(table, queries, 2)
    # Four rows are equally near; any two of them are the two nearest.
    assert recall(table, queries, [[2, 3]], right) == recall(table, queries, [[0, 3]], right) == 1.0
    assert recall(table, queries, [[0, 1, 2, 3]], right) == 1.0, "more than all is still all"


def test_an_id_counts_once_and_one_that_is_not_there_not_at_all() -> None:
    table, queries = _rows(50), _rows(1, seed=9)
    right = truth(table, queries, 4)
    best = int(np.argmax(table @ queries[0]))
    assert recall(table, queries, [[best, best, best, best]], right) == 0.25
    assert recall(table, queries, [[-1, 50, 10**12, best]], right) == 0.25


def test_with_a_filter_only_rows_that_pass_count_and_fewer_than_ten_are_all_there_is() -> None:
    table, queries = _rows(100), _rows(3, seed=4)
    passing = np.zeros(100, bool)
    passing[[3, 50, 99]] = True
    right = truth(table, queries, 10, passing)
    assert right.count == 3
    assert recall(table, queries, [[3, 50, 99]] * 3, right, passing) == 1.0
    assert recall(table, queries, [[3, 51, 98]] * 3, right, passing) == pytest.approx(1 / 3)
    nobody = np.zeros(100, bool)
    assert recall(table, queries, [[]] * 3, truth(table, queries, 10, nobody), nobody) == 1.0


def test_a_system_that_answers_fewer_queries_than_were_asked_is_no_figure() -> None:
    table, queries = _rows(30), _rows(3)
    with pytest.raises(ValueError, match="3 queries"):
        recall(table, queries, [[1]], truth(table, queries, 10))
    assert TIE < 1e-5


def test_speed_at_a_recall_is_between_the_two_settings_beside_it_by_its_logarithm() -> None:
    curve = [Measured("a", 0.98, 8_000), Measured("b", 1.0, 2_000)]
    at = at_recall(curve, 0.99)
    assert at.qps == pytest.approx(math.sqrt(8_000 * 2_000))
    assert at_recall(curve, 0.98).qps == pytest.approx(8_000)
    assert at_recall(curve, 1.0).qps == pytest.approx(2_000)


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_read_off_beyond_what_was_measured(seed: int) -> None:
    drawn = random.Random(seed)
    points = [Measured("", drawn.random(), 10 ** drawn.uniform(1, 5)) for _ in range(drawn.randrange(1, 9))]
    wanted = drawn.random()
    at = at_recall(points, wanted)
    best = frontier(points)
    if min(point.recall for point in points) <= wanted <= best[-1].recall:
        assert at.qps is not None
        assert min(point.qps for point in best) * 0.999 <= at.qps <= max(point.qps for point in best) * 1.001
        slower = [point.qps for point in best if point.recall >= wanted]
        assert at.qps >= max(slower) * 0.999, "never slower than a setting that reaches it"
    else:
        assert at.qps is None
        assert "recall is at" in at.why


def test_settings_that_another_beats_in_both_are_no_part_of_a_curve() -> None:
    slow_and_bad = Measured("slow and bad", 0.97, 100)
    curve = [Measured("fast", 0.96, 900), slow_and_bad, Measured("good", 0.995, 300)]
    assert slow_and_bad not in frontier(curve)
    assert [point.recall for point in frontier(curve)] == [0.96, 0.995]
    assert at_recall([], 0.99).qps is None
    assert at_recall([slow_and_bad, Measured("both", 0.995, 300)], 0.99).qps == 300
    assert at_recall([Measured("good", 0.995, 300)], 0.99).why == "its recall is at least 0.9950"


def _dataset(folder: Path, rows: int = 1_000) -> Dataset:
    table, queries = _rows(rows, DIMENSIONS), _rows(100, DIMENSIONS, seed=8)
    queries.tofile(folder / "queries.f32")
    return Dataset("small", table, queries, folder / "rows.f32", folder / "queries.f32")


def test_filters_pass_the_share_that_they_are_named_after_and_payloads_say_the_same(tmp_path: Path) -> None:
    data = _dataset(tmp_path)
    payloads = filters.write_payloads(data, tmp_path)
    lines = [json.loads(line) for line in payloads["path"].read_text().splitlines()]
    assert len(lines) == len(data.table)
    assert all(line.keys() == payloads["fields"].keys() for line in lines)
    for one in filters.filters(data, tmp_path):
        (condition,) = one.filter["must"]
        said = [line[condition["key"]] == condition["match"]["value"] for line in lines]
        assert said == one.passing.tolist(), one.name
        assert one.passing.sum() == max(1, round(one.share * len(data.table))), one.name
        assert np.fromfile(one.queries_path, np.float32).size == one.queries.size


def test_queries_near_to_what_passes_are_nearer_than_those_far_from_it(tmp_path: Path) -> None:
    data = _dataset(tmp_path)
    found = {(one.share, one.kind): one for one in filters.filters(data, tmp_path)}
    for share in (0.2, 0.04, 0.01):
        near, far = found[share, "near"], found[share, "far"]
        assert (near.passing == far.passing).all()
        centre = data.table[near.passing].mean(axis=0)
        assert (near.queries @ centre).mean() > (far.queries @ centre).mean()


def test_codes_of_the_peer_take_no_more_than_they_may_where_any_fit() -> None:
    for limit in (40, 64, 96, 150):
        parts = subspaces(limit, 250, 62_666)
        assert DIMENSIONS % parts == 0
        assert 8 + 4 * DIMENSIONS * 250 / 62_666 + parts / 2 <= 1.1 * limit
    assert subspaces(1, 250, 62_666) == 24, "there is no smaller one"


def _point(recall: float, qps: float, **params: int) -> dict[str, Any]:
    return {"params": params, "recall": recall, "qps": qps, "qps_spread": [qps * 0.9, qps * 1.1]}


def _result(**curves: list[dict[str, Any]]) -> dict[str, Any]:
    loaded = {
        name: {"kind": "graph", "built_s": 1.0, "size_bytes": 1_000, "resident_bytes": None}
        for name in map(_name, curves)
    }
    table = {
        "rows": 10,
        "curves": {_name(name): points for name, points in curves.items()},
        "loaded": loaded,
        "filtered": {},
        "compact_default": None,
    }
    result: dict[str, Any] = {"tables": {"small": table}, "rebuilt": {}, "http": None, "problems": []}
    result["machine"] = {"processor": "a <fast> one", "date": "today"}
    result["keys"] = report.keys(result)
    result["aims"] = [aim.as_json() for aim in report.aims(result)]
    result["notes"] = report.notes(result)
    return result


def _name(keyword: str) -> str:
    return keyword.replace("_", "-")


def test_the_last_line_holds_what_was_measured_and_what_was_not_is_said() -> None:
    ours = [_point(0.98, 9_000, ef=16), _point(0.999, 3_000, ef=64)]
    result = _result(
        halny_fast=ours,
        hnswlib=[_point(0.98, 4_500, ef=16), _point(0.999, 1_500, ef=64)],
        usearch=[_point(0.9, 4_500, ef=16), _point(0.97, 1_500, ef=64)],
    )
    assert result["keys"] == {"qps_r99_vs_hnswlib": pytest.approx(2.0)}
    assert report.last_line(result["keys"]) == "bench-vectors: qps_r99_vs_hnswlib=2.00"
    assert any("usearch" in note and "at most 0.9700" in note for note in result["notes"])
    assert "its recall is at most 0.9700" in report.tables(result)


def test_the_picture_is_well_formed_and_shows_every_system() -> None:
    import xml.etree.ElementTree as xml

    result = _result(
        halny_fast=[_point(0.98, 9_000, ef=16), _point(1.0, 3_000, ef=64)],
        hnswlib=[_point(0.1, 9_000, ef=16)],
    )
    drawn = picture.picture(result)
    assert xml.fromstring(drawn).tag.endswith("svg")
    assert "halny-fast" in drawn
    assert "hnswlib" not in drawn, "there is nothing of it in the range that is drawn"


_ECHO = """\
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "end":
        sys.exit("it is over")
    print(json.dumps({"error": "no such thing"} if asked["do"] == "fail" else asked), flush=True)
"""


def test_a_process_answers_line_by_line_and_says_why_it_does_not(tmp_path: Path) -> None:
    system = System("echo", "graph", (sys.executable, "-c", _ECHO), {}, ())
    with running(system, tmp_path) as process:
        assert process.ask(do="this", number=1) == {"do": "this", "number": 1}
        with pytest.raises(SystemLost, match="no such thing"):
            process.ask(do="fail")
        with pytest.raises(SystemLost, match="it is over"):
            process.ask(do="end")
        with pytest.raises(SystemLost):
            process.ask(do="this")


def test_a_run_that_is_broken_off_does_not_wait_for_its_processes(tmp_path: Path) -> None:
    deaf = "import time\nwhile True: time.sleep(60)"
    system = System("deaf", "graph", (sys.executable, "-c", deaf), {}, ())
    with pytest.raises(KeyboardInterrupt), running(system, tmp_path) as process:
        raise KeyboardInterrupt
    # It did not end with its input, and was waited for.
    assert process.resident_bytes() is None


def test_a_process_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    system = System("mute", "graph", (sys.executable, "-c", "import sys; sys.stdin.read()"), {}, ())
    with running(system, tmp_path) as process, pytest.raises(SystemLost, match="no answer within"):
        process.ask(0.2, do="this")
