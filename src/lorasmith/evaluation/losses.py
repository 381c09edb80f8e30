"""The numbers that are losses of images: drift on class images, copying on training images with empty captions.

Whatever loss a LoRA was trained with, these are the plain squared errors of the network's output at fixed timesteps and
with fixed noise, so that LoRAs of different settings can be compared, and each image with itself on the base alone.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorasmith.core.quality import NumberValues, Rows, Values
from lorasmith.core.rng import StepRng
from lorasmith.data.config import DataConfig
from lorasmith.data.dataset import Batch, Dataset
from lorasmith.data.records import ImageRecord
from lorasmith.families.base import Family

TIMESTEPS = (100, 300, 500, 700, 900)
"""Each image is measured at each of these timesteps."""
MOST_IMAGES = 32
"""Of more images, so many are measured, spread evenly."""
SMALLEST_LOSS = 1e-12


class FixedImages:
    """Images whose losses with a LoRA are compared with those of the base alone.

    Their latents are encoded once and stay on the device. Their texts are encoded each time, since a LoRA may change
    the text encoders.
    """

    def __init__(
        self,
        family: Family,
        records: Sequence[ImageRecord],
        resolution: tuple[int, int],
        *,
        with_captions: bool = True,
        clip_skip: int = 1,
    ) -> None:
        self.family = family
        self.clip_skip = clip_skip
        self._base_losses: list[float] = []
        config = DataConfig(images=Path(), resolution=resolution, batch_size=4, cache_latents=False)
        dataset = Dataset(config, 0, [], [whole(record) for record in spread(records)])
        self._batches: list[tuple[Batch, list[int]]] = []
        for plan in dataset.validation_plans():
            batch = dataset.load(plan).to(family.device)
            assert batch.pixels is not None
            latents = family.encode_image(batch.pixels)
            captions = batch.captions if with_captions else [""] * len(batch.captions)
            kept = replace(batch, latents=latents, pixels=None, captions=captions)
            self._batches.append((kept, [view.record for view in plan.views]))

    def measure_base(self, as_base: AbstractContextManager[object] | None = None) -> None:
        """Measure the losses of the base alone. `as_base`: a context in which nothing that was trained is there."""
        with as_base or nullcontext():
            self._base_losses = self.losses()

    @torch.no_grad()
    def losses(self) -> list[float]:
        """The loss of each image with the adapters that are attached now."""
        family = self.family
        losses: dict[int, float] = {}
        for batch, images in self._batches:
            conditioning = family.encode_text(batch.captions, clip_skip=self.clip_skip)
            conditioning = family.add_sizes(conditioning, batch.original, batch.crop, batch.target)
            assert batch.latents is not None
            for timestep in TIMESTEPS:
                # the noise of an image follows from its place and from the timestep
                rng = StepRng(0, timestep, images, family.device)
                x0 = family.latents(batch.latents, rng.normal("latent", tuple(batch.latents.mean.shape[1:])))
                noise = rng.normal("noise", tuple(x0.shape[1:]))
                t = family.path.from_step(torch.full((len(images),), timestep, device=family.device))
                output = family.predict(family.path.add_noise(x0, noise, t), t, conditioning)
                target = family.prediction.target(x0, noise, t, family.path)
                errors = (output.float() - target.float()).square().mean(dim=(1, 2, 3))
                for image, error in zip(images, errors.tolist(), strict=True):
                    losses[image] = losses.get(image, 0.0) + error / len(TIMESTEPS)
        return [losses[image] for image in sorted(losses)]

    def increases(self) -> Rows:
        """How much higher the loss of each image is than on the base alone, as a share of it; exactly 0 if the adapters
        change nothing. A row for each image."""
        pairs = zip(self.losses(), self._base_losses, strict=True)
        return tuple(((loss - base) / max(base, SMALLEST_LOSS),) for loss, base in pairs)


@dataclass(frozen=True)
class LossImages:
    """The images of all numbers that are losses; None where there are none."""

    trained: FixedImages | None = None
    """Training images of the concept, with empty captions."""
    held_out: FixedImages | None = None
    """Images of the concept that were not trained on, with empty captions."""
    class_images: FixedImages | None = None
    """Images of other things, with their captions."""

    def measure_base(self, as_base: AbstractContextManager[object] | None = None) -> None:
        """Measure the losses of the base alone; see `FixedImages.measure_base`."""
        with as_base or nullcontext():
            for images in (self.trained, self.held_out, self.class_images):
                if images is not None:
                    images.measure_base()

    def values(self) -> NumberValues:
        """The numbers `copying_loss` and `drift_loss`, as far as there are images for them."""
        values: NumberValues = {}
        if self.trained is not None and self.held_out is not None:
            # a loss that falls is a negative increase
            values["copying_loss"] = Values(self.held_out.increases(), less=self.trained.increases())
        if self.class_images is not None:
            values["drift_loss"] = Values(self.class_images.increases())
        return values


def loss_images(
    family: Family,
    resolution: tuple[int, int],
    *,
    trained: Sequence[ImageRecord] = (),
    held_out: Sequence[ImageRecord] = (),
    class_images: Sequence[ImageRecord] = (),
    clip_skip: int = 1,
) -> LossImages:
    """Encode the images of the numbers that are losses. `resolution`: (width, height) in pixels."""

    def fixed(records: Sequence[ImageRecord], with_captions: bool) -> FixedImages | None:
        if not records:
            return None
        return FixedImages(family, records, resolution, with_captions=with_captions, clip_skip=clip_skip)

    # without images of both kinds there is no gap to measure
    gap = bool(trained and held_out)
    return LossImages(
        fixed(trained, False) if gap else None,
        fixed(held_out, False) if gap else None,
        fixed(class_images, True),
    )


def read_records(folder: Path, resolution: int) -> list[ImageRecord]:
    """The images of a folder with their captions. Raises ConfigError with the problem of each file."""
    config = DataConfig(images=folder, resolution=resolution, cache_latents=False, empty_captions=True)
    return Dataset.build(config, seed=0).records


def spread(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """At most `MOST_IMAGES` of the images, spread evenly."""
    count = min(len(records), MOST_IMAGES)
    return [records[index * len(records) // count] for index in range(count)]


def whole(record: ImageRecord) -> ImageRecord:
    """The image as such: without a mask, a weight, transforms, or settings of its source."""
    return replace(
        record,
        mask=None,
        mask_digest="",
        concept_masks=(),
        transforms=(),
        resolution=None,
        batch_size=None,
        buckets=None,
        preserve=False,
    )
