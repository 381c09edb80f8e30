"""Keep a concept's words where the concept is (Mix-of-Show, arXiv 2305.18292, section 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lorasmith.data.dataset import Batch
from lorasmith.families.attention_maps import Maps
from lorasmith.train.objectives.parts.base import ObjectivePart


class AttentionRegularisation(ObjectivePart):
    """weight * sum over sizes of (adjective term + subject term).

    Of each mention (tokens of new words side by side, in order) the last is the subject, those before are adjectives.
    Maps are divided by their maximum. Adjectives: the mean of the map outside the mask. Subject: with `full_identity`
    the mean squared distance from map to mask; else the mean outside too. Samples without new words do not count, nor
    do images without a mask (of one in a letterbox, the mask is where the image is), nor a size at which nothing is
    outside it.
    """

    kind: Literal["attention_regularisation"] = "attention_regularisation"
    weight: float = Field(default=0.01, gt=0)
    full_identity: bool = True
    """Whether the subject is to fill its mask, clothes and all."""
    maximum: Literal["sample", "batch"] = "sample"
    """Whose maximum divides a map; the original takes the batch's."""

    def columns(self, words: Tensor) -> Tensor:
        new = words > 0
        following = F.pad(words[:, 1:] > words[:, :-1], (0, 1), value=False)  # a lower vector begins a mention anew
        both = torch.stack([new & following, new & ~following], 1).float()
        return both / both.sum(-1, keepdim=True).clamp(min=1)

    def __call__(self, maps: Maps, batch: Batch) -> Tensor:
        present = maps.columns.sum(-1) > 0  # (B, 2): adjectives, subject
        total = torch.zeros((), device=maps.columns.device)
        if batch.subject is None or batch.masked is None:
            return total
        present = present & (batch.masked > 0)[:, None]
        for size, found in maps.by_size().items():
            mask = F.interpolate(batch.subject.float(), size, mode="nearest")[:, 0]
            adjective, subject = self._scaled(found, present).unbind(1)
            total = total + _mean(adjective, (mask == 0) & present[:, 0, None, None])
            if self.full_identity:
                total = total + _mean((subject - mask).square(), present[:, 1, None, None].expand_as(mask))
            else:
                total = total + _mean(subject, (mask == 0) & present[:, 1, None, None])
        return self.weight * total

    def _scaled(self, found: Tensor, present: Tensor) -> Tensor:
        """Maps (B, 2, h, w) over their maximum."""
        found = found * present[..., None, None]
        largest = found.amax((2, 3), keepdim=True)
        if self.maximum == "batch":
            largest = largest.amax(0, keepdim=True)
        return found / largest.clamp(min=1e-12)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Over the places where it counts; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)
