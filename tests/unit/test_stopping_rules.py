"""What criteria do with constructed runs of `tools.tiny_base.stopping`, and the trial of cleaning files."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tools.tiny_base.clean import without_intruders, without_outliers
from tools.tiny_base.stopping import steps_to_judge
from tools.tiny_base.stopping_rules import (
    best_by_likeness,
    best_by_loss,
    dvar_stop,
    half,
    last_step,
    patience_stop,
    quality_at,
    table_of,
)


def run_of(losses: list[float], likeness: list[float], seed: int = 0) -> dict[str, Any]:
    """A run that is judged every 75 steps; validations are at 25, 50, ..., with losses that rise or fall evenly."""
    judged = {
        str(75 * (index + 1)): {
            "found": [1.0, 0.0] * 2,
            "likeness": [value, value / 2] * 2,
            "others": [1.0] * 4,
            "drift": [0.1 * (index + 1)] * 4,
        }
        for index, value in enumerate(likeness)
    }
    held_out = {str(25 * index): [loss + 0.1 * image for image in range(4)] for index, loss in enumerate(losses)}
    fixed = [[5 * count, 1 / count] for count in range(1, 61)]
    return {"case": "three images", "seed": seed, "judged": judged, "held_out": held_out, "fixed_loss": fixed}


@pytest.mark.parametrize(("steps", "judged"), [(300, [75, 150, 225, 300]), (100, [75, 100]), (50, [50])])
def test_the_last_step_is_judged_also_where_it_is_no_75th(steps: int, judged: list[int]) -> None:
    assert steps_to_judge(steps) == judged


RISING = run_of([0.5, 0.3, 0.2, 0.21, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1], [0.2, 0.4, 0.6, 0.8])
FALLING = run_of([1 - 0.05 * count for count in range(13)], [0.2, 0.8, 0.5, 0.4])


def test_a_rising_held_out_loss_stops_and_chooses_early_whatever_the_pictures_show() -> None:
    assert best_by_loss(RISING) == 75
    assert best_by_likeness(RISING) == last_step(RISING) == 300
    # five validations are worse than that of step 50 (75 is not distinguishable from it only where images differ)
    assert patience_stop(RISING) == 176


def test_a_falling_held_out_loss_keeps_the_last_weights_and_likeness_does_not() -> None:
    assert best_by_loss(FALLING) == patience_stop(FALLING) == 300
    assert best_by_likeness(FALLING) == 150


def test_dvar_ends_a_run_whose_loss_falls_at_first_as_soon_as_it_may() -> None:
    assert dvar_stop(RISING) == 201


def test_quality_is_that_of_pictures_that_nothing_was_chosen_by() -> None:
    assert half([1, 2, 3, 4], 0) == [1, 3]
    # the second half of the pictures has half of the likeness
    assert quality_at(RISING, 75, "likeness") == pytest.approx(0.1)
    # a run that ended at step 176 is judged by its next file
    assert quality_at(RISING, 176, "likeness") == pytest.approx(0.3)
    assert quality_at(RISING, 176, "drift") == pytest.approx(0.3)


def test_the_table_compares_with_the_fixed_length_seed_by_seed() -> None:
    lines = table_of([RISING, run_of([0.5] * 13, [0.2, 0.4, 0.6, 0.8], seed=1)]).splitlines()
    assert lines[2].startswith("| three images, 2 seeds | fixed length | 300 (300 - 300) | 0 % | 0.0 | 40.0 | 100.0 |")
    by_loss = next(line for line in lines if "held-out loss" in line)
    assert "188 (75 - 300)" in by_loss
    assert "25.0; -15.0 (" in by_loss


def test_cleaning_takes_only_what_the_weight_does_not_have() -> None:
    weight = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert torch.allclose(without_intruders(weight, torch.zeros(4, 4)), torch.zeros(4, 4))
    # louder than all else, and like none of the weight's own directions
    direction = torch.full((4,), 0.5)
    change = 50 * torch.outer(direction, direction)
    assert without_intruders(weight, change).norm() < 0.4 * change.norm()


def test_outlier_channels_are_cut_to_the_size_of_the_others() -> None:
    change = torch.ones(16, 4)
    change[3] *= 10
    cut = without_outliers(torch.zeros(16, 4), change)
    assert torch.equal(cut[:3], change[:3])
    assert 2 < cut[3].norm() < change[3].norm()
