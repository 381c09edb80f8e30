"""Kohya-style LoRA files: `<prefix>_<path with underscores>.lora_down.weight`, `.lora_up.weight`, `.alpha`.

The form that A1111, Forge, ComfyUI, InvokeAI and diffusers all read. diffusers takes the commonest alpha of a component
for every layer of it, so a file has one alpha per component; where layers differ, `lora_up` takes up the difference,
which leaves every product as it was. Other kinds have LyCORIS' tensor names under the same layer names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter
from lorasmith.formats.base import Encoded, Format, Names, Shapes, layer_tensors, refuse
from lorasmith.formats.rewrite import LayerTensors, alpha_of, plain, with_alpha, without_core

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_PROJECTION = re.compile(r"^(te\d?\..*\.self_attn\.)(?:q|k|v|out)_proj$")


class Kohya(Format):
    """Every kind under its own tensor names, one alpha per component, Tucker LoRA in two factors."""

    kind: Literal["kohya"] = "kohya"

    def encode(self, layers: Mapping[str, LayerTensors], names: Names, shapes: Shapes) -> Encoded:
        return Encoded(named(settled(layers), names.kohya_name))


class Lycoris(Format):
    """Every kind under its own tensor names, alphas as they are."""

    kind: Literal["lycoris"] = "lycoris"

    def encode(self, layers: Mapping[str, LayerTensors], names: Names, shapes: Shapes) -> Encoded:
        return Encoded(named(layers, names.kohya_name))


class Portable(Format):
    """Plain LoRA only, which every reader reads alike; other kinds where an exact rewrite to it exists."""

    kind: Literal["portable"] = "portable"

    def encode(self, layers: Mapping[str, LayerTensors], names: Names, shapes: Shapes) -> Encoded:
        rewritten = {layer: plain(tensors, shapes[layer]) for layer, tensors in layers.items()}
        if lost := [layer for layer, tensors in rewritten.items() if tensors is None]:
            why = "they are of full rank or change norms, which plain LoRA cannot say"
            raise refuse(
                lost, "portable", why, 'use "kohya" for A1111, Forge and ComfyUI, or "diff" with the base model'
            )
        found = {layer: tensors for layer, tensors in rewritten.items() if tensors is not None}
        return Encoded(named(complete(one_alpha(found)), names.kohya_name))


def encode(adapters: Mapping[str, Adapter], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors of a kohya file, float32. `name_of` gives a layer's name in such files."""
    return named(settled(layer_tensors(adapters)), name_of)


def settled(layers: Mapping[str, LayerTensors]) -> dict[str, LayerTensors]:
    """The same changes as most readers take them: no Tucker core, one alpha per component, whole text attentions."""
    return complete(one_alpha({layer: without_core(tensors) for layer, tensors in layers.items()}))


def named(layers: Mapping[str, LayerTensors], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors by file name."""
    return {f"{name_of(layer)}.{name}": t for layer, tensors in layers.items() for name, t in tensors.items()}


def one_alpha(layers: Mapping[str, LayerTensors]) -> dict[str, LayerTensors]:
    """The same changes with the commonest alpha of each component in all its LoRA layers."""
    alphas: dict[str, Counter[float]] = {}
    for layer, tensors in layers.items():
        if "lora_up.weight" in tensors:
            alphas.setdefault(_component(layer), Counter())[alpha_of(tensors)] += 1
    common = {component: counts.most_common(1)[0][0] for component, counts in alphas.items()}
    return {
        layer: with_alpha(tensors, common[_component(layer)]) if "lora_up.weight" in tensors else dict(tensors)
        for layer, tensors in layers.items()
    }


def complete(layers: Mapping[str, LayerTensors]) -> dict[str, LayerTensors]:
    """With changes of zero for what misses of a text encoder attention: A1111 takes all four projections of OpenCLIP or
    none, diffusers needs `out_proj`."""
    found = dict(layers)
    for layer, tensors in layers.items():
        if "lora_up.weight" in tensors and (match := _PROJECTION.match(layer)):
            zeros = {w: torch.zeros_like(t) if w != "alpha" else t for w, t in tensors.items() if w != "dora_scale"}
            for part in ("q", "k", "v", "out"):
                found.setdefault(f"{match[1]}{part}_proj", zeros)
    return found


def decode(
    tensors: Mapping[str, Tensor], layer_of: Callable[[str], str | None]
) -> tuple[dict[str, LayerTensors], list[str]]:
    """Layer to tensor name to tensor, and the names of tensors that belong to no layer."""
    layers: dict[str, LayerTensors] = {}
    strangers = []
    for key, tensor in tensors.items():
        flat, _, name = key.partition(".")
        layer = layer_of(flat)
        if layer is None or not name:
            strangers.append(key)
        else:
            layers.setdefault(layer, {})[name] = tensor
    return layers, strangers


def _component(layer: str) -> str:
    return layer.split(".", 1)[0]
