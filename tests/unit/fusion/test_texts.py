"""Fused weights do for prompts that were not used what they do for those that were."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from lorasmith.adapters.attach import module_at
from lorasmith.families.load import load
from lorasmith.fusion.concepts import LoadedConcept
from lorasmith.fusion.fuse import TEXT, FuseSettings, changes_during, collect_inputs, fill_in, fuse
from lorasmith.fusion.inputs import attached_changes

HELD_OUT = (
    "a picture of {}, in a garden full of flowers",
    "{}, orange and black",
    "a toy that looks like {}, in a box",
)
"""Fewer than the built-in ones, to save time."""

UNSEEN = ("an old film still, {} smiling", "two people and {} at a table", "a drawing of {}")


def missed(texts: tuple[str, ...], ridge: float | Literal["auto"]) -> float:
    """What the fused weights of a text encoder miss of two random LoRAs on prompts that were not used, of 1."""
    family = load("tiny-sd")
    layers = {name: place for name, place in family.named_layers(["te"]).items() if name.endswith("q_proj")}
    generator = torch.Generator().manual_seed(0)
    concepts = []
    for name in ("garp", "house"):
        changes = {}
        for layer, place in layers.items():
            weight = module_at(place).weight
            up = torch.randn(weight.shape[0], 4, generator=generator)
            down = torch.randn(4, weight.shape[1], generator=generator)
            changes[layer] = (0.05 * up, 0.05 * down)
        concepts.append(LoadedConcept(name, None, changes, {}))  # type: ignore[arg-type]
    settings = FuseSettings(prompts=("photo of a {}", "{}"), texts=texts, ridge=ridge, held_out=HELD_OUT)
    fused = fuse(family, concepts, settings).layers

    error = size = 0.0
    for concept in concepts:
        names = list(layers)
        with torch.no_grad(), attached_changes(family, changes_during(TEXT, concept, names), names):
            grams = collect_inputs(family, TEXT, [fill_in(text, concept.name) for text in UNSEEN], names, settings)
        for name in names:
            up, down = concept.changes[name]
            gram = grams.pop(name, down.shape[1])
            own = up @ down
            difference = fused[name][0] @ fused[name][1] - own
            error += float(((difference @ gram) * difference).sum())
            size += float(((own @ gram) * own).sum())
    return (error / size) ** 0.5


@pytest.mark.slow
def test_many_texts_serve_unseen_prompts_better() -> None:
    few, many = missed((), 1e-2), missed(FuseSettings().texts, 1e-2)
    assert many < 0.95 * few
    assert many < 0.8


def test_a_small_ridge_does_not_serve_them() -> None:
    assert missed((), 1e-4) > missed((), 1e-2)


def test_auto_chooses_the_ridge_by_prompts_that_are_not_fitted_to() -> None:
    assert missed((), "auto") < 0.9 * missed((), 1e-4)
