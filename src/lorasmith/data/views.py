"""One view of an image: which part of it is seen and which variant of each transform it has; read from file to
tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.data.condition_images import ConditionInput, decode_condition_image, shrink
from lorasmith.data.images import decode, resize_and_crop
from lorasmith.data.mask_files import decode_mask
from lorasmith.data.masks import to_latent_grid
from lorasmith.data.placement import Crop, Placement
from lorasmith.data.records import ImageRecord
from lorasmith.data.transforms import ImageTransform
from lorasmith.data.transforms.base import Sample


@dataclass(frozen=True)
class View:
    """An image as a batch sees it; `variant` has one number for each transform, and `conditions` are those whose
    pictures are read with the image."""

    record: ImageRecord
    placement: Placement
    transforms: tuple[ImageTransform, ...]
    variant: tuple[int, ...]
    conditions: tuple[ConditionInput, ...] = ()

    @property
    def condition_files(self) -> list[tuple[ConditionInput, Path, str]]:
        """The conditions of which the image has a picture, each with its file and the file's SHA-256."""
        files = {name: (path, digest) for name, path, digest in self.record.condition_images}
        return [(condition, *files[condition.name]) for condition in self.conditions if condition.name in files]

    @property
    def crop(self) -> Crop:
        """The part of the image that is seen: that of the first transform which chooses one, else the centre."""
        for transform, variant in zip(self.transforms, self.variant, strict=True):
            crop = transform.cut(self.record.path, self.record.size, self.placement, variant)
            if crop is not None:
                return crop
        return Crop(self.placement.resized, self.placement.box())

    def read(self) -> dict[str, Tensor]:
        """The image as tensors, read from its files.

        `pixels` (3, H, W) in -1..1; and if they exist, `mask` (1, H / 8, W / 8) in 0..1; `filled`, of the same shape:
        where the image is, if black surrounds it; `concepts` (N, H / 8, W / 8): masks of concepts;
        `condition.NAME` (3, H / scale, W / scale) uint8: the picture of a condition. Raises LorasmithError if a file
        has changed since it was scanned.
        """
        record, crop = self.record, self.crop
        picture, alpha = decode(_unchanged_bytes(record.path, record.digest))

        # Masks are brought to the size of the picture first, so that one crop fits all.
        mask_picture: Image.Image | None = None
        if record.mask == "alpha":
            mask_picture = alpha
        elif record.mask is not None:
            mask_picture = decode_mask(_unchanged_bytes(record.mask, record.mask_digest), picture.size)
        concept_pictures = [
            decode_mask(_unchanged_bytes(path, digest), picture.size) for _, path, digest in record.concept_masks
        ]

        concepts: NDArray[np.float32] | None = None
        if concept_pictures:
            concepts = np.stack([_crop_mask(picture, crop) for picture in concept_pictures], -1)

        sample = Sample(
            pixels=resize_and_crop(picture, crop.resized, crop.box, record.resize),
            mask=None if mask_picture is None else _crop_mask(mask_picture, crop),
            filled=crop.filled(),
            concepts=concepts,
            conditions=self._read_conditions(picture.size) if self.conditions else None,
        )
        # Before the transforms: a change of colours must not see what lies outside.
        sample = _blacken_outside(sample)
        for transform, variant in zip(self.transforms, self.variant, strict=True):
            sample = transform.apply(sample, variant)

        # Channels first, and -1..1 as the VAE expects. Masks are needed on the grid of the latents only.
        pixels = torch.from_numpy(sample.pixels).permute(2, 0, 1)
        tensors = {"pixels": (pixels.float() / 127.5 - 1).contiguous()}
        masks = {"mask": sample.mask, "filled": sample.filled, "concepts": sample.concepts}
        for name, mask in masks.items():
            if mask is not None:
                tensors[name] = to_latent_grid(mask, DOWNSCALE)
        if sample.conditions is not None:
            tensors |= self._condition_tensors(sample.conditions)
        return tensors

    def _read_conditions(self, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """(H, W, 3 N): the pictures of the conditions in the crop of the image; None if there are none. `size`:
        (width, height) of the image."""
        cropped: list[NDArray[np.uint8]] = []
        for _, path, digest in self.condition_files:
            picture = decode_condition_image(_unchanged_bytes(path, digest), size)
            width, height = self.crop.resized
            filter_name = "area" if width <= size[0] and height <= size[1] else "bilinear"
            cropped.append(resize_and_crop(picture, self.crop.resized, self.crop.box, filter_name))
        return np.concatenate(cropped, -1) if cropped else None

    def _condition_tensors(self, pictures: NDArray[np.uint8]) -> dict[str, Tensor]:
        """The tensors of the conditions from their pictures (H, W, 3 N)."""
        parts = torch.from_numpy(pictures).permute(2, 0, 1).split(3)
        return {
            condition.tensor_name: shrink(pixels, condition.scale)
            for (condition, _, _), pixels in zip(self.condition_files, parts, strict=True)
        }

    def cache_key_parts(self) -> dict[str, Any]:
        """Everything that decides the result of `read`, as JSON data. Transforms that only choose the crop are
        contained in `place`."""
        crop = self.crop
        changes = [
            [transform.model_dump(mode="json"), variant]
            for transform, variant in zip(self.transforms, self.variant, strict=True)
            if not transform.cuts
        ]
        parts: dict[str, Any] = {
            "image": self.record.digest,
            "resize": self.record.resize,
            "place": [crop.resized, crop.box, crop.seen],
            "changes": changes,
            "mask": self.record.mask_digest or self.record.mask,
        }
        if self.record.concept_masks:
            parts["concepts"] = [digest for _, _, digest in self.record.concept_masks]
        if self.conditions and self.condition_files:
            parts["conditions"] = [[used.name, used.scale, digest] for used, _, digest in self.condition_files]
        return parts


def all_variants(transforms: Sequence[ImageTransform]) -> Iterator[tuple[int, ...]]:
    """Every combination of the variants of these transforms, each of which must have a finite number of them."""
    return product(*(range(transform.variants or 0) for transform in transforms))


def _crop_mask(mask: Image.Image, crop: Crop) -> NDArray[np.float32]:
    """(H, W) in 0..1: a mask in the crop of its image."""
    return (resize_and_crop(mask, crop.resized, crop.box) / 255).astype(np.float32)


def _blacken_outside(sample: Sample) -> Sample:
    """The sample black, and outside of all masks, where the image does not fill its bucket."""
    filled = sample.filled
    if filled is None:
        return sample
    return Sample(
        pixels=sample.pixels * filled[..., None].astype(np.uint8),
        mask=None if sample.mask is None else sample.mask * filled,
        filled=filled,
        concepts=None if sample.concepts is None else sample.concepts * filled[..., None],
        conditions=None if sample.conditions is None else sample.conditions * filled[..., None].astype(np.uint8),
    )


def _unchanged_bytes(path: Path, digest: str) -> bytes:
    """The bytes of a file whose SHA-256 is still `digest`: a cache entry must not hold another image. Raises
    LorasmithError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LorasmithError(f"{path}: cannot be read any more ({error.strerror or error})") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise LorasmithError(f"{path}: the file has changed since the data set was read; start again")
    return data
