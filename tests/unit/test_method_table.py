"""The comparison of methods: paired differences, and noise called noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lorasmith.training.config import load_config
from tools.tiny_base import gate_kinds
from tools.tiny_base.method_list import METHODS, merged
from tools.tiny_base.method_table import as_text, difference, last_loss, print_tables, steps_to
from tools.tiny_base.methods import first_pictures


def row(method: str, concept: str, seed: int, likeness: float, **changes: Any) -> dict[str, Any]:
    held_out = {"0": 0.4, "150": 0.2, "200": 0.1}
    scores = {"likeness": likeness, "found": 1.0, "others": 0.9, "drift": 0.1}
    return {"method": method, "concept": concept, "seed": seed, "held_out": held_out, **scores, **changes}


def test_differences_are_taken_from_the_run_of_the_same_concept_and_seed() -> None:
    reference = [row("default", "garp", seed, 0.1 * seed) for seed in range(3)]
    rows = [row("T-LoRA", "garp", seed, 0.1 * seed + 0.02 + 0.001 * seed) for seed in (2, 0, 1, 7)]
    found = difference(rows, reference, lambda row: row["likeness"])
    assert found is not None
    assert found.mean == pytest.approx(0.021)
    # Student's quantile of 95 % with 2 degrees of freedom, 2.92, times the standard error
    assert found.high - found.mean == pytest.approx(2.92 * 0.001 / math.sqrt(3), rel=1e-3)
    assert "noise" not in as_text(found)
    assert difference(rows, [], lambda row: row["likeness"]) is None


def test_an_interval_with_zero_in_it_is_noise() -> None:
    reference = [row("default", "garp", seed, 0.5) for seed in range(3)]
    rows = [row("T-LoRA", "garp", seed, 0.5 + change) for seed, change in enumerate((-0.1, 0.0, 0.2))]
    assert "(noise)" in as_text(difference(rows, reference, lambda row: row["likeness"]))
    assert "one run" in as_text(difference(rows[:1], reference, lambda row: row["likeness"]))


def test_steps_to_a_loss_are_interpolated() -> None:
    assert steps_to(row("default", "garp", 0, 0.1), 0.3) == pytest.approx(75)
    assert steps_to(row("default", "garp", 0, 0.1), 0.15) == pytest.approx(175)
    assert steps_to(row("default", "garp", 0, 0.1), 0.05) is None
    assert last_loss(row("default", "garp", 0, 0.1)) == pytest.approx(100)


def test_tables_say_what_is_missing_by_leaving_it_empty(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables([row("default", "garp", 0, 0.5), row("preserve", "garp", 0, 0.6)])
    lines = capsys.readouterr().out.splitlines()
    assert "| preserve | 1 | 60.0 | 100.0 | 90.0 | 10.0 | +10.0 (one run)" in lines[3]


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_method_is_a_valid_config(method: Any) -> None:
    assert method.against in METHODS
    changes = {key: value for key, value in method.changes.items() if key != "repeats"}
    table = {"base": "tiny-sd", "output": "x", "data": {"images": "y"}, "objective": {"weightings": ["min_snr"]}}
    load_config(merged(table, changes))


def test_fewer_pictures_are_repeated_for_the_same_number_of_views(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.png").touch()
        (tmp_path / f"{number:02}.txt").write_text(str(number))
    folder, repeats = first_pictures(tmp_path, 1, tmp_path / "first", 2)
    assert repeats == 24
    assert sorted(file.name for file in folder.iterdir()) == ["00.png", "00.txt"]
    assert first_pictures(tmp_path, 8, tmp_path / "more", 2)[1] == 3


def test_kinds_are_shown_with_their_worst_and_best_seed() -> None:
    facts = {"kind": "lora", "steps": 200, "lr": 0.0012, "parameters": 1000}
    rows = [facts | {"garp": garp, "others": 1.0} for garp in (0.5, 1.0)]
    line = "| lora | 200 | 0.0012 | 2 | 75 (50 - 100) | 100 (100 - 100) | 1,000 |"
    assert gate_kinds.table_of(rows).splitlines()[2] == line
