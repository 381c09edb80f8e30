"""A run that says that it is finished has its LoRA and its last checkpoint, whatever happens in its last step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import Field
from test_resume import assert_equal, events, settings, weights

from lorasmith.core.errors import WriteError
from lorasmith.training.config import load_config
from lorasmith.training.hooks.base import Hook
from lorasmith.training.session import train

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class SendsSignal(Hook):
    """Sends a signal to this process in the hooks of one step."""

    kind: Literal["sends_signal"] = "sends_signal"
    step: int
    at_end: bool = False

    def due(self, run: Run) -> bool:
        return run.state.step == self.step

    def act(self, run: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class CountsActs(Hook):
    """Remembers the steps after which it acts; fails at those in `failing`."""

    kind: Literal["counts_acts"] = "counts_acts"
    failing: tuple[int, ...] = ()
    acts: list[int] = Field(default_factory=list)

    def act(self, run: Run) -> None:
        if run.state.step in self.failing:
            raise WriteError("x.safetensors: the disk is full")
        self.acts.append(run.state.step)


def fake_run(step: int) -> Any:
    said: list[str] = []
    progress = SimpleNamespace(say=said.append, said=said)
    length = SimpleNamespace(steps=4, steps_per_epoch=2)
    return SimpleNamespace(
        state=SimpleNamespace(step=step), hook_state={}, resumed=False, progress=progress, length=length
    )


def test_a_hook_that_is_late_by_the_clock_acts_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    hook, run = CountsActs(every_minutes=1), fake_run(0)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    hook.start(run)
    run.state.step = 4
    hook.after_step(run)
    assert hook.acts == []
    # a slow preview after the last step: the minutes are over before `finish` is called
    now += 600
    hook.finish(run)
    assert hook.acts == [4]


def test_a_hook_acts_once_after_the_last_step() -> None:
    hook, run = CountsActs(every_steps=2), fake_run(4)
    hook.after_step(run)
    hook.finish(run)
    assert hook.acts == [4]


def test_hooks_of_one_class_are_due_by_themselves() -> None:
    hooks = [CountsActs(every_steps=2), CountsActs(every_steps=3)]
    run = fake_run(4)
    for hook in hooks:
        hook.after_step(run)
    for hook in hooks:
        hook.finish(run)
    assert [hook.acts for hook in hooks] == [[4], [4]]


def test_a_file_that_cannot_be_written_is_reported_and_written_at_the_end() -> None:
    hook, run = CountsActs(every_steps=2, failing=(2,)), fake_run(2)
    hook.after_step(run)
    assert "step 2: counts_acts failed, the run goes on: x.safetensors: the disk is full" in run.progress.said
    failing, run = CountsActs(every_steps=2, failing=(4,)), fake_run(4)
    failing.after_step(run)
    with pytest.raises(WriteError, match="disk is full"):
        failing.finish(run)


@pytest.mark.slow_except("4")
@pytest.mark.parametrize("step", [3, 4])
def test_a_signal_near_the_end(pictures: Callable[..., Path], tmp_path: Path, step: int) -> None:
    """After the last step the run is finished; before it, it is stopped, and says so."""
    images, run = pictures(3), tmp_path / "run"
    table = settings(images, run, steps=4, hooks=[{"kind": "sends_signal", "step": step}])
    table["checkpoint"] = {"every_minutes": 60}
    result = train(load_config(table))
    assert result.finished == (step == 4)
    assert (run / "checkpoints" / f"step-{step:08d}").is_dir()
    if step == 4:
        assert result.file == run / "garp.safetensors"
        assert (run / "garp.safetensors").is_file()
        return
    assert result.file is None
    whole = tmp_path / "whole"
    train(load_config(settings(images, whole, steps=4)))
    train(load_config(run / "config.toml"), resume=run)
    assert_equal(weights(run), weights(whole))
    assert [e["step"] for e in events(run) if e["event"] == "step"] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("keep", [True, False])
def test_the_advice_after_a_full_disk_names_a_checkpoint_only_if_there_is_one(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    run = tmp_path / "run"
    table = settings(pictures(3), run, steps=4, hooks=[{"kind": "counts_acts", "at_end": True, "failing": [4]}])
    if not keep:
        monkeypatch.setattr("lorasmith.training.output.checkpoint.save", disk_is_full)
    with pytest.raises(WriteError) as caught:
        train(load_config(table))
    assert ("last checkpoint is of step 4" in str(caught.value)) == keep
    assert ("has no checkpoint" in str(caught.value)) == (not keep)


def disk_is_full(run: Run) -> None:
    raise WriteError("state.safetensors: the disk is full")
