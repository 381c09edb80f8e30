"""Latents of all views of all images, encoded once."""

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
    """Several processes that fill one cache together; this one is `index` of `count`."""

    index: int
    count: int

    def wait(self) -> None:
        """Until all have come so far."""


class LatentCache(TensorCache):
    """`mean`, `std` (4, h, w) float32, unscaled, `mask` and `filled` (1, h, w), `concepts` (N, h, w), for each view.

    `std` is not there for deterministic encoders, `mask` not for images without one, `filled` not for those that fill
    their bucket, `concepts` not without masks of concepts.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "latents")
        self.encoder: dict[str, str] | None = None
        """Family and VAE that made the latents; None before they are made."""

    def fill(self, views: Iterable[View], family: Family, progress: Progress, ranks: CacheRanks | None = None) -> None:
        """Encode the views that are missing; where several share the work, a part of them, and read the others' from
        the disk. Raises LorasmithError if numbers come out that are not finite."""
        self.encoder = {"kind": family.kind, "vae": family.fingerprint("vae")}
        wanted = {self.key_of(view): view for view in views}
        missing = {key: view for key, view in wanted.items() if self.get(key) is None}
        if ranks is not None and ranks.count > 1:
            ranks.wait()  # all know what is missing before any writes
            own = dict(list(missing.items())[ranks.index :: ranks.count])
            self._encode(own, family, progress)
            ranks.wait()
            missing = {key: view for key, view in missing.items() if key not in own and not self._keeps(key)}
        self._encode(missing, family, progress)

    def _encode(self, missing: dict[str, View], family: Family, progress: Progress) -> None:
        if not missing:
            return
        with progress.track("encoding images", len(missing)) as advance:
            for key, view in missing.items():
                self.put(key, encoded(view, family))
                advance(1, view.record.path.name)

    def of(self, view: View) -> dict[str, Tensor]:
        """The tensors of a view that `fill` was given."""
        found = self.get(self.key_of(view))
        if found is None:
            raise LorasmithError(f"{view.record.path}: its latent left the cache while training; start again")
        return found

    def key_of(self, view: View) -> str:
        """The name of a view's latent."""
        assert self.encoder is not None
        return self.key(**view.causes(), **self.encoder)


def encoded(view: View, family: Family) -> dict[str, Tensor]:
    """A view's latent distribution and mask."""
    tensors = view.read()
    distribution = family.encode_image(tensors.pop("pixels")[None].to(family.device))
    tensors["mean"] = distribution.mean[0].float()
    if distribution.std is not None:
        tensors["std"] = distribution.std[0].float()
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise LorasmithError(
            f"{view.record.path}: the VAE gives numbers that are not finite; use precision = bf16 or fp32"
        )
    return tensors
