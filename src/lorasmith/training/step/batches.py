"""From a loaded batch to one that the objective can use: on the device, with latents and conditions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lorasmith.data.dataset import Batch

if TYPE_CHECKING:
    from lorasmith.training.run import Run


def prepare_batch(run: Run, batch: Batch) -> Batch:
    """Move to the device; encode what was not cached. A trained text encoder is run here, with gradients."""
    batch = batch.to(run.device)
    if batch.latents is None and batch.pixels is not None:
        batch = replace(batch, latents=run.family.encode_image(batch.pixels))
    if batch.conditioning is None:
        conditioning = run.family.encode_text(batch.captions, **run.config.text.model_dump())
        batch = replace(batch, conditioning=conditioning)
    assert batch.conditioning is not None
    return replace(
        batch, conditioning=run.family.add_sizes(batch.conditioning, batch.original, batch.crop, batch.target)
    )
