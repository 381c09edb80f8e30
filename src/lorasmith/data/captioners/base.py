"""The extension point of models that write captions."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from PIL import Image
from pydantic import Field

from lorasmith.core.registry import Component


class Captioner(Component, root="captioner"):
    """Describes an image in words, for `lorasmith caption`."""

    model: Path
    """The folder of the model. Nothing is downloaded."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`."""
    threshold: float = Field(default=0.35, gt=0, lt=1)
    """Of a tagging model: the lowest probability of a tag that is written."""
    prompt: str = "Describe this image in one sentence."
    """Of a captioning model that follows instructions: the instruction."""
    max_tokens: int = Field(default=60, ge=1)
    """Of a captioning model: the largest number of tokens of a caption."""

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """Whether a folder holds a model of this kind, by its files."""
        return False

    @abstractmethod
    def __call__(self, picture: Image.Image) -> str:
        """The caption of a picture (RGB). Raises LorasmithError if the model cannot be loaded."""
