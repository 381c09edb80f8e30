"""A network of diffusers with PEFT's LoRA of the same values as ours."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.lora import LoRA
from lorasmith.families.base import Family

Pair = tuple[Tensor, Tensor]
"""A parameter of ours and PEFT's, whose shape can have further sides of 1."""


def attach_twins(family: Family, theirs: Any, layers: str) -> tuple[AdapterSet, list[Pair]]:
    """Attach LoRAs of rank 2 to the family's transformer and PEFT's to `theirs`, with the same random values.

    `layers` is a preset. Returns our adapters and the pairs of parameters.
    """
    chosen = family.named_layers(["transformer"])
    adapters = AdapterSet.create(LoRA(rank=2, alpha=2, layers=layers), chosen, family.layer_presets, seed=0).attach()
    places = {name: name.removeprefix("transformer.") for name in adapters.adapters}
    theirs.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(places.values())))
    generator = torch.Generator().manual_seed(1)
    pairs: list[Pair] = []
    for name, adapter in adapters.adapters.items():
        module = theirs.get_submodule(places[name])
        tensors = dict(adapter.named_parameters())
        for word, other in (("down", module.lora_A["default"].weight), ("up", module.lora_B["default"].weight)):
            value = torch.randn(tensors[word].shape, generator=generator) * 0.1
            tensors[word].data = value
            other.data = value.view(other.shape).clone()
            pairs.append((tensors[word], other))
    return adapters, pairs


def assert_equal_gradients(pairs: list[Pair]) -> None:
    """Both networks have been differentiated by the same loss."""
    for ours, theirs in pairs:
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad.view(ours.shape), atol=1e-6, rtol=1e-3)
