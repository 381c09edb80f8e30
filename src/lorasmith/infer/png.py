"""PNG files with the text inside that A1111 and its kin read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lorasmith.core.store import atomic_path
from lorasmith.infer.sample import Picture


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in -1..1 to an 8-bit picture."""
    values = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).cpu().numpy()))


def parameters(picture: Picture) -> str:
    """The `parameters` text: prompt, negative prompt, settings."""
    r = picture.request
    settings = {"Steps": r.steps, "Sampler": r.sampler, "CFG scale": f"{r.cfg:g}", "Seed": r.seed}
    settings |= {"Size": f"{r.width}x{r.height}", **picture.facts}
    if r.clip_skip > 1:
        settings["Clip skip"] = r.clip_skip
    lines = [r.prompt, *([f"Negative prompt: {r.negative}"] if r.negative else [])]
    return "\n".join([*lines, ", ".join(f"{k}: {v}" for k, v in settings.items())])


def save(picture: Picture, path: Path) -> Path:
    """Write a picture whole, with its parameters."""
    info = PngInfo()
    info.add_itxt("parameters", parameters(picture))
    with atomic_path(path) as temporary:
        to_image(picture.pixels).save(temporary, format="PNG", pnginfo=info)
    return path
