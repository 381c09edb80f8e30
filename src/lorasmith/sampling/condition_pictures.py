"""The pictures of conditions in a batch of requests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lorasmith.conditions.attach import attached_conditions
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.progress import Progress
from lorasmith.data.condition_images import ConditionInput, shrink
from lorasmith.data.images import decode
from lorasmith.families.base import Conditioning, Family
from lorasmith.sampling.request import Request


def add_condition_pictures(
    family: Family, conditioning: Conditioning, requests: Sequence[Request], size: tuple[int, int]
) -> Conditioning:
    """`conditioning` with the pictures of the conditions that the family has; with guidance, for both halves.

    `size`: height and width in pixels, to which the pictures are resized. Raises LorasmithError for a picture that
    cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for attached in attached_conditions(family):
        pictures = [picture_of(request, attached.input, size) for request in requests]
        both_halves = torch.cat(pictures * (1 if requests[0].cfg == 1 else 2))
        tensors[attached.input.tensor_name] = both_halves.to(family.device)
    return conditioning.with_tensors(**tensors) if tensors else conditioning


def picture_of(request: Request, condition: ConditionInput, size: tuple[int, int]) -> Tensor:
    """(1, 3, H / scale, W / scale) in 0..1: the request's picture of a condition, or its empty value."""
    path = request.conditions.get(condition.name)
    if path is None:
        return condition.empty_batch(1, *size)
    height, width = size
    picture = read_picture(path).resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    return shrink(pixels, condition.scale)[None].float() / 255


def read_picture(path: Path) -> Image.Image:
    """A picture in RGB. Raises LorasmithError if it cannot be read."""
    try:
        return decode(path.read_bytes())[0]
    except (OSError, ValueError) as error:
        raise LorasmithError(f"{path}: not a picture that can be read ({error})") from None


def check_conditions(names: Collection[str], requests: Sequence[Request]) -> None:
    """Raises LorasmithError for a picture of a condition that is not among `names`, or that cannot be read."""
    for request in requests:
        for name, path in request.conditions.items():
            if name not in names:
                allowed = ", ".join(names) or "none"
                hint = did_you_mean(name, names) or "name a LoRA that was trained with it, or leave the picture out"
                raise LorasmithError(f"condition {name}: there is no such condition here (known: {allowed}); {hint}")
            read_picture(path)


def say_missing(family: Family, requests: Sequence[Request], progress: Progress) -> None:
    """Say which of the conditions that the network gets have no picture."""
    for name in (attached.input.name for attached in attached_conditions(family)):
        missing = sum(name not in request.conditions for request in requests)
        if missing:
            which = "all pictures" if missing == len(requests) else f"{missing} of {len(requests)} pictures"
            progress.say(f"condition {name}: {which} are drawn with its empty value, since no picture is given for it")
