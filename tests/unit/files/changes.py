"""The change that a file makes of each layer, through the loaded model, which none of the operations uses."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lorasmith.families.stable_diffusion.family import StableDiffusion
from lorasmith.sampling.loras import load_lora


def deltas(family: StableDiffusion, path: Path) -> dict[str, Tensor]:
    """Layer to change at strength 1, of those that change anything."""
    found = load_lora(family, path)
    try:
        with torch.no_grad():
            changes = {n: a.delta(found.weight_of(n).float()).detach().clone() for n, a in found.adapters.items()}
    finally:
        found.detach()
    return {name: change for name, change in changes.items() if change.any()}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], bound: float = 1e-6) -> None:
    """Same layers, changes equal relative to the largest change."""
    assert found.keys() == wanted.keys()
    for name, change in wanted.items():
        error = (found[name].reshape(change.shape) - change).norm() / change.norm()
        assert error < bound, (name, float(error))


def norm(changes: dict[str, Tensor]) -> float:
    return sum(float(c.double().square().sum()) for c in changes.values()) ** 0.5


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """|a - b| / |b| over all layers."""
    zero = {name: torch.zeros_like(c) for name, c in {**a, **b}.items()}
    shapes = {name: c.shape for name, c in b.items()}
    both = {n: (zero | a)[n].reshape(shapes.get(n, z.shape)) - (zero | b)[n] for n, z in zero.items()}
    return norm(both) / norm(b)
