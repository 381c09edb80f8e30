"""What the loaders of transformer families have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from lorasmith.core.errors import LorasmithError
from lorasmith.families.registry import FamilyLoader, NotRecognisedError
from lorasmith.families.source import Source


class TransformerLoader(FamilyLoader):
    """Diffusers folders only; a single file is not read yet."""

    title: ClassVar[str]
    """What messages call the family."""
    hub_weights: ClassVar[Mapping[str, str]] = {
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder*": "model",
    }

    def open_file(self, name: str, path: Path, kind: str | None) -> Source:
        if kind is None:
            raise NotRecognisedError
        raise LorasmithError(f"{path}: a single file of {self.title} is not supported; use the diffusers folder")

    def replace_vae(self, base: Source, path: Path) -> Source:
        raise LorasmithError(f"vae: {self.title} has one VAE, which its transformer was trained with; leave `vae` out")
