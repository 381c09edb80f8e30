"""What part of each concept's effect fused weights miss on the inputs of given prompts, from exact Gram matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lorasmith.families.base import Family
from lorasmith.fusion import FuseSettings
from lorasmith.fusion.closed_form import Factors
from lorasmith.fusion.concepts import LoadedConcept
from lorasmith.fusion.fuse import changes_during, collect_inputs, fill_in, known_tokens, layers_by_stage
from lorasmith.fusion.inputs import attached_changes


@torch.no_grad()
def missed_on(
    family: Family,
    concepts: Sequence[LoadedConcept],
    fused: Mapping[str, Factors],
    prompts: Sequence[str],
    settings: FuseSettings,
) -> dict[str, list[float]]:
    """By stage and concept, |(D - D_i) X_i| / |D_i X_i|. As in a fusion, the inputs of a stage are those of the
    concept's own changes in it, after the fused changes of the stages before it."""
    missed: dict[str, list[float]] = {}
    before: dict[str, Factors] = {}
    with known_tokens(family, concepts):
        for stage, layers in layers_by_stage(family, concepts).items():
            if not layers:
                continue
            missed[stage] = []
            with attached_changes(family, before, ()):
                for concept in concepts:
                    with attached_changes(family, changes_during(stage, concept, layers), layers):
                        texts = [fill_in(prompt, concept.name) for prompt in prompts]
                        grams = collect_inputs(family, stage, texts, layers, settings)
                    pairs = [
                        _errors(fused[layer], concept.changes.get(layer), grams.pop(layer, fused[layer][1].shape[1]))
                        for layer in layers
                    ]
                    error, size = (sum(column) for column in zip(*pairs, strict=True))
                    missed[stage].append(math.sqrt(error / size) if size else 0.0)
            before |= {layer: fused[layer] for layer in layers}
    return missed


def _errors(fused: Factors, own: Factors | None, gram: Tensor) -> tuple[float, float]:
    change = fused[0] @ fused[1]
    own_change = torch.zeros_like(change) if own is None else own[0] @ own[1]
    error, size = (float(((d @ gram) * d).double().sum()) for d in (change - own_change, own_change))
    return error, size
