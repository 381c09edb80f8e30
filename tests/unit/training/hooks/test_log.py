"""The log loses no event, and keeps their order, although on a GPU it writes what it read one step later."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.training.hooks.log import Log
from lorasmith.training.output.events import Events
from lorasmith.training.step.metrics import MetricsBuffer, StepOutcome, StepRecord


def run_on(device: str, folder: Path, steps: int) -> Any:
    """What the hook needs of a run, on a device that need not be there."""
    return SimpleNamespace(
        device=SimpleNamespace(type=device),
        state=SimpleNamespace(step=0, seconds=0.0),
        length=SimpleNamespace(steps=steps),
        metrics=MetricsBuffer(),
        events=Events(folder, tensorboard=False),
        hook_state={},
    )


def add_step(run: Any, loss: float = 0.5) -> None:
    """The run makes a step with this loss."""
    run.state.step += 1
    yes, number = torch.tensor(True), torch.tensor(loss)
    finite = torch.isfinite(number)
    outcome = StepOutcome(number, torch.tensor(1.0), finite, yes, {})
    run.metrics.add(StepRecord(run.state.step, 0, outcome, ("a.png",), {"unet": 1e-3}, 0.0, run.state.step))


def make_steps(run: Any, log: Log, count: int) -> None:
    """The run makes steps, and the log acts after each."""
    for _ in range(count):
        add_step(run)
        log.after_step(run)


def written(run: Any) -> list[tuple[str, int]]:
    if not run.events.path.exists():
        return []
    lines = [json.loads(line) for line in run.events.path.read_text("utf-8").splitlines()]
    return [(line["event"], line["step"]) for line in lines]


def test_on_a_gpu_steps_are_written_while_the_next_one_is_computed(tmp_path: Path) -> None:
    run, log = run_on("cuda", tmp_path, steps=25), Log()
    make_steps(run, log, 10)
    assert written(run) == []
    add_step(run)
    log.after_step(run)
    assert written(run) == [("step", number) for number in range(1, 11)]


def test_no_step_is_missing_at_the_end(tmp_path: Path) -> None:
    run, log = run_on("cuda", tmp_path, steps=23), Log()
    make_steps(run, log, 23)
    log.finish(run)
    assert written(run) == [("step", number) for number in range(1, 24)]


def test_an_event_of_another_hook_comes_after_the_steps_before_it(tmp_path: Path) -> None:
    run, log = run_on("cuda", tmp_path, steps=50), Log()
    make_steps(run, log, 10)
    run.events.write("validation", 10, loss=0.1)
    assert written(run) == [*[("step", number) for number in range(1, 11)], ("validation", 10)]


def test_a_checkpoint_finds_all_steps_in_the_log(tmp_path: Path) -> None:
    run, log = run_on("cuda", tmp_path, steps=50), Log()
    make_steps(run, log, 13)
    log.act(run)
    assert written(run) == [("step", number) for number in range(1, 14)]


def test_a_run_that_diverges_on_a_gpu_leaves_its_last_steps_in_the_log(tmp_path: Path) -> None:
    run, log = run_on("cuda", tmp_path, steps=50), Log(every_steps=4)
    add_step(run)
    for _ in range(2):
        add_step(run, loss=float("nan"))
        log.after_step(run)
    add_step(run, loss=float("nan"))
    with pytest.raises(LorasmithError, match="not a finite number"):
        log.after_step(run)
    run.events.close()
    assert written(run) == [("step", 1), ("skip", 2), ("skip", 3), ("skip", 4)]


def test_on_a_cpu_each_step_is_written_at_once(tmp_path: Path) -> None:
    run, log = run_on("cpu", tmp_path, steps=3), Log()
    for number in range(1, 4):
        add_step(run)
        log.after_step(run)
        assert len(written(run)) == number
