"""DyLoRA: what a step trains, and that the first ranks are worth something by themselves."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import AdapterConfig, LayerSpec
from lorasmith.adapters.dylora import DyLoRA, DyLoRAAdapter
from lorasmith.adapters.lora import LoRA
from lorasmith.training.step.gradients import clear_untrained, step_if_finite, unscale_and_clip

SHAPES = {"linear": (10, 12), "conv": (10, 12, 3, 3)}


def made(kind: str = "linear", unit: int = 2, boost: float = 0.0, rank: int = 6) -> DyLoRAAdapter:
    """An adapter with moved factors, in training; alpha 3."""
    shape = SHAPES[kind]
    spec = LayerSpec("unet.x", kind, shape, padding=(1, 1) if kind == "conv" else (0, 0))  # type: ignore[arg-type]
    draws = torch.Generator().manual_seed(0)
    adapter = DyLoRA(rank=rank, alpha=3.0, unit=unit, boost=boost).build(spec, torch.zeros(shape), draws)
    assert adapter is not None
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(torch.randn(p.shape, generator=draws))
    return adapter.train()


@pytest.mark.parametrize("boost", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_step_sees_the_ranks_up_to_its_block_and_trains_that_alone(kind: str, boost: float) -> None:
    """alpha / r * (r / b) ** boost times the product of the first b ranks."""
    adapter = made(kind, unit=2, boost=boost)
    x = torch.randn(2, 12, *((5, 5) if kind == "conv" else ()))
    up, down = adapter.up.detach().flatten(1), adapter.down.detach().flatten(1)
    for block, draw in enumerate((0.0, 0.5, 0.99)):
        adapter.begin_step(draw)
        b = 2 * (block + 1)
        change = 3.0 / 6 * (6 / b) ** boost * (up[:, :b] @ down[:b]).view(adapter.layer.shape)
        expected = F.conv2d(x, change, padding=1) if kind == "conv" else F.linear(x, change)
        found = adapter.branch(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        base = torch.randn(adapter.layer.shape)
        torch.testing.assert_close(adapter.forward_weight(base), base + change, rtol=1e-4, atol=1e-4)
        adapter.zero_grad(set_to_none=True)
        found.square().sum().backward()
        moved = {name for name, p in adapter.named_parameters() if p.grad is not None}
        assert moved == {f"ups.{block}", f"downs.{block}"}
    whole = 3.0 / 6 * (up @ down).view(adapter.layer.shape)
    torch.testing.assert_close(adapter.delta(), whole)  # what is merged and shown, whatever the step
    adapter.eval()
    torch.testing.assert_close(adapter.forward_weight(torch.zeros_like(whole)), whole)


def test_ranks_that_a_unit_does_not_divide_have_a_smaller_last_block() -> None:
    adapter = made(unit=4, rank=6)
    assert [p.shape[1] for p in adapter.ups] == [4, 2]
    assert adapter.tensors()["lora_up.weight"].shape == (10, 6)


def test_the_block_follows_from_seed_and_step() -> None:
    """The same for all layers, in any order of steps; each as often as the others."""
    owner: Any = nn.Module()
    owner.a, owner.b = nn.Linear(4, 4), nn.Linear(4, 4)
    places = {"unet.a": (owner, "a"), "unet.b": (owner, "b")}
    adapters = AdapterSet.create(DyLoRA(rank=4, layers="*"), places, {}, seed=1)

    def block(seed: int, step: int) -> int:
        adapters.begin_step(seed, step)
        found = {adapter.block for adapter in adapters.adapters.values()}  # type: ignore[attr-defined]
        assert len(found) == 1
        return found.pop()

    forth = [block(1, step) for step in range(400)]
    back = [block(1, step) for step in reversed(range(400))]
    assert forth == back[::-1]
    assert forth != [block(2, step) for step in range(400)]
    counts = Counter(forth)
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 70


def test_adapters_without_a_block_draw_no_number_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    owner: Any = nn.Module()
    owner.a = nn.Linear(4, 4)
    draws: list[tuple[object, ...]] = []

    def generator(*key: object) -> torch.Generator:
        draws.append(key)
        return torch.Generator().manual_seed(0)

    for config, count in ((LoRA(layers="*"), 0), (DyLoRA(layers="*"), 1)):
        adapters = AdapterSet.create(config, {"unet.a": (owner, "a")}, {}, seed=1)
        draws.clear()
        with monkeypatch.context() as patch:
            patch.setattr("lorasmith.adapters.attach.torch_generator", generator)
            adapters.begin_step(0, 1)
        assert len(draws) == count, config.kind


def test_what_differs_between_steps_is_no_cuda_graph() -> None:
    """Whether an adapter sits out is decided before the kernels are launched; which ranks, on the device."""
    owner: Any = nn.Module()
    owner.a = nn.Linear(4, 4)
    for config, steady in ((LoRA(), True), (LoRA(dropout=0.5), True), (LoRA(module_dropout=0.5), False)):
        given = config.model_copy(update={"layers": "*"})
        assert AdapterSet.create(given, {"unet.a": (owner, "a")}, {}, seed=1).graph_safe is steady
    assert AdapterSet.create(DyLoRA(layers="*"), {"unet.a": (owner, "a")}, {}, seed=1).graph_safe


def trained(config: DyLoRA, *, same_operations: bool) -> dict[str, Tensor]:
    """The adapters of a linear layer and a convolution after some steps, with gradients that are clipped."""
    torch.manual_seed(4)
    owner: Any = nn.Module()
    owner.a, owner.b = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 5)
    owner.requires_grad_(False)
    places = {"unet.a": (owner, "a"), "unet.b": (owner, "b")}
    adapters = AdapterSet.create(config.model_copy(update={"layers": "*"}), places, {}, seed=5)
    adapters.attach().train()
    if same_operations:
        adapters.use_same_operations()
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=0.05, weight_decay=0.1, fused=True)
    draws = torch.Generator().manual_seed(7)
    for step in range(12):
        adapters.begin_step(0, step)
        x = torch.randn(4, 3, 5, 5, generator=draws)
        loss = (owner.b(owner.a(x).movedim(1, -1)) - 1).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clear_untrained(adapters.stepped_parts)
        unscale_and_clip(adapters.parameters(), torch.ones(()), 0.1)
        # one step whose gradients are not finite, which moves nothing
        step_if_finite(optimizer, torch.tensor(step != 5), adapters.stepped_parts)
    return adapters.state_dict()


@pytest.mark.parametrize("settings", [{}, {"unit": 2, "boost": 1.0}, {"unit": 4, "scalar": True}])
def test_steps_of_the_same_operations_train_what_others_do(settings: dict[str, Any]) -> None:
    """With the drawn block on the device, as in a CUDA graph, blocks that are not drawn keep their weights and their
    averages in the optimizer."""
    config = DyLoRA(rank=6, alpha=3.0, **settings)
    expected = trained(config, same_operations=False)
    found = trained(config, same_operations=True)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_plain_lora_goes_on_in_blocks() -> None:
    spec = LayerSpec("unet.x", "linear", (10, 12))
    words = {"lora_down.weight": torch.randn(6, 12), "lora_up.weight": torch.randn(10, 6), "alpha": torch.tensor(3.0)}
    found = DyLoRA(unit=3).continue_from(LoRA().restore(spec, torch.zeros(10, 12), words))
    assert isinstance(found, DyLoRAAdapter)
    assert len(found.ups) == 2
    for name, tensor in found.tensors().items():
        torch.testing.assert_close(tensor, words[name])


def learned(config: AdapterConfig, target: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """up (with the scale) and down after regression onto a linear map."""
    owner: Any = nn.Module()
    owner.x = nn.Linear(target.shape[1], target.shape[0], bias=False)
    owner.x.weight.data.zero_()
    owner.requires_grad_(False)
    adapters = AdapterSet.create(config.model_copy(update={"layers": "*"}), {"unet.x": (owner, "x")}, {}, seed=5)
    adapters.attach().train()
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=0.05, weight_decay=0.0)
    draws = torch.Generator().manual_seed(7)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + math.cos(math.pi * step / steps)) / 2
        adapters.begin_step(0, step)
        x = torch.randn(64, target.shape[1], generator=draws)
        loss = F.mse_loss(owner.x(x), x @ target.T)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    words = adapters.adapters["unet.x"].tensors()
    down = words["lora_down.weight"]
    return words["lora_up.weight"] * (float(words["alpha"]) / down.shape[0]), down


@pytest.mark.slow
def test_every_prefix_of_ranks_was_trained() -> None:
    """Cut to its first b ranks, the change is nearly the best of rank b there is (Eckart-Young); a plain LoRA's first
    ranks, trained as long on the same task, are far from it."""
    draws = torch.Generator().manual_seed(3)
    u, _ = torch.linalg.qr(torch.randn(16, 16, generator=draws))
    v, _ = torch.linalg.qr(torch.randn(20, 20, generator=draws))
    sizes = torch.tensor([4.0, 3.0, 2.0, 1.0])
    target = u[:, :4] * sizes @ v[:4]
    ranks = range(1, 5)
    best = [float(sizes[b:].norm()) for b in ranks]
    errors = {}
    for name, config in (("dylora", DyLoRA(rank=4)), ("lora", LoRA(rank=4))):
        up, down = learned(config, target, 2000)
        errors[name] = [float((target - up[:, :b] @ down[:b]).norm()) for b in ranks]
    print(best, errors)
    for b in range(3):
        assert errors["dylora"][b] < 1.05 * best[b]
        assert errors["lora"][b] > 1.2 * best[b]
    assert errors["dylora"][3] < 0.3
    assert errors["lora"][3] < 0.3
