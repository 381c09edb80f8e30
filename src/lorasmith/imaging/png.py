"""PNG files: tensors to pictures, and atomic writing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lorasmith.core.store import atomic_path


def to_image(pixels: Tensor) -> Image.Image:
    """Pixels (3, H, W) in -1..1 as an 8-bit RGB picture; values outside of the range are clipped."""
    levels = (pixels.float().clamp(-1, 1) + 1) * 127.5
    levels = levels.round().byte().permute(1, 2, 0).cpu()
    return Image.fromarray(np.ascontiguousarray(levels.numpy()))


def save_image(image: Image.Image, path: Path, info: PngInfo | None = None) -> Path:
    """Write a PNG atomically: the path holds the old file or the whole new one, never a part. `info`: text chunks."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)
    return path
