"""Kohya-style LoRA files: `<prefix>_<path with underscores>.lora_down.weight`, `.lora_up.weight`, `.alpha`.

The form that A1111, Forge, ComfyUI, InvokeAI and diffusers all read. diffusers takes the commonest alpha of a component
for every layer of it, so a file has one alpha per component; where layers differ, `lora_up` takes up the difference,
which leaves every product as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter

LAST_FACTOR = {"lora_down.weight": "lora_up.weight"}
PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")


def encode(adapters: Mapping[str, Adapter], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors of a file, float32. `name_of` gives a layer's name in such files."""
    tensors: dict[str, Tensor] = {}
    for component, members in _by_component(adapters).items():
        common = _common_alpha(members, component)
        for layer, adapter in members.items():
            words = {word: t.detach().float().cpu().contiguous() for word, t in adapter.tensors().items()}
            if common is not None:
                words = with_alpha(words, common)
            tensors |= {f"{name_of(layer)}.{word}": tensor for word, tensor in words.items()}
    return tensors


def with_alpha(words: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The same change with another alpha: `lora_up` is multiplied by the quotient."""
    old = float(words["alpha"])
    if old == alpha:
        return words
    return words | {"lora_up.weight": words["lora_up.weight"] * (old / alpha), "alpha": torch.tensor(alpha)}


def decode(
    tensors: Mapping[str, Tensor], layer_of: Callable[[str], str | None]
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Layer to word to tensor, and the names of tensors that belong to no layer."""
    layers: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for key, tensor in tensors.items():
        flat, _, word = key.partition(".")
        layer = layer_of(flat)
        if layer is None or not word:
            strangers.append(key)
        else:
            layers.setdefault(layer, {})[word] = tensor
    return layers, strangers


def _by_component(adapters: Mapping[str, Adapter]) -> dict[str, dict[str, Adapter]]:
    groups: dict[str, dict[str, Adapter]] = {}
    for layer, adapter in adapters.items():
        groups.setdefault(adapter.layer.component, {})[layer] = adapter
    return groups


def _common_alpha(members: Mapping[str, Adapter], component: str) -> float | None:
    """The alpha for all; None if the adapters are of a kind that has no such rewrite and agree anyway."""
    alphas = Counter(adapter.alpha for adapter in members.values())
    if len(alphas) == 1:
        return None
    return alphas.most_common(1)[0][0]
