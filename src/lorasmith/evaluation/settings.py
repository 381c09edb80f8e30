"""The settings of `lorasmith evaluate`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from lorasmith.evaluation.base import Scorer
from lorasmith.evaluation.clip import Clip
from lorasmith.sampling.settings import SampleSettings


class EvaluateSettings(SampleSettings):
    """How pictures are generated and measured. The defaults are the protocol of Mix-of-Show (arXiv 2305.18292, section
    6.2)."""

    base: str | None = None
    """The base model that generates the pictures."""
    scorer: Scorer = Field(default_factory=Clip)
    seed: int = Field(default=1, ge=0)
    count: int = Field(default=50, ge=1)
    """Pictures of each prompt."""
    sampler: str = "dpm++_2m"
    cfg: float = 7.5
    trigger: str = ""
    """Replaces `<TOK>` in the prompts of pictures that are generated with a LoRA."""
    class_word: str = ""
    """The plain word for what the concept is. It replaces `<TOK>` in the texts that pictures are compared with, and in
    the prompts of the base model alone."""
    prefix: str = "A photo depicts "
    """Stands before each text that pictures are compared with."""
    held_out: Path | None = None
    """A folder of images of the concept that were not trained on. Copying is then also measured by losses."""
    class_images: Path | None = None
    """A folder of images of other things, with captions. Drift is then also measured by their loss."""
