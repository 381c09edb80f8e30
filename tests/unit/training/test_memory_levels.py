"""Every memory level trains the same thing, and needs what the estimate says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.lora import LoRA
from lorasmith.core.errors import ConfigError
from lorasmith.core.progress import Lines
from lorasmith.families.base import Conditioning, Family
from lorasmith.families.eight_bit import EightBitLinear, encode
from lorasmith.families.load import load
from lorasmith.training.config import load_config
from lorasmith.training.memory_levels import CHECKPOINTING, EIGHT_BIT, LAST_EXACT, LEVELS, use_level
from lorasmith.training.session import train
from lorasmith.training.setup import memory_estimate
from lorasmith.training.setup.memory_estimate import StepShape, activations


def adapted(base: Path, level: int, kind: type[LoRA] = LoRA) -> tuple[Family, AdapterSet]:
    """A base at a memory level with LoRA on its attentions, whose changes are not zero."""
    family = load(str(base), dtype=torch.float32)
    use_level(family, level)
    config = kind.model_validate({"rank": 2, "layers": "attention"})
    adapters = AdapterSet.create(config, family.named_layers(["unet"]), family.layer_presets, seed=0).attach()
    torch.manual_seed(5)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    adapters.train()
    return family, adapters


def one_pass(family: Family, adapters: AdapterSet, size: int = 8) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output for fixed inputs, and the gradients."""
    torch.manual_seed(1)
    width = family.denoiser.config.context  # type: ignore[union-attr]
    x, context = torch.randn(2, 4, size, size), torch.randn(2, 77, width)
    out = family.predict(x, torch.tensor([100, 700]), Conditioning({"context": context}))
    out.pow(2).mean().backward()
    return out.detach(), [p.grad for p in adapters.parameters() if p.grad is not None]


@pytest.mark.slow_except("2")
@pytest.mark.parametrize("level", range(1, LAST_EXACT + 1))
def test_exact_levels_change_no_number(random_base: Callable[..., Path], level: int) -> None:
    expected, gradients = one_pass(*adapted(random_base(), 0))
    out, found = one_pass(*adapted(random_base(), level))
    assert torch.equal(out, expected)
    assert len(found) == len(gradients) > 0
    for ours, theirs in zip(found, gradients, strict=True):
        assert torch.equal(ours, theirs)


def test_a_level_can_be_raised_under_attached_adapters(random_base: Callable[..., Path]) -> None:
    expected, gradients = one_pass(*adapted(random_base(), 0))
    family, adapters = adapted(random_base(), 0)
    one_pass(family, adapters)
    for parameter in adapters.parameters():
        parameter.grad = None
    use_level(family, LAST_EXACT)
    out, found = one_pass(family, adapters)
    assert torch.equal(out, expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, gradients, strict=True))


def test_weights_in_8_bits_are_close(random_base: Callable[..., Path]) -> None:
    expected, _ = one_pass(*adapted(random_base(), 0))
    family, adapters = adapted(random_base(), EIGHT_BIT)
    assert any(isinstance(module, EightBitLinear) for module in family.denoiser.modules())
    out, _ = one_pass(family, adapters)
    assert not torch.equal(out, expected)
    assert (out - expected).norm() < 0.05 * expected.norm()

    weight = torch.randn(32, 64)
    codes, scales = encode(weight)
    assert codes.dtype == torch.int8
    assert ((codes * scales) - weight).abs().max() <= 0.51 * scales.max()


def kept_bytes(family: Family, adapters: AdapterSet, size: int) -> int:
    """What autograd really keeps in a forward pass: storages by address, without parameters."""
    parameters = {t.untyped_storage().data_ptr() for t in [*family.denoiser.parameters(), *adapters.parameters()]}
    storages: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        one_pass(family, adapters, size)
    return sum(storages.values())


@pytest.mark.slow_except("1")
@pytest.mark.parametrize("level", [0, 1])
def test_the_estimate_is_near_what_a_pass_keeps(random_base: Callable[..., Path], level: int) -> None:
    family, adapters = adapted(random_base(), level)
    kept = kept_bytes(family, adapters, 32)
    config = family.denoiser.config
    estimate = activations(config, StepShape(32, 32, 2, 4), level)  # type: ignore[arg-type]
    assert 0.7 * kept < estimate < 1.6 * kept


def test_higher_levels_need_less(random_base: Callable[..., Path]) -> None:
    config: Any = load(str(random_base()), dtype=torch.float32).denoiser.config
    shape = StepShape(64, 64, 2, 2)
    totals = [memory_estimate.need(config, 860_000_000, 3_000_000, shape, level).total for level in range(len(LEVELS))]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > 1.5 * totals[CHECKPOINTING] - memory_estimate.FIXED or totals[0] > totals[CHECKPOINTING]


class TestSetting:
    """`memory` in the config of a run."""

    def run(self, images: Path, output: Path, **changes: Any) -> tuple[list[float], list[str]]:
        table: dict[str, Any] = {
            "base": "tiny-sd",
            "output": str(output),
            "steps": 2,
            "data": {"images": str(images), "resolution": 64, "batch_size": 2},
            "adapter": {"rank": 2, "layers": ["unet.up_blocks.3*"]},
            "log": {"tensorboard": False},
        }
        said: list[str] = []
        train(load_config(table | changes), Lines(said.append))
        lines = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if line["event"] == "step"], said

    @pytest.mark.slow
    def test_every_level_trains_the_same(self, pictures: Callable[..., Path], tmp_path: Path) -> None:
        images = pictures(2)
        losses = [self.run(images, tmp_path / f"{level}", memory=level)[0] for level in range(len(LEVELS))]
        for level in range(1, LAST_EXACT + 1):
            assert losses[level] == losses[0], level
        assert losses[EIGHT_BIT] == pytest.approx(losses[0], rel=0.05)
        first, last = (load_file(tmp_path / f"{level}" / f"{level}.safetensors") for level in (0, LAST_EXACT))
        assert all(torch.equal(first[name], last[name]) for name in first)

    @pytest.mark.slow
    def test_auto_takes_the_lowest_level_that_fits(
        self, pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = pictures(2)
        monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 1 << 40)
        enough, said = self.run(images, tmp_path / "enough")
        assert not any("memory level" in line for line in said)
        monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 1 << 20)
        little, said = self.run(images, tmp_path / "little")
        assert any("memory level 2" in line and "gradient checkpointing" in line for line in said)
        assert little == enough

    def test_a_level_that_does_not_exist_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="memory"):
            load_config({"base": "tiny-sd", "output": "x", "data": {"images": "y"}, "memory": len(LEVELS)})
