"""PNG files with the text inside that A1111 and its kin read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lorasmith.core.store import atomic_path
from lorasmith.infer import samplers
from lorasmith.infer.regions import written
from lorasmith.infer.sample import Picture


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in -1..1 to an 8-bit picture."""
    values = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).cpu().numpy()))


def parameters(picture: Picture) -> str:
    """The `parameters` text: prompt, negative prompt, settings."""
    r = picture.request
    settings = {
        "Steps": r.steps,
        "Sampler": samplers.find(r.sampler).label,
        "CFG scale": f"{r.cfg:g}",
        "Seed": r.seed,
        "Size": f"{r.width}x{r.height}",
        **({"Clip skip": r.clip_skip} if r.clip_skip > 1 else {}),
        **({"CFG Rescale": f"{r.rescale:g}"} if r.rescale else {}),
        **({"Regions": written(r.regions, r.width, r.height)} if r.regions else {}),
        **({"Controls": " | ".join(map(str, r.controls))} if r.controls else {}),
        **picture.facts,
    }
    lines = [r.prompt, *([f"Negative prompt: {r.negative}"] if r.negative else [])]
    return "\n".join([*lines, ", ".join(f"{key}: {_quoted(str(value))}" for key, value in settings.items())])


def _quoted(value: str) -> str:
    """A value with a comma, colon or line break in it stands in quotes, as A1111 writes and reads it."""
    if not any(c in value for c in ",:\n"):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def save(picture: Picture, path: Path) -> Path:
    """Write a picture whole, with its parameters."""
    info = PngInfo()
    info.add_text("parameters", parameters(picture))
    return save_image(to_image(picture.pixels), path, info)


def save_image(image: Image.Image, path: Path, info: PngInfo | None = None) -> Path:
    """Write a PNG whole."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)
    return path
