"""Keep the attention of a concept's new tokens where the concept is (Mix-of-Show, arXiv 2305.18292, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.deferred_torch import F, torch
from lorasmith.training.step.objectives.terms.base import LossTerm

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.concepts import Vocabulary
    from lorasmith.data.dataset import Batch
    from lorasmith.families.base import Family
    from lorasmith.families.stable_diffusion.attention_maps import CrossAttentionMaps


class AttentionRegularisation(LossTerm):
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

    def check(self, family: Family) -> None:
        family.require("attention maps", "objective.parts: attention_regularisation")

    def columns(self, words: Tensor, vocabulary: Vocabulary) -> Tensor:
        """For each concept two kinds of maps: of its adjectives, and of its subject."""
        concept = vocabulary.concept_numbers(words)
        # A mention continues while vectors of one concept follow each other in order; a lower vector, or one of another
        # concept, begins a new mention. The last token of a mention is the subject.
        continues = (words[:, 1:] > words[:, :-1]) & (concept[:, 1:] == concept[:, :-1])
        is_adjective = F.pad(continues, (0, 1), value=False)
        roles = torch.stack([is_adjective, ~is_adjective], 1)

        by_concept = [roles & (concept == number)[:, None] for number in range(max(vocabulary.concepts) + 1)]
        weights = torch.cat(by_concept, 1).float()
        return weights / weights.sum(-1, keepdim=True).clamp(min=1)

    def __call__(self, maps: CrossAttentionMaps, batch: Batch, family: Family) -> Tensor:
        total = torch.zeros((), device=maps.columns.device)
        masks, known = concept_masks(batch, family.vocabulary)
        if masks is None or known is None:
            return total

        # (B, concepts, roles): whether the caption has the tokens and the mask is known.
        in_caption = (maps.columns.sum(-1) > 0).reshape(len(maps.columns), -1, 2)
        counts = in_caption & (known > 0)[..., None]
        adjective_counts, subject_counts = counts[..., 0, None, None], counts[..., 1, None, None]

        for size, maps_of_size in maps.by_size().items():
            mask = F.interpolate(masks.float(), size, mode="nearest").expand(-1, counts.shape[1], -1, -1)
            outside = mask == 0
            scaled = self._divide_by_maximum(maps_of_size.reshape(len(counts), -1, 2, *size), counts)
            adjective, subject = scaled.unbind(2)
            total = total + _mean_where(adjective, outside & adjective_counts)
            if self.full_identity:
                total = total + _mean_where((subject - mask).square(), subject_counts.expand_as(mask))
            else:
                total = total + _mean_where(subject, outside & subject_counts)
        return self.weight * total

    def _divide_by_maximum(self, maps: Tensor, counts: Tensor) -> Tensor:
        """Maps (B, concepts, 2, h, w) divided by their maximum; 0 where they do not count."""
        maps = maps * counts[..., None, None]
        largest = maps.amax((3, 4), keepdim=True)
        if self.maximum == "batch":
            largest = largest.amax(0, keepdim=True)
        return maps / largest.clamp(min=1e-12)


def concept_masks(batch: Batch, vocabulary: Vocabulary | None) -> tuple[Tensor | None, Tensor | None]:
    """Where each concept is, (B, concepts, h, w), and whether that is known, (B, concepts).

    A concept without a mask of its own has the image's. Where no concept has one, there is one mask for all concepts.
    None, None if nothing is known of any sample.
    """
    image_mask = batch.subject
    image_known = None if batch.masked is None else batch.masked[:, None]
    if vocabulary is None or batch.concept_masks is None or batch.concept_masked is None:
        return image_mask, image_known

    if image_mask is None or image_known is None:
        image_mask = torch.ones_like(batch.concept_masks[:, :1])
        image_known = torch.zeros_like(batch.concept_masked[:, :1])

    # The batch names each concept by one of its words, in an order of its own.
    place_of_concept = {vocabulary.concept_of(word): place for place, word in enumerate(batch.concept_names)}
    masks: list[Tensor] = []
    known: list[Tensor] = []
    for number in range(max(vocabulary.concepts) + 1):
        place = place_of_concept.get(number)
        if place is None:
            masks.append(image_mask[:, 0])
            known.append(image_known[:, 0])
        else:
            masks.append(batch.concept_masks[:, place])
            known.append(batch.concept_masked[:, place])
    return torch.stack(masks, 1), torch.stack(known, 1)


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    """The mean over the places where `where` is true; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)
