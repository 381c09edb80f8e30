"""What a batch is: its plan (which views of which images) and its tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorasmith.data.buckets import Size
from lorasmith.families.base import Conditioning, LatentDistribution


@dataclass(frozen=True)
class PlannedView:
    """One view of an image: `epoch` and `occurrence` (of its repeats) say which."""

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
    """Tensors of one batch. `pixels` (B, 3, H, W) stand in for `latents` where those are not cached,
    `conditioning` is None where texts are not. `original`, `crop`, `target`: (B, 2) height and width (top and left),
    for SDXL.

    `mask`: (B, 1, h, w) in 0..1 on the latent grid: where the loss counts; None if it does everywhere. `subject`: the
    same, where the subject is, or at least the image; None if no sample tells; `masked` (B,): 1 where it does, 0 where
    ones stand in for it. `concept_masks` (B, concepts, h, w) and `concept_masked` (B, concepts): the same for each of
    the concepts with masks of their own, by a word of it in `concept_names`. `preserve` (B,): 1 for samples whose
    target is the base's own output; None if there is none.
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

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        latents = self.latents
        if latents is not None:
            latents = LatentDistribution(latents.mean.to(device, non_blocking=True), move(latents.std))
        names = ("pixels", "loss_weight", "mask", "subject", "masked", "preserve", "original", "crop", "target")
        names += ("concept_masks", "concept_masked")
        moved = {n: move(getattr(self, n)) for n in names}
        return replace(self, latents=latents, conditioning=self.conditioning and self.conditioning.to(device), **moved)
