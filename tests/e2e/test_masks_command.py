"""`lorasmith masks`, and training with what it made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import Program


@pytest.mark.slow
def test_masks_are_made_and_trained_with(
    config: Callable[..., Path], pictures: Callable[..., Path], here: Program
) -> None:
    folder = pictures(4)
    answer = here("masks", folder, "--from", "color", "--json")
    assert answer.code == 0, answer.err
    made = json.loads(answer.out)
    assert len(made["made"]) == 4
    assert all(0.05 < share < 0.6 for share in made["made"].values())
    assert Path(made["sheet"]).is_file()
    again = here("masks", folder, "--from", "color")
    assert "4 exist already" in again.out
    path = config(images=folder)
    answer = here("train", path, f"data.masks={folder}/masks")
    assert answer.code == 0, answer.err
    assert "Traceback" not in answer.err


def test_a_mistake_is_one_message(pictures: Callable[..., Path], here: Program) -> None:
    answer = here("masks", pictures(3))
    assert answer.code == 1
    assert answer.err.count("no alpha channel") == 1
    assert "--from color" in answer.err
