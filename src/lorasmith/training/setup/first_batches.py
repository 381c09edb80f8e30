"""A picture of the first batches of a run: images, masks and captions exactly as training gets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from lorasmith.core.store import atomic_path
from lorasmith.data.dataset import Dataset
from lorasmith.imaging.contact_sheet import mask_overlay
from lorasmith.imaging.grid import captioned_grid
from lorasmith.imaging.png import to_image

MAX_IMAGES = 36
"""Images on the contact sheet."""
MAX_CAPTION_LINES = 40


@dataclass(frozen=True)
class Cell:
    """One view on the contact sheet."""

    picture: Image.Image
    text: str
    masked: bool
    """Whether the loss counts in a part of the image only. The rest of the image is tinted."""


def draw_first_batches(dataset: Dataset, accumulation: int, output: Path) -> Path:
    """Write the first batches of the first epoch to `output`, a JPEG. Reads images; uses and fills no caches."""
    cells = list(islice(first_epoch_cells(dataset, accumulation), MAX_IMAGES))
    title = "the first batches, as training gets them"
    if any(cell.masked for cell in cells):
        title += "; red: the loss does not count"
    pictures, texts = [cell.picture for cell in cells], [cell.text for cell in cells]
    sheet = captioned_grid(pictures, texts, title=title, max_lines=MAX_CAPTION_LINES)
    with atomic_path(output) as temporary:
        sheet.save(temporary, "jpeg", quality=90)
    return output


def first_epoch_cells(dataset: Dataset, accumulation: int) -> Iterator[Cell]:
    """Each view of the first epoch, in the order of training."""
    for index, plan in enumerate(dataset.epoch(0)):
        step = index // accumulation
        batch = dataset.load(plan, step)
        assert batch.pixels is not None, "nothing is cached before `prepare`"

        for i, caption in enumerate(batch.captions):
            text = f"step {step + 1}, {plan.bucket[0]} x {plan.bucket[1]}"
            loss_weight = float(batch.loss_weight[i])
            if loss_weight != 1:
                text += f", loss x {loss_weight:g}"
            text += f"\n{caption or '(no caption)'}"

            # (1, h, w) in 0..1 on the latent grid, as a grey picture.
            mask = torch.ones(1, 8, 8) if batch.mask is None else batch.mask[i]
            grey = Image.fromarray((mask[0] * 255).round().to(torch.uint8).numpy())
            picture = mask_overlay(to_image(batch.pixels[i]), grey)
            yield Cell(picture, text, masked=bool((mask < 1).any()))
