"""A loss term that keeps the embeddings of new tokens near those that they began with."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.data.dataset import Batch
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.attention_maps import CrossAttentionMaps
from lorasmith.training.step.objectives.terms.base import ObjectivePart


class NearStart(ObjectivePart):
    """weight * mean over vectors of the squared distance from where they began.

    The term needs no attention maps, so `columns` of the base class stays as it is.
    """

    kind: Literal["near_start"] = "near_start"
    weight: float = Field(default=1.0, gt=0)

    def __call__(self, maps: CrossAttentionMaps, batch: Batch, family: Family) -> Tensor:
        """A scalar with gradient."""
        vocabulary = family.vocabulary
        assert vocabulary is not None, "Lorasmith checks this: the term needs new tokens"
        distances: list[Tensor] = []
        for name, vectors in vocabulary.named_parameters():
            start = vocabulary.initial[name].to(vectors.device)
            distances.append((vectors - start).square().sum(-1).mean())
        return self.weight * torch.stack(distances).mean()
