"""Kohya-style LoRA files: `<prefix>_<path with underscores>.lora_down.weight`, `.lora_up.weight`, `.alpha`.

The form that A1111, Forge, ComfyUI, InvokeAI and diffusers all read. diffusers takes the commonest alpha of a component
for every layer of it, so a file has one alpha per component; where layers differ, `lora_up` takes up the difference,
which leaves every product as it was. Other kinds have LyCORIS' words under the same names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter
from lorasmith.formats.base import Encoded, Format, Names, Shapes, refuse, words_of
from lorasmith.formats.rewrite import Words, alpha_of, plain, with_alpha, without_core

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_PROJECTION = re.compile(r"^(te\d?\..*\.self_attn\.)(?:q|k|v|out)_proj$")


class Kohya(Format):
    """Every kind in its own words, one alpha per component, Tucker LoRA in two factors."""

    kind: Literal["kohya"] = "kohya"

    def encode(self, layers: Mapping[str, Words], names: Names, shapes: Shapes) -> Encoded:
        return Encoded(named(settled(layers), names.kohya_name))


class Lycoris(Format):
    """Every kind in its own words, alphas as they are."""

    kind: Literal["lycoris"] = "lycoris"

    def encode(self, layers: Mapping[str, Words], names: Names, shapes: Shapes) -> Encoded:
        return Encoded(named(layers, names.kohya_name))


class Portable(Format):
    """Plain LoRA only, which every reader reads alike; other kinds where an exact rewrite to it exists."""

    kind: Literal["portable"] = "portable"

    def encode(self, layers: Mapping[str, Words], names: Names, shapes: Shapes) -> Encoded:
        rewritten = {layer: plain(words, shapes[layer]) for layer, words in layers.items()}
        if lost := [layer for layer, words in rewritten.items() if words is None]:
            why = "they are of full rank or change norms, which plain LoRA cannot say"
            raise refuse(
                lost, "portable", why, 'use "kohya" for A1111, Forge and ComfyUI, or "diff" with the base model'
            )
        found = {layer: words for layer, words in rewritten.items() if words is not None}
        return Encoded(named(complete(one_alpha(found)), names.kohya_name))


def encode(adapters: Mapping[str, Adapter], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors of a kohya file, float32. `name_of` gives a layer's name in such files."""
    return named(settled(words_of(adapters)), name_of)


def settled(layers: Mapping[str, Words]) -> dict[str, Words]:
    """The same changes as most readers take them: no Tucker core, one alpha per component, whole text attentions."""
    return complete(one_alpha({layer: without_core(words) for layer, words in layers.items()}))


def named(layers: Mapping[str, Words], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors by file name."""
    return {f"{name_of(layer)}.{word}": t for layer, words in layers.items() for word, t in words.items()}


def one_alpha(layers: Mapping[str, Words]) -> dict[str, Words]:
    """The same changes with the commonest alpha of each component in all its LoRA layers."""
    alphas: dict[str, Counter[float]] = {}
    for layer, words in layers.items():
        if "lora_up.weight" in words:
            alphas.setdefault(_component(layer), Counter())[alpha_of(words)] += 1
    common = {component: counts.most_common(1)[0][0] for component, counts in alphas.items()}
    return {
        layer: with_alpha(words, common[_component(layer)]) if "lora_up.weight" in words else dict(words)
        for layer, words in layers.items()
    }


def complete(layers: Mapping[str, Words]) -> dict[str, Words]:
    """With changes of zero for what misses of a text encoder attention: A1111 takes all four projections of OpenCLIP or
    none, diffusers needs `out_proj`."""
    found = dict(layers)
    for layer, words in layers.items():
        if "lora_up.weight" in words and (match := _PROJECTION.match(layer)):
            zeros = {w: torch.zeros_like(t) if w != "alpha" else t for w, t in words.items() if w != "dora_scale"}
            for part in ("q", "k", "v", "out"):
                found.setdefault(f"{match[1]}{part}_proj", zeros)
    return found


def decode(tensors: Mapping[str, Tensor], layer_of: Callable[[str], str | None]) -> tuple[dict[str, Words], list[str]]:
    """Layer to word to tensor, and the names of tensors that belong to no layer."""
    layers: dict[str, Words] = {}
    strangers = []
    for key, tensor in tensors.items():
        flat, _, word = key.partition(".")
        layer = layer_of(flat)
        if layer is None or not word:
            strangers.append(key)
        else:
            layers.setdefault(layer, {})[word] = tensor
    return layers, strangers


def _component(layer: str) -> str:
    return layer.split(".", 1)[0]
