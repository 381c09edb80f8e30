"""A picture of the first batches of a run: images, masks and captions exactly as training gets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lorasmith.core.store import atomic_path
from lorasmith.data.dataset import Dataset
from lorasmith.imaging.contact_sheet import mask_overlay
from lorasmith.imaging.grid import captioned_grid
from lorasmith.imaging.png import to_image

MOST = 36
"""Images on the picture."""
LONGEST = 40
"""Lines of a caption that are shown."""


@dataclass(frozen=True)
class Cell:
    """One view of an image: as it is trained, and what there is to say of it."""

    picture: Image.Image
    text: str
    masked: bool
    """Whether its loss counts in a part of it only, which is the part that is not tinted."""


def draw(dataset: Dataset, accumulation: int, output: Path) -> Path:
    """Write the first batches of the first epoch to `output`, a JPEG. Reads images; uses and fills no caches."""
    shown = list(islice(cells(dataset, accumulation), MOST))
    title = "the first batches, as training gets them"
    if any(cell.masked for cell in shown):
        title += "; red: the loss does not count"
    sheet = captioned_grid([c.picture for c in shown], [c.text for c in shown], title=title, max_lines=LONGEST)
    with atomic_path(output) as temporary:
        sheet.save(temporary, "jpeg", quality=90)
    return output


def cells(dataset: Dataset, accumulation: int) -> Iterator[Cell]:
    """Each view of the first epoch, in the order of training."""
    for place, plan in enumerate(dataset.epoch(0)):
        step = place // accumulation
        batch = dataset.load(plan, step)
        assert batch.pixels is not None, "nothing is cached before `prepare`"
        for i, caption in enumerate(batch.captions):
            text = f"step {step + 1}, {plan.bucket[0]} x {plan.bucket[1]}"
            if (weight := float(batch.loss_weight[i])) != 1:
                text += f", loss x {weight:g}"
            mask = torch.ones(1, 8, 8) if batch.mask is None else batch.mask[i]
            picture = mask_overlay(to_image(batch.pixels[i]), grey(mask))
            yield Cell(picture, f"{text}\n{caption or '(no caption)'}", bool((mask < 1).any()))


def grey(mask: Tensor) -> Image.Image:
    """(1, h, w) in 0..1 as a grey picture."""
    return Image.fromarray((mask[0] * 255).round().to(torch.uint8).numpy())
