"""Every optimizer that configs may name: it goes down, it resumes, it leaves a step out."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lorasmith.compat.kohya.optimizers import OPTIMIZER_CLASSES
from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.output.checkpoint import flatten, unflatten
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.gradients import step_if_finite
from lorasmith.training.step.optimizers import (
    AdamW,
    AdamW8bit,
    AnyOptimizer,
    OptimizerConfig,
    averaged_weights,
)

ONLY_CUDA = ("pagedlion8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit")
"""bitsandbytes keeps pages in the GPU's unified memory."""
RATES = {"prodigy": 1.0, "dadaptsgd": 1.0, "dadapt": 0.1, "sgdschedulefree": 0.3, "adafactor": 0.03}
NAMES = sorted(set(OPTIMIZER_CLASSES) - set(ONLY_CUDA))


def config_of(name: str) -> OptimizerConfig:
    path, args = OPTIMIZER_CLASSES[name]
    if name == "adafactor":
        args = args | {"relative_step": False, "scale_parameter": False}
    return AnyOptimizer(name=path, args=args)


def rate_of(name: str) -> float:
    return next((rate for start, rate in RATES.items() if name.startswith(start)), 0.03)


def problem() -> tuple[nn.Parameter, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return nn.Parameter(torch.zeros(96, 64)), torch.randn(96, 64, generator=generator)


def steps(optimizer: Any, weight: nn.Parameter, target: torch.Tensor, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        (weight - target).square().mean().backward()
        step_if_finite(optimizer, torch.tensor(True))


def built(config: OptimizerConfig, weight: nn.Parameter, rate: float) -> Any:
    return config.build([{"params": [weight], "lr": rate, "base_lr": rate, "name": "unet", "part": "unet"}])


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_down_and_resumes_to_the_bit(name: str) -> None:
    config, (weight, target) = config_of(name), problem()
    optimizer = built(config, weight, rate_of(name))
    steps(optimizer, weight, target, 40)
    kept, state = copy.deepcopy(weight.detach()), flatten(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, weight, target, 5)
    whole = weight.detach().clone()
    with averaged_weights(optimizer):
        assert (weight - target).square().mean() < target.square().mean()

    again, _ = problem()
    other = built(config, again, rate_of(name))
    with torch.no_grad():
        again.copy_(kept)
    other.load_state_dict(unflatten(state[0], json.loads(json.dumps(state[1]))))
    steps(other, again, target, 5)
    assert torch.equal(again.detach(), whole)


@pytest.mark.parametrize("config", [AdamW(), AdamW8bit(), *map(config_of, NAMES)], ids=["adamw", "adamw8bit", *NAMES])
def test_a_step_that_is_not_finite_is_left_out(config: OptimizerConfig) -> None:
    weight, target = problem()
    optimizer = built(config, weight, 1.0)
    steps(optimizer, weight, target, 2)
    before = weight.detach().clone()
    weight.grad = torch.full_like(weight, torch.nan)
    step_if_finite(optimizer, torch.tensor(False))
    assert torch.equal(weight.detach(), before)


@pytest.mark.parametrize("name", ["adamwschedulefree", "sgdschedulefree", "radamschedulefree"])
def test_looking_at_schedule_free_weights_changes_nothing(name: str) -> None:
    weight, target = problem()
    optimizer = built(config_of(name), weight, rate_of(name))
    steps(optimizer, weight, target, 10)  # RAdam does nothing in the first
    before = weight.detach().clone()
    with averaged_weights(optimizer):
        assert not torch.equal(weight.detach(), before)
    assert torch.equal(weight.detach(), before)


@pytest.mark.slow
def test_a_schedule_free_run_exports_the_averaged_weights(pictures: Any, tmp_path: Path) -> None:
    table = {
        "base": "tiny-sd",
        "steps": 6,
        "data": {"images": str(pictures(3)), "resolution": 64},
        "adapter": {"rank": 2, "layers": "attention"},
        "optimizer": {"kind": "class", "name": "schedulefree.AdamWScheduleFree", "lr": 1e-2},
        "checkpoint": {"every_steps": 3},
        "log": {"tensorboard": False},
    }
    whole = train(load_config(table | {"output": str(tmp_path / "whole")}))
    assert whole.file is not None
    looked = load_file(whole.file)
    trained = load_file(tmp_path / "whole" / "checkpoints" / "step-00000006" / "adapter.safetensors")
    ups = {name.split("/")[0]: t for name, t in trained.items() if name.endswith("/up")}
    first = next(iter(ups))
    exported = next(t for name, t in looked.items() if name.endswith("lora_up.weight"))
    assert not torch.equal(exported.flatten(), ups[first].flatten())

    parted = shutil.copytree(tmp_path / "whole", tmp_path / "parted")
    (parted / "checkpoints" / "step-00000006" / "state.json").unlink()
    again = train(load_config(table | {"output": str(parted)}), resume=parted)
    assert again.file is not None
    assert all(torch.equal(t, looked[name]) for name, t in load_file(again.file).items())


def test_one_rate_is_asked_for_where_the_optimizer_finds_it() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    groups = [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.5}]
    with pytest.raises(LorasmithError, match=r"takes one for all components, not 0\.5, 1"):
        AnyOptimizer(name="prodigyopt.Prodigy").build(groups)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name, extra in (("prodigyopt.Prodigy", "optimizers"), ("bitsandbytes.optim.Lion8bit", "8bit")):
        monkeypatch.setitem(sys.modules, name.rpartition(".")[0], None)
        with pytest.raises(LorasmithError, match=rf'pip install "lorasmith\[{extra}\]"'):
            AnyOptimizer(name=name).build([])


def test_text_encoders_may_have_their_own_weight_decay(pictures: Callable[..., Path], tmp_path: Path) -> None:
    table = {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 1,
        "data": {"images": str(pictures(1)), "resolution": 64},
        "adapter": {"rank": 1, "layers": "attention"},
    }
    for own, expected in (({"text_weight_decay": 0.5}, 0.5), ({}, 0.01)):
        optimizer = {"text_lr": 1e-4, **own}
        run = build_run(load_config(table | {"optimizer": optimizer}), overwrite=True)
        decays = {group["name"]: group["weight_decay"] for group in run.optimizer.param_groups}
        assert decays == {"unet": 0.01, "te": expected}
