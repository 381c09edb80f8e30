"""Layer-wise tokens replaced by tokens with one vector for all layers, and a LoRA whose keys and values compensate.

A layer l reads the text h_l that is encoded with its own vectors; programs that know one vector for each token give it
h, encoded with the mean over the layers. Keys and values are linear in the text, so the change that restores what the
layer had, argmin_C |(W + C) h - W h_l|^2 + |C k|^2 + ridge, is a regression: C = W E (sum h h^T + sum k k^T + l I)^-1
with E = sum (h_l - h) h^T, where W contains its LoRA and k are texts without the tokens, which are to stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lorasmith.adapters.attach import module_at
from lorasmith.core.progress import Progress
from lorasmith.families.base import Family
from lorasmith.files.lora import DecodedLora
from lorasmith.formats.token_embeddings import TokenEmbeddings, layer_cosines
from lorasmith.fusion.closed_form import Factors, concatenate_factors, nearest_of_rank, solve_ridge
from lorasmith.fusion.concepts import change_factors
from lorasmith.fusion.layerwise_texts import TextEncodings
from lorasmith.fusion.prompts import HELD_OUT, PRESERVED, PROMPTS
from lorasmith.fusion.refit_errors import key_value_errors, prediction_errors
from lorasmith.sampling.loras import Loras, LoraUse

EXTRA_RANK = 16
"""Added to the rank of keys and values by default."""


@dataclass(frozen=True)
class RefitSettings:
    """How inputs are collected and what is made of them. `{}` in prompts stands for a name of the concept."""

    prompts: tuple[str, ...] = PROMPTS
    held_out: tuple[str, ...] = HELD_OUT
    """Prompts that only the errors are measured on."""
    preserve: tuple[str, ...] = PRESERVED
    """Prompts without the concept, whose keys and values are to stay the same."""
    names: tuple[str, ...] = ()
    """What prompts call the concepts; empty: the file's trigger phrases that contain its tokens, or all its tokens."""
    rank: int | None = None
    """Rank of keys and values in the result; None: the rank in the file plus `EXTRA_RANK`."""
    ridge: float = 3e-2
    """l as a share of the mean diagonal of the sums: a larger one preserves other prompts better, the concept less."""
    clip_skip: int | None = None
    """None: as the file says that it was trained."""
    size: int = 256
    """Side in pixels of the noise that predictions are compared on."""
    device: str = "auto"
    precision: str | None = None


@dataclass
class RefitResult:
    """`layers`: keys and values of the LoRA.

    Errors are measured on held-out prompts, for tokens from the concept's name on: for `collapse` (the mean alone) and
    for `refit`. `errors`: |k - k_exact| / |k_exact| by layer. `prediction`: by time, the error of the denoiser's
    prediction divided by what the text changes in it. `moved`: what the refit changes in predictions for prompts
    without the tokens, divided by the same.
    """

    layers: dict[str, Factors] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    prediction: dict[str, dict[int, float]] = field(default_factory=dict)
    moved: dict[int, float] = field(default_factory=dict)
    cosines: dict[str, list[float]] = field(default_factory=dict)
    """By token, the cosine of each layer's vector with the mean, in the order of the layers."""


@dataclass
class KeysAndValues:
    """The cross-attention weights of the base and of the LoRA. Keys and values of a layer follow each other in `names`:
    layer l has the places 2 l and 2 l + 1."""

    names: list[str]
    base: dict[str, Tensor]
    """Weights (out, in) of the base, float32."""
    lora: dict[str, Factors]
    """Changes of the LoRA, for the layers that it has."""
    total: dict[str, Tensor]
    """Base and change together."""

    @classmethod
    def read(cls, family: Family, lora: DecodedLora) -> KeysAndValues:
        """The weights of a base and a LoRA that is not merged into it."""
        names = [f"{layer}.{leaf}" for layer in family.cross_attention_layers() for leaf in ("to_k", "to_v")]
        names = [name for name in names if name in lora.model.layers]
        modules = family.named_layers([family.denoiser_component])
        base: dict[str, Tensor] = {}
        changes: dict[str, Factors] = {}
        total: dict[str, Tensor] = {}
        for name in names:
            layer: Any = module_at(modules[name])
            base[name] = layer.weight.detach().float()
            total[name] = base[name]
            if name in lora.layers:
                changes[name] = change_factors(lora, name, base[name].cpu())
                total[name] = base[name] + product(changes[name]).to(base[name].device)
        return cls(names, base, changes, total)


