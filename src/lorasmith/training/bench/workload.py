"""What a benchmark computes: the base, the images and the settings, in the same way for each contender."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path
from lorasmith.families.load import open_base

RANDOM_BASES = {"sd1": 512, "sd2": 768, "sdxl": 1024, "sd35-medium": 1024, "sd35-large": 1024, "flux": 1024}
"""Full-size bases that are made with random weights, and the resolution that each is for."""
LEARNING_RATE = 1e-4
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Workload:
    """One kind of step."""

    base: str
    """The folder or name of the base; contenders other than ours need a diffusers folder."""
    images: str
    """The folder of the images, which are square."""
    cache: str
    """The folder for latents and texts."""
    resolution: int
    batch: int
    precision: str
    """`fp32` or `bf16`: of the frozen base."""
    device: str
    adapter: dict[str, Any] = field(default_factory=dict[str, Any])
    memory: int = 0
    """The memory level of ours."""
    cuda_graph: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """That of the frozen base."""
        return PRECISIONS[self.precision]

    @property
    def rank(self) -> int:
        """That of the LoRA."""
        return int(self.adapter.get("rank", 16))


def make_base(base: str, folder: Path) -> str:
    """The base of a benchmark: one of `RANDOM_BASES` is made in `folder` unless it is there; else `base` itself.

    Raises LorasmithError if there is no such base.
    """
    if base not in RANDOM_BASES:
        try:
            return str(open_base(base).path)
        except LorasmithError as error:
            raise LorasmithError(f"{error}\nRandom full-size bases: {', '.join(RANDOM_BASES)}") from error
    place = folder / f"random-{base}"
    if not (place / "model_index.json").is_file():
        # the index is written last, so a base that was cut off is made again
        _write_random_base(place, base)
    return str(place)


def _write_random_base(place: Path, base: str) -> None:
    """Write one of `RANDOM_BASES`."""
    from lorasmith.families.stable_diffusion import random_base as stable_diffusion
    from lorasmith.families.transformer_models import random_base as transformer_models

    if base in transformer_models.MODELS:
        transformer_models.write(place, base)
    else:
        stable_diffusion.write(place, base, tiny=False, layouts=["folder"], dtype=torch.float16, seed=0)


def native_resolution(base: str) -> int:
    """The side of the images that a base was made for."""
    return RANDOM_BASES.get(base) or open_base(base).native_size


def make_images(folder: Path, size: int, count: int) -> str:
    """A folder of `count` square images of noise with captions, made unless it is there."""
    from PIL import Image

    place = folder / f"images-{size}-{count}"
    place.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        pixels = torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8)
        path = place / f"{i:03d}.png"
        if not path.is_file():
            with atomic_path(path) as temporary:
                Image.fromarray(pixels.numpy()).save(temporary, format="PNG")
            path.with_suffix(".txt").write_text(f"a photo of thing {i}", encoding="utf-8")
    return str(place)
