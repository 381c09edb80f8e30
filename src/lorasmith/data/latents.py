"""The cache of latents: every view of every image, encoded once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.data.cache import TensorCache
from lorasmith.data.views import View
from lorasmith.families.base import Family


class CacheRanks(Protocol):
    """Several processes that fill one cache together; this one is rank `index` of `count`."""

    index: int
    count: int

    def wait(self) -> None:
        """Wait until all ranks have called this."""


class LatentCache(TensorCache):
    """For each view `mean` and `std` (4, h, w) float32, not scaled; masks `mask` and `filled` (1, h, w) and `concepts`
    (N, h, w).

    `std` is missing for deterministic encoders, `mask` for images without one, `filled` for images that fill their
    bucket, `concepts` for images without concept masks.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "latents")
        self.encoder: dict[str, str] | None = None
        """Family and VAE that made the latents; None before `fill`."""

    def fill(self, views: Iterable[View], family: Family, progress: Progress, ranks: CacheRanks | None = None) -> None:
        """Encode the views that are missing; where several ranks do this together, each encodes a part and reads the
        others' from the disk. Raises LorasmithError if latents are not finite."""
        self.encoder = {"kind": family.kind, "vae": family.fingerprint("vae")}
        views_by_key = {self.key_of(view): view for view in views}
        missing = {key: view for key, view in views_by_key.items() if self.get(key) is None}

        if ranks is not None and ranks.count > 1:
            ranks.wait()  # every rank lists what is missing before any of them writes
            part = dict(list(missing.items())[ranks.index :: ranks.count])
            self._encode(part, family, progress)
            ranks.wait()
            # What another rank has encoded is on the disk now, unless the disk cannot be written.
            of_others = [key for key in missing if key not in part]
            missing = {key: missing[key] for key in of_others if not self._load_again(key)}

        self._encode(missing, family, progress)

    def load(self, view: View) -> dict[str, Tensor]:
        """The tensors of a view that `fill` was called with."""
        tensors = self.get(self.key_of(view))
        if tensors is None:
            path = view.record.path
            raise LorasmithError(
                f"{path}: its latents were deleted from the cache while training; a resumed run makes them again"
            )
        return tensors

    def key_of(self, view: View) -> str:
        """The cache key of a view's latents."""
        assert self.encoder is not None
        return self.key(**view.cache_key_parts(), **self.encoder)

    def _encode(self, views_by_key: dict[str, View], family: Family, progress: Progress) -> None:
        if not views_by_key:
            return
        with progress.track("encoding images", len(views_by_key)) as advance:
            for key, view in views_by_key.items():
                self.put(key, encode_view(view, family))
                advance(1, view.record.path.name)


def encode_view(view: View, family: Family) -> dict[str, Tensor]:
    """The latent distribution and the masks of a view. Raises LorasmithError if they are not finite."""
    tensors = view.read()
    # One image at a time: latents then do not depend on which images are encoded together.
    pixels = tensors.pop("pixels")[None].to(family.device)
    distribution = family.encode_image(pixels)
    tensors["mean"] = distribution.mean[0].float()
    if distribution.std is not None:
        tensors["std"] = distribution.std[0].float()
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise LorasmithError(
            f"{view.record.path}: the VAE gives numbers that are not finite; use precision = bf16 or fp32"
        )
    return tensors
