"""A batch: its plan (which views of which images), its tensors, and how they are put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.data.condition_images import ConditionInput, condition_batch
from lorasmith.data.masks import concept_masks, loss_mask, subject_mask
from lorasmith.data.placement import Size
from lorasmith.data.records import ImageRecord
from lorasmith.data.views import View
from lorasmith.families.base import Conditioning, LatentDistribution


@dataclass(frozen=True)
class PlannedView:
    """One view of an image: `record` is the image's index; `epoch` and `occurrence` (of its repeats) say which view."""

    record: int
    epoch: int
    occurrence: int


@dataclass(frozen=True)
class BatchPlan:
    """One batch: its views, all of one bucket."""

    views: tuple[PlannedView, ...]
    bucket: Size
    held_out: bool = False


@dataclass(frozen=True)
class Batch:
    """Tensors of one batch of B images.

    `pixels` (B, 3, H, W) are there instead of `latents` if latents are not cached; `conditioning` is None if captions
    are not cached. `original`, `crop`, `target`: (B, 2) height and width (or top and left) in pixels, for SDXL.

    `mask` (B, 1, h, w) in 0..1 on the latent grid: where the loss counts; None if it counts everywhere. `subject` (B,
    1, h, w): where the subject is, or at least the image; None if that is known of no image. `masked` (B,): 1 for
    images of which it is known, 0 where `subject` is filled with ones instead. `concept_masks` (B, concepts, h, w) and
    `concept_masked` (B, concepts): the same for each concept with masks; `concept_names` has a word of each.
    `preserve` (B,): 1 for images whose target is the base's own output; None if there are none. `conditions`: for each
    condition, by the name of its tensor, (B, 3, H / scale, W / scale) in 0..1.
    """

    latents: LatentDistribution | None
    pixels: Tensor | None
    captions: list[str]
    conditioning: Conditioning | None
    loss_weight: Tensor
    mask: Tensor | None
    original: Tensor
    crop: Tensor
    target: Tensor
    names: list[str]
    subject: Tensor | None = None
    masked: Tensor | None = None
    preserve: Tensor | None = None
    concept_masks: Tensor | None = None
    concept_masked: Tensor | None = None
    concept_names: tuple[str, ...] = ()
    conditions: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        latents = self.latents
        if latents is not None:
            latents = LatentDistribution(latents.mean.to(device, non_blocking=True), move(latents.std))
        conditioning = None if self.conditioning is None else self.conditioning.to(device)
        # Named one by one: captions and names are not tensors.
        names = ("pixels", "loss_weight", "mask", "subject", "masked", "preserve", "original", "crop", "target")
        names += ("concept_masks", "concept_masked")
        moved = {name: move(getattr(self, name)) for name in names}
        conditions = {name: tensor.to(device, non_blocking=True) for name, tensor in self.conditions.items()}
        return replace(self, latents=latents, conditioning=conditioning, conditions=conditions, **moved)


def collate(
    samples: Sequence[Mapping[str, Tensor]],
    views: Sequence[View],
    captions: list[str],
    conditioning: Conditioning | None,
    concept_names: tuple[str, ...],
    conditions: tuple[ConditionInput, ...] = (),
) -> Batch:
    """The batch of these images, all of one bucket. `samples`: their tensors, from the latent cache or `View.read`."""
    records = [view.record for view in views]
    width, height = views[0].placement.bucket
    latent_shape = (height // DOWNSCALE, width // DOWNSCALE)

    # Masks are put together only where there are any: most runs have none.
    subject, has_subject, mask = None, None, None
    if any("mask" in sample or "filled" in sample for sample in samples):
        subject, has_subject = subject_mask(samples, latent_shape)
        mask = loss_mask(samples, [record.masks_weigh for record in records], latent_shape)
    by_concept, has_concept = None, None
    if concept_names:
        concepts = [record.concepts for record in records]
        by_concept, has_concept = concept_masks(samples, concepts, concept_names, latent_shape)

    return Batch(
        latents=latent_distribution(samples),
        pixels=stack(samples, "pixels"),
        captions=captions,
        conditioning=conditioning,
        loss_weight=torch.tensor([record.loss_weight for record in records]),
        mask=mask,
        original=torch.tensor([[record.size[1], record.size[0]] for record in records]),
        crop=crop_offsets(views),
        target=torch.tensor([[height, width]] * len(records)),
        names=[str(record.path) for record in records],
        subject=subject,
        masked=has_subject,
        preserve=preserve_flags(records),
        concept_masks=by_concept,
        concept_masked=has_concept,
        concept_names=concept_names,
        conditions=condition_batch(samples, conditions, (height, width)) if conditions else {},
    )


def latent_distribution(samples: Sequence[Mapping[str, Tensor]]) -> LatentDistribution | None:
    """The latents of a batch; None if pixels were read instead."""
    mean = stack(samples, "mean")
    if mean is None:
        return None
    return LatentDistribution(mean, stack(samples, "std"))


def crop_offsets(views: Sequence[View]) -> Tensor:
    """(B, 2) top and left of each crop in its resized image."""
    offsets: list[list[int]] = []
    for view in views:
        left, top, _, _ = view.crop.box
        # A crop on a black canvas may begin outside of the image; SDXL knows no negative offsets.
        offsets.append([max(0, top), max(0, left)])
    return torch.tensor(offsets)


def preserve_flags(records: Sequence[ImageRecord]) -> Tensor | None:
    """(B,) 1 for images whose target is the base's own output; None if there are none."""
    if not any(record.preserve for record in records):
        return None
    return torch.tensor([float(record.preserve) for record in records])


def stack(samples: Sequence[Mapping[str, Tensor]], name: str) -> Tensor | None:
    """One tensor of each sample, as a batch; None if no sample has it."""
    if not any(name in sample for sample in samples):
        return None
    return torch.stack([sample[name] for sample in samples])
