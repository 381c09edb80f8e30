"""The order of the trainings beside other programs, what is kept of a call that was cut off, and the tables."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.pool import Limits, Pool, Task, read_rows
from benchmarks.peers.recipes import Case
from benchmarks.peers.table import differences_table, means_table
from benchmarks.quality_peers import best_of, trials, wanted

PEERS = ("lorasmith", "lorasmith-recipe", "kohya")


def row_of(case: Case, likeness: float) -> dict[str, Any]:
    numbers = {"likeness": [likeness] * 2, "others": [1.0] * 2, "copying": [0.5], "drift_features": [0.0]}
    named = {"name": case.name, "peer": case.peer, "setting": case.setting, "lr": case.lr, "rank": case.rank}
    return named | numbers | {"drift_pixels": [0.0]}


def test_the_best_setting_is_not_chosen_before_the_search_is_complete() -> None:
    cases = trials("kohya")
    rows = [row_of(case, index / 10) for index, case in enumerate(cases[:-1])]
    assert best_of(rows, "kohya") is None
    # a trial that failed is no winner, and the search does not wait for it
    rows.append({"name": cases[-1].name, "peer": "kohya", "setting": "trial", "error": "no"})
    winner = best_of(rows, "kohya")
    assert winner is not None
    assert (winner.lr, winner.rank) == (cases[-2].lr, cases[-2].rank)


def test_a_cut_off_search_holds_the_same_settings_of_all_programs() -> None:
    cases = [case for case in wanted([], PEERS) if case.setting == "trial"]
    assert {case.peer for case in cases[:2]} == {"lorasmith", "kohya"}
    for first, second in zip(cases[::2], cases[1::2], strict=True):
        assert (first.lr, first.rank) == (second.lr, second.rank)


def test_defaults_come_first_and_winners_last_with_each_seed() -> None:
    rows = [row_of(case, 0.5) for case in trials("kohya")]
    settings = [case.setting for case in wanted(rows, PEERS)]
    assert settings == ["default"] * 9 + ["trial"] * 12 + ["best"] * 3


def number(value: int, on_cpu: bool) -> dict[str, Any]:
    return {"value": value, "on_cpu": on_cpu}


def fail(on_cpu: bool) -> dict[str, Any]:
    raise ValueError("not this one")


def test_rows_of_an_earlier_call_are_not_made_again(tmp_path: Path) -> None:
    to = tmp_path / "rows.jsonl"
    failed = {"name": "c", "error": "exit code 1"}
    to.write_text(json.dumps({"name": "a", "value": 1}) + "\n" + json.dumps(failed) + '\n{"name": "b", "va')
    assert [row["name"] for row in read_rows(to)] == ["a"]


@pytest.mark.slow
def test_a_failed_piece_of_work_leaves_a_row_with_its_log(tmp_path: Path) -> None:
    to = tmp_path / "rows.jsonl"
    pool = Pool(Limits(1, 1, 5), tmp_path / "logs", to, lambda row: None)
    pool.run(lambda: [Task("good", {"peer": "x"}, partial(number, 3)), Task("bad", {"peer": "x"}, fail)])
    rows = {row["name"]: row for row in map(json.loads, to.read_text().splitlines())}
    assert rows["good"] == {"name": "good", "peer": "x", "value": 3, "on_cpu": False}
    assert rows["bad"]["error"] == "ValueError: not this one"
    assert "in fail" in rows["bad"]["log"]


def test_no_work_is_begun_when_time_is_up(tmp_path: Path) -> None:
    pool = Pool(Limits(2, 0, 0), tmp_path / "logs", tmp_path / "rows.jsonl", lambda row: pytest.fail("work was done"))
    pool.run(lambda: [Task("late", {}, fail)])
    assert pool.rows == []


def test_intervals_are_those_over_trainings() -> None:
    """Three trainings with 0, 50 and 100 %: Student's t for 2 degrees of freedom is 2.92, so 2.92 * 50 / sqrt(3)."""
    rows = [row_of(Case("kohya", "default", seed), share) for seed, share in enumerate((0.0, 0.5, 1.0))]
    assert "| kohya | default | 3 | 50 ± 84 | 100 ± 0 |" in means_table(rows)


def test_a_difference_within_its_interval_is_called_noise() -> None:
    best = {peer: [row_of(Case(peer, "best", s, 1e-3, 4), x) for s, x in enumerate(shares)]
            for peer, shares in {"lorasmith": (0.8, 1.0), "kohya": (0.7, 0.9), "peft": (0.0, 0.1)}.items()}  # fmt: skip
    table = differences_table([row for rows in best.values() for row in rows], "lorasmith")
    # t for 2 degrees of freedom times sqrt(0.02 * (1/2 + 1/2))
    assert "| kohya | best: lr 0.001, rank 4 | 2 | -10 ± 41 (noise) |" in table
    assert "| peft | best: lr 0.001, rank 4 | 2 | -85 ± 33 |" in table
