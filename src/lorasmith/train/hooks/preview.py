"""Pictures while training: the same prompts and seeds each time, the base model's beside the adapter's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.train.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.train.run import Run


class Previews(Hook):
    """Draws the prompts now and then, into `previews/step-00000100/`.

    The base model's pictures are drawn once and stand in the first row of each grid.
    """

    kind: Literal["preview"] = "preview"
    prompts: tuple[str, ...] | Path
    """Prompts, or a file of them (one a line, with kohya's `--n --w --h --s --d --l` options)."""
    negative: str = ""
    seed: int = 0
    steps: int = Field(20, ge=1)
    cfg: float = Field(7.0, ge=1)
    sampler: str = "ddim"
    width: int | None = None
    """Default: the training resolution."""
    height: int | None = None
    compare_base: bool = True
