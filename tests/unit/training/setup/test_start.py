"""Going on from a file; rates of single factors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run


def table(images: Path, output: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "name": "a",
        "steps": 2,
        "data": {"images": str(images), "resolution": 64},
        "adapter": {"kind": "lokr", "rank": 2, "layers": "attention"},
        "optimizer": {"lr": 1e-2, "text_lr": 1e-2},
        "export": {"dtype": "fp32"},
        "log": {"tensorboard": False},
    }
    return settings | changes


@pytest.mark.slow
def test_a_run_goes_on_from_a_file(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """With hardly any rate it ends where it began; layers and kind are the file's."""
    images = pictures(3)
    file = train(load_config(table(images, tmp_path / "first"))).file
    assert file is not None
    still = {"lr": 1e-12, "text_lr": 1e-12, "weight_decay": 0.0}
    again = table(images, tmp_path / "again", start=str(file), optimizer=still, adapter={"kind": "lora", "rank": 7})
    ended = train(load_config(again)).file
    assert ended is not None
    first, second = load_file(file), load_file(ended)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-5, atol=1e-8)
    moved = train(load_config(again | {"output": str(tmp_path / "moved"), "optimizer": {"lr": 1e-2, "text_lr": 1e-2}}))
    assert moved.file is not None
    assert any(not torch.allclose(t, first[name]) for name, t in load_file(moved.file).items())
    with pytest.raises(LorasmithError, match=r"also changes te, .* set optimizer\.text_lr above 0"):
        build_run(load_config(again | {"output": str(tmp_path / "bad"), "optimizer": {"lr": 1e-3}}))


def test_the_late_factor_has_a_rate_of_its_own(pictures: Callable[..., Path], tmp_path: Path) -> None:
    adapter = {"kind": "lora", "rank": 2, "layers": "attention", "up_lr": 8.0, "text_up_lr": 2.0}
    run = build_run(load_config(table(pictures(3), tmp_path / "plus", adapter=adapter)))
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    for name, one in run.adapters.adapters.items():
        late = 8 if name.startswith("unet") else 2
        assert rates[id(one.up)] == pytest.approx(late * 1e-2)
        assert rates[id(one.down)] == pytest.approx(1e-2)


def test_a_frozen_factor_stays(pictures: Callable[..., Path], tmp_path: Path) -> None:
    adapter = {"kind": "lora", "rank": 2, "layers": "attention", "freeze_down": True}
    run = build_run(load_config(table(pictures(3), tmp_path / "fa", adapter=adapter)))
    downs = {name: a.down.detach().clone() for name, a in run.adapters.adapters.items()}
    from lorasmith.training.step.loop import fit

    run.adapters.train()
    fit(run)
    assert all(torch.equal(a.down, downs[name]) for name, a in run.adapters.adapters.items())
    assert any(bool(a.up.abs().max() > 0) for a in run.adapters.adapters.values())
