"""The terms of all parts of an objective, from one pass of the network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from lorasmith.data.dataset import Batch
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.attention_maps import Maps, watched
from lorasmith.training.step.objectives.terms.base import ObjectivePart


def predicted(
    family: Family, x_t: Tensor, t: Tensor, batch: Batch, parts: Sequence[ObjectivePart]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The network's output, and the terms by name. Maps are made only if a part wants some."""
    assert batch.conditioning is not None
    words, vocabulary = family.new_token_index(batch.conditioning), family.vocabulary
    if not parts or words is None or vocabulary is None:
        return family.predict(x_t, t, batch.conditioning), {}
    columns = [part.columns(words, vocabulary) for part in parts]
    wanted = torch.cat(columns, 1)
    with watched(family.denoiser, wanted, (x_t.shape[2], x_t.shape[3])) if wanted.shape[1] else nullcontext() as maps:
        output = family.predict(x_t, t, batch.conditioning)
    seen = Maps(wanted, (1, 1)) if maps is None else maps
    each = seen.split([found.shape[1] for found in columns])
    named = numbered(parts).items()
    return output, {name: part(own, batch, family) for (name, part), own in zip(named, each, strict=True)}


def numbered(parts: Sequence[ObjectivePart]) -> dict[str, ObjectivePart]:
    """Parts by kind; a second one of a kind is `kind_2`."""
    found: dict[str, ObjectivePart] = {}
    for part in parts:
        kind = str(part.kind)  # type: ignore[attr-defined]
        same = sum(other.kind == kind for other in found.values())  # type: ignore[attr-defined]
        found[f"{kind}_{same + 1}" if same else kind] = part
    return found
