"""PNG files: tensors to pictures, written whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lorasmith.core.store import atomic_path


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in -1..1 to an 8-bit picture."""
    values = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).cpu().numpy()))


def save_image(image: Image.Image, path: Path, info: PngInfo | None = None) -> Path:
    """Write a PNG whole."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)
    return path
