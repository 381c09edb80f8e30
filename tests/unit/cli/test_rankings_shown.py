"""What `evaluate` and `sweep` print of rankings: intervals, and what is noise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lorasmith.cli.evaluate import print_numbers
from lorasmith.cli.sweep import make_table, print_ranking, to_json
from lorasmith.core.intervals import Interval
from lorasmith.core.quality import Values
from lorasmith.evaluation.measure import Measurement
from lorasmith.evaluation.report import build_report
from lorasmith.evaluation.results import CandidateResult, Evaluation
from lorasmith.training.sweep import SweepResult
from lorasmith.training.sweep.ranking import RunRanking

LEVELS = (0.5, 0.6, 0.8, 0.7, 0.5, 0.6, 0.8, 0.7)
"""Prompts differ more from each other than LoRAs do."""


def candidate(name: str, gain: float, unevenness: float = 0.0, is_lora: bool = True) -> CandidateResult:
    rows = tuple((level + gain + unevenness * (-1) ** i,) for i, level in enumerate(LEVELS))
    none = torch.zeros(0)
    return CandidateResult(name, [], Measurement(none, none, none, ()), {"likeness": Values(rows)}, is_lora)


def test_evaluate_says_which_lora_is_the_best_and_what_is_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        candidate("base alone", 0.2, is_lora=False),
        candidate("good", 0.1),
        candidate("like it", 0.099, unevenness=0.02),
        candidate("worse", 0.05),
    ]
    evaluation = Evaluation(tmp_path, "judge", [], None, rows)
    print_numbers(evaluation)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "best by likeness: good; not distinguishable from it: like it"
    assert lines[1].split() == ["likeness"]
    assert "0.700 (0." in next(line for line in lines if line.startswith("worse"))
    assert evaluation.to_dict()["rankings"]["likeness"]["order"] == ("good", "like it", "worse")
    page = build_report(evaluation)
    table = page[page.index("likeness</th>") :]
    assert table.count("<td><b>") == 2
    assert "Bold: the best LoRA" in table


def test_evaluate_calls_a_ranking_by_one_picture_weak_and_takes_it_for_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drawn_once(name: str, likeness: float) -> CandidateResult:
        return replace(candidate(name, 0), values={"likeness": Values(((likeness,),))})

    evaluation = Evaluation(tmp_path, "judge", [], None, [drawn_once("high", 0.8), drawn_once("low", 0.2)])
    print_numbers(evaluation)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "best by likeness: high; not distinguishable from it: low; weak evidence: draw 8 pictures or more"
    )
    assert "0.800 (one value)" in lines[-3]
    assert evaluation.to_dict()["rows"][0]["intervals"]["likeness"] == {"mean": 0.8, "low": None, "high": None}
    assert evaluation.to_dict()["rankings"]["likeness"]["weak"] is True
    assert "Weak evidence: likeness (draw 8 pictures or more)." in build_report(evaluation)


def run(name: str, loss: float | None, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": name, "values": {"optimizer.lr": name}, "state": "finished", "loss": 0.1, "validation_loss": 0.1,
        "best_loss": loss, "best_step": 5, "seconds": 1.0, "file": f"{name}.safetensors", "best_file": None,
        "numbers": {}, "message": "",
    }  # fmt: skip
    return row | more


def shown(result: SweepResult) -> str:
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture:
        console.print(make_table(result))
    return capture.get()


def test_the_table_of_a_sweep_says_what_is_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    behind = {"b": Interval(0.004, 0.003, 0.005), "c": Interval(0.001, -0.002, 0.003)}
    ranking = RunRanking("loss", "a", ["c"], behind, weak=True)
    runs = [run("unmeasured", None), run("b", 0.104), run("c", 0.101), run("a", 0.1)]
    result = SweepResult(tmp_path, runs, ranking, {}, None, True)
    lines = shown(result).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["a", "c", "b", "unmeasured"]
    assert "0.0010 (-0.0020 to 0.0030), noise" in lines[2]
    assert "0.0040 (0.0030 to 0.0050)  " in lines[3]
    print_ranking(result)
    said = capsys.readouterr().err
    assert "the difference is noise (its 90 % interval contains 0): c" in said
    assert "weak evidence: hold four images or more out" in said
    assert to_json(result)["behind_the_best"]["b"] == {"mean": 0.004, "low": 0.003, "high": 0.005}


def test_a_sweep_that_is_ranked_by_a_number_shows_it(tmp_path: Path) -> None:
    low = {"likeness": {"mean": 0.6, "low": 0.5, "high": 0.7}}
    high = {"likeness": {"mean": 0.8, "low": 0.75, "high": 0.85}}
    ranking = RunRanking("likeness", "high")
    result = SweepResult(
        tmp_path, [run("low", 0.1, numbers=low), run("high", 0.2, numbers=high)], ranking, {}, None, True
    )
    lines = shown(result).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["high", "low"]
    assert "0.800 (0.750 to 0.850)" in lines[1]


def test_a_sweep_that_is_ranked_by_one_picture_says_that_this_is_weak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = {"likeness": {"mean": 0.6, "low": None, "high": None}}
    ranking = RunRanking("likeness", "only", weak=True)
    result = SweepResult(tmp_path, [run("only", 0.1, numbers=numbers)], ranking, {}, None, True)
    assert "0.600 (one value)" in shown(result)
    print_ranking(result)
    assert "weak evidence: draw 8 pictures or more" in capsys.readouterr().err


def test_of_one_image_there_is_no_interval(tmp_path: Path) -> None:
    ranking = RunRanking("loss", "a", ["b"], {"b": Interval(0.004, -math.inf, math.inf)}, weak=True)
    result = SweepResult(tmp_path, [run("a", 0.1), run("b", 0.104)], ranking, {}, None, True)
    assert "0.0040, noise" in shown(result)
    assert to_json(result)["behind_the_best"]["b"] == {"mean": 0.004, "low": None, "high": None}
