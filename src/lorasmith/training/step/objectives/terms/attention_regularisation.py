"""Keep a concept's words where the concept is (Mix-of-Show, arXiv 2305.18292, section 3.2)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lorasmith.concepts import Vocabulary
from lorasmith.data.dataset import Batch
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.attention_maps import Maps
from lorasmith.training.step.objectives.terms.base import ObjectivePart


class AttentionRegularisation(ObjectivePart):
    """weight * sum over sizes of (adjective term + subject term).

    Of each mention (tokens of one concept side by side, in order) the last is the subject, those before are adjectives.
    Maps are divided by their maximum. Adjectives: the mean of the map outside the mask. Subject: with `full_identity`
    the mean squared distance from map to mask; else the mean outside too. Each concept of a sample counts as a sample
    of its own, with its own mask (`data.subsets.concept_masks`) or the image's. What is not in the caption does not
    count, nor do images without a mask (of one in a letterbox, the mask is where the image is), nor a size at which
    nothing is outside it.
    """

    kind: Literal["attention_regularisation"] = "attention_regularisation"
    weight: float = Field(default=0.01, gt=0)
    full_identity: bool = True
    """Whether the subject is to fill its mask, clothes and all."""
    maximum: Literal["sample", "batch"] = "sample"
    """Whose maximum divides a map; the original takes the batch's."""

    def columns(self, words: Tensor, vocabulary: Vocabulary) -> Tensor:
        """For each concept its adjectives and its subject."""
        concept = vocabulary.concept_numbers(words)
        goes_on = (words[:, 1:] > words[:, :-1]) & (concept[:, 1:] == concept[:, :-1])
        following = F.pad(goes_on, (0, 1), value=False)  # a lower vector, or another concept, begins a mention anew
        roles = torch.stack([following, ~following], 1)
        own = [roles & (concept == number)[:, None] for number in range(max(vocabulary.concepts) + 1)]
        each = torch.cat(own, 1).float()
        return each / each.sum(-1, keepdim=True).clamp(min=1)

    def __call__(self, maps: Maps, batch: Batch, family: Family) -> Tensor:
        total = torch.zeros((), device=maps.columns.device)
        masks, known = masks_of(batch, family.vocabulary)
        if masks is None or known is None:
            return total
        present = (maps.columns.sum(-1) > 0).unflatten(1, (-1, 2)) & (known > 0)[..., None]  # (B, concepts, roles)
        for size, found in maps.by_size().items():
            mask = F.interpolate(masks.float(), size, mode="nearest").expand(-1, present.shape[1], -1, -1)
            adjective, subject = self._scaled(found.unflatten(1, (-1, 2)), present).unbind(2)
            total = total + _mean(adjective, (mask == 0) & present[..., 0, None, None])
            if self.full_identity:
                total = total + _mean((subject - mask).square(), present[..., 1, None, None].expand_as(mask))
            else:
                total = total + _mean(subject, (mask == 0) & present[..., 1, None, None])
        return self.weight * total

    def _scaled(self, found: Tensor, present: Tensor) -> Tensor:
        """Maps (B, concepts, 2, h, w) over their maximum."""
        found = found * present[..., None, None]
        largest = found.amax((3, 4), keepdim=True)
        if self.maximum == "batch":
            largest = largest.amax(0, keepdim=True)
        return found / largest.clamp(min=1e-12)


def masks_of(batch: Batch, vocabulary: Vocabulary | None) -> tuple[Tensor | None, Tensor | None]:
    """Where each concept is, (B, concepts, h, w), and whether that is known, (B, concepts); with one for all concepts
    where images have no masks but their own. None if nothing is known of any sample."""
    own, known = batch.subject, None if batch.masked is None else batch.masked[:, None]
    if vocabulary is None or batch.concept_masks is None or batch.concept_masked is None:
        return own, known
    places = {vocabulary.concept_of(name): i for i, name in enumerate(batch.concept_names)}
    if own is None or known is None:
        own, known = torch.ones_like(batch.concept_masks[:, :1]), torch.zeros_like(batch.concept_masked[:, :1])
    chosen = [places.get(number) for number in range(max(vocabulary.concepts) + 1)]
    masks = [own[:, 0] if i is None else batch.concept_masks[:, i] for i in chosen]
    told = [known[:, 0] if i is None else batch.concept_masked[:, i] for i in chosen]
    return torch.stack(masks, 1), torch.stack(told, 1)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Over the places where it counts; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)
