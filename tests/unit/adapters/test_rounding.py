"""What is left of a change on weights that are stored in few bits."""

from __future__ import annotations

import pytest
import torch

from lorasmith.adapters.rounding import RoundingLoss, rounded
from lorasmith.core.rounding_text import describe, warning


def loss_of(weight: list[float], change: list[float], stored: torch.dtype) -> RoundingLoss:
    loss = RoundingLoss()
    loss.add(torch.tensor(weight), torch.tensor(change), stored)
    return loss


def test_a_change_below_half_the_distance_of_two_numbers_is_lost() -> None:
    # between 1 and 2, fp16 has 2^-10 between its numbers, and e4m3 2^-3
    ulp = 2.0**-10
    loss = loss_of([1.0, 1.0, 1.0, 1.0], [0.4 * ulp, 0.6 * ulp, 3 * ulp, 0.0], torch.float16)
    assert (loss.entries, loss.unchanged) == (3, 1)
    assert loss.lost_share == pytest.approx(1 / 3)
    assert loss.squared_error == pytest.approx((0.4**2 + 0.4**2) * ulp**2)
    assert loss_of([1.0, 1.0], [0.06, 0.07], torch.float8_e4m3fn).unchanged == 1


def test_what_is_lost_is_measured_from_the_stored_weight() -> None:
    # 1 + 2^-12 is stored as 1, so a change of 2^-10 arrives whole
    assert loss_of([1 + 2.0**-12], [2.0**-10], torch.float16).error == 0


def test_nothing_is_lost_of_no_change() -> None:
    loss = loss_of([1.0], [0.0], torch.float16)
    assert (loss.lost_share, loss.error) == (0.0, 0.0)


def test_numbers_beyond_the_range_become_the_largest() -> None:
    assert rounded(torch.tensor([1e6, -1e6]), torch.float8_e4m3fn).tolist() == [448.0, -448.0]


def test_messages_say_how_much_and_what_to_do() -> None:
    lost = {"unchanged": 0.71, "error": 0.42}
    assert describe(lost) == "71% of the entries do not change the stored weight, error 0.42 of the size of the change"
    assert "Use a base in fp16 there" in warning("fp8", lost)
    assert warning("fp16", {"unchanged": 0.9, "error": 0.1}) == ""
