"""sd-scripts' options of files and states, converted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.compat.script import Conversion
from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.hooks.state import States

Convert = Callable[..., Conversion]


def removed_by_the_original(step: int, every: int, last: int) -> int:
    """The step whose file sd-scripts removes when it has written the one of `step`."""
    number = step - last - 1
    return number - number % every


@pytest.mark.parametrize(("every", "last"), [(10, 30), (10, 5), (10, 10), (3, 7), (1, 1), (7, 20)])
def test_files_of_steps_that_stay(every: int, last: int, convert: Convert) -> None:
    keep = load_config(convert(save_every_n_steps=every, save_last_n_steps=last).config).export.keep
    assert keep is not None
    steps = list(range(every, 20 * every + 1, every))
    theirs: list[int] = []
    for i, step in enumerate(steps):
        theirs = [s for s in (*theirs, step) if s != removed_by_the_original(step, every, last)]
        assert steps[: i + 1][-keep:] == theirs


def test_so_many_files_of_epochs_stay(convert: Convert) -> None:
    """The original removes the file of epoch - every * last: as many files as `last` says remain."""
    found = load_config(convert(save_every_n_epochs=3, save_last_n_epochs=2).config).export
    assert (found.every_epochs, found.keep_epochs, found.keep) == (3, 2, None)


def states(conversion: Conversion) -> States:
    (hook,) = load_config(conversion.config).hooks
    assert isinstance(hook, States)
    return hook


def test_states_are_kept_as_files_are_unless_they_have_numbers_of_their_own(convert: Convert) -> None:
    start: dict[str, Any] = {"save_state": True, "save_every_n_epochs": 1, "save_every_n_steps": 5}
    start |= {"save_last_n_epochs": 3, "save_last_n_steps": 10}
    found = states(convert(**start))
    assert (found.keep_epochs, found.keep, found.folder) == (3, 3, Path("out"))
    found = states(convert(**start, save_last_n_epochs_state=1, save_last_n_steps_state=5))
    assert (found.keep_epochs, found.keep) == (1, 2)


def test_a_state_of_the_end_alone(convert: Convert) -> None:
    found = states(convert(save_state_on_train_end=True, save_every_n_epochs=1))
    assert (found.every_epochs, found.every_steps, found.at_end) == (None, None, True)
    assert load_config(convert(save_every_n_epochs=1).config).hooks == ()


def test_a_state_of_the_original_is_told_what_to_do(convert: Convert, train_dir: Path) -> None:
    state = train_dir / "theirs-state"
    state.mkdir()
    (state / "optimizer.bin").write_bytes(b"")
    (state / "train_state.json").write_text(json.dumps({"current_epoch": 3, "current_step": 120}))
    with pytest.raises(LorasmithError, match=r"sd-scripts wrote.*theirs-state/model.safetensors.*initial_step = 120"):
        convert(resume=str(state))
    with pytest.raises(LorasmithError, match="not a run of lorasmith"):
        convert(resume="img")


def test_where_a_run_begins(convert: Convert) -> None:
    assert load_config(convert(initial_step=7).config).first_step == 7
    assert load_config(convert(initial_epoch=3).config).first_epoch == 2
    both = load_config(convert(initial_epoch=3, initial_step=7, skip_until_initial_step=True).config)
    assert (both.first_step, both.first_epoch) == (7, 0)
    assert load_config(convert(initial_epoch=1).config).first_epoch == 0
