"""Optimizers that leave bad steps out, averages, checkpoints as plain tensors, logs that rewind."""

import json
from pathlib import Path

import pytest
import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.training.output.checkpoint import flatten, unflatten
from lorasmith.training.output.events import Events
from lorasmith.training.step.ema import Ema
from lorasmith.training.step.gradients import LossScale, step_if_finite, unscale_and_clip
from lorasmith.training.step.metrics import MetricsBuffer, StepOutcome, StepRecord
from lorasmith.training.step.optimizers import AdamW, AdamW8bit, AnyOptimizer, OptimizerConfig

KINDS: list[OptimizerConfig] = [AdamW(), AdamW8bit(), AnyOptimizer(name="SGD", args={"momentum": 0.9})]


def parameter(seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_a_step_that_is_not_finite_changes_nothing(config: OptimizerConfig) -> None:
    weight, twin = parameter(), parameter()
    ours, reference = (config.build([{"params": [w], "lr": 0.1}]) for w in (weight, twin))
    for optimizer, w, bad in ((ours, weight, True), (reference, twin, False)):
        for seed in range(3):
            if bad and seed == 1:
                w.grad = torch.full_like(w, float("nan"))
                step_if_finite(optimizer, torch.tensor(False))
            w.grad = parameter(seed + 10).detach()
            step_if_finite(optimizer, torch.tensor(True))
    assert torch.equal(weight, twin)
    assert not torch.equal(weight, parameter())


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_optimizer_state_goes_through_tensors_and_json(config: OptimizerConfig) -> None:
    weight, twin = parameter(), parameter()
    first = config.build([{"params": [weight], "lr": 0.1}])
    weight.grad = parameter(1).detach()
    first.step()
    tensors, rest = flatten(first.state_dict())
    second = config.build([{"params": [twin], "lr": 0.1}])
    second.load_state_dict(unflatten(tensors, json.loads(json.dumps(rest))))
    twin.data.copy_(weight)
    for optimizer, w in ((first, weight), (second, twin)):
        w.grad = parameter(2).detach()
        optimizer.step()
    assert torch.equal(weight, twin)


def test_an_unknown_optimizer_names_the_nearest() -> None:
    with pytest.raises(LorasmithError, match='did you mean "Adafactor"'):
        AnyOptimizer(name="AdaFactr").build([{"params": [parameter()]}])


def test_clipping_really_clips_and_equals_torch() -> None:
    ours, theirs = [parameter(i) for i in range(3)], [parameter(i) for i in range(3)]
    for a, b in zip(ours, theirs, strict=True):
        a.grad, b.grad = parameter(9).detach() * 4, parameter(9).detach()
    norm = unscale_and_clip(ours, torch.tensor(4.0), 1.0)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    assert torch.allclose(norm, expected)
    assert all(torch.allclose(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True) if a.grad is not None)


def test_loss_scale_halves_and_recovers() -> None:
    scale = LossScale(True, torch.device("cpu"))
    start = float(scale.value)
    scale.update(torch.tensor(False))
    assert float(scale.value) == start / 2
    for _ in range(1000):
        scale.update(torch.tensor(True))
    assert float(scale.value) == start


def test_the_average_comes_in_and_goes_out_again() -> None:
    weight = parameter()
    ema = Ema([weight], 0.5)
    before = weight.detach().clone()
    weight.data.add_(1)
    ema.update(1)
    after = weight.detach().clone()
    with ema.swapped_in():
        inside = weight.detach().clone()
    decay = min(0.5, 2 / 11)
    assert torch.allclose(inside, decay * before + (1 - decay) * after)
    assert torch.equal(weight, after)


def make_step(number: int, loss: float, finite: bool = True) -> StepRecord:
    tensors = torch.tensor(loss), torch.tensor(1.0), torch.tensor(finite)
    return StepRecord(
        number, 0, StepOutcome(*tensors, torch.tensor(True), {}), (f"{number}.png",), {"unet": 1e-4}, 1.0, number
    )


def test_three_bad_steps_in_a_row_end_the_run_and_name_images() -> None:
    losses = MetricsBuffer()
    for number in (1, 2):
        losses.add(make_step(number, float("nan"), False))
    losses.add(make_step(3, 0.5))
    events = [r.event for r in losses.drain()]
    assert events == ["skip", "skip", "step"]
    losses.raise_if_diverged()
    for number in (4, 5, 6):
        losses.add(make_step(number, float("nan"), False))
    losses.drain()
    with pytest.raises(LorasmithError, match=r"4 \(4\.png\), 5 \(5\.png\), 6 \(6\.png\)"):
        losses.raise_if_diverged()


def test_a_rewound_log_has_no_line_after_the_step(tmp_path: Path) -> None:
    events = Events(tmp_path, tensorboard=False)
    for number in range(1, 6):
        events.write("step", number, loss=float("nan") if number == 2 else 0.5)
    with events.path.open("a") as file:
        file.write('{"event": "step", "st')
    events.rewind(3)
    lines = [json.loads(line) for line in events.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[1]["loss"] is None