@torch.no_grad()
def refit(
    family: Family,
    lora: DecodedLora,
    tokens: TokenEmbeddings,
    settings: RefitSettings,
    progress: Progress | None = None,
) -> RefitResult:
    """Keys and values that compensate for tokens which are replaced by their means over the layers."""
    listener = progress or Progress()
    weights = KeysAndValues.read(family, lora)
    result = RefitResult(cosines=layer_cosines(tokens))
    with attached_lora(family, lora):
        encodings = TextEncodings(family, tokens, settings.names, settings.clip_skip or 1)
        listener.say(f"gathering texts: {len(settings.prompts) * len(settings.names)} with the words")
        differences, gram = collect_sums(encodings, settings)
        for layer, difference in enumerate(differences):
            # C = W shift: the same shift of the text for keys and values.
            shift = solve_ridge(difference, gram, settings.ridge)
            for name in weights.names[2 * layer : 2 * layer + 2]:
                base, total = weights.base[name], weights.total[name]
                # The new change replaces that of the LoRA, so it contains both.
                change = total + total @ shift.to(total.device) - base
                lora_rank = weights.lora[name][1].shape[0] if name in weights.lora else 0
                rank = settings.rank or lora_rank + EXTRA_RANK
                result.layers[name] = nearest_of_rank(change, gram, settings.ridge, rank)
        listener.say(f"measuring on {len(settings.held_out) * len(settings.names)} other texts")
        # Measured with the factors that are written, which have a limited rank.
        fused = {
            name: weights.base[name] + product(factors).to(weights.base[name].device)
            for name, factors in result.layers.items()
        }
        result.errors = key_value_errors(encodings, settings.held_out, weights.total, fused)
        # The LoRA itself is attached: only what the refit adds to it is missing.
        added = {name: difference_of(factors, weights.lora.get(name)) for name, factors in result.layers.items()}
        result.prediction = prediction_errors(encodings, settings.held_out, settings.size, added)
        result.moved = result.prediction.pop("moved")
    return result


def collect_sums(encodings: TextEncodings, settings: RefitSettings) -> tuple[list[Tensor], Tensor]:
    """For each cross-attention layer sum (h_l - h) h^T, and for all of them sum h h^T + sum k k^T; float64 on the CPU,
    each divided by its number of tokens."""
    differences: list[Tensor] = []
    gram: Tensor | float = 0.0
    token_count = 0
    for exact, mean, _ in encodings.pairs(settings.prompts):
        h = mean.flatten(0, 1).double()
        for layer in range(exact.shape[1]):
            h_layer = exact[:, layer].flatten(0, 1).double()
            difference = (h_layer - h).T @ h
            if layer == len(differences):
                differences.append(difference)
            else:
                differences[layer] += difference
        gram = gram + h.T @ h
        token_count += len(h)

    preserved_gram: Tensor | float = 0.0
    preserved_count = 0
    for context in encodings.encode_without_tokens(settings.preserve):
        k = context.flatten(0, 1).double()
        preserved_gram = preserved_gram + k.T @ k
        preserved_count += len(k)

    # Means, so that the numbers of prompts of both kinds do not decide their weight.
    assert isinstance(gram, Tensor)
    total = gram / token_count
    if preserved_count:
        total = total + preserved_gram / preserved_count
    return [difference.cpu() / token_count for difference in differences], total.cpu()


@contextmanager
def attached_lora(family: Family, lora: DecodedLora) -> Iterator[None]:
    """Attach the LoRA to the model in this context; afterwards the model knows the new tokens that it knew before."""
    before = family.vocabulary
    with Loras(family).attached([LoraUse(lora.path)]):
        try:
            yield
        finally:
            family.learn(before)


def product(factors: Factors) -> Tensor:
    """up @ down, float32."""
    up, down = factors
    return up.float() @ down.float()


def difference_of(factors: Factors, other: Factors | None) -> Factors:
    """The factors of the first change minus the second."""
    if other is None:
        return factors
    up, down = other
    return concatenate_factors([factors, (-up, down)])
