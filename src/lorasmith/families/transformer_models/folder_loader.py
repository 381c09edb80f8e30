"""What the loaders of transformer families have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from lorasmith.core.errors import LorasmithError
from lorasmith.families.registry import FamilyLoader
from lorasmith.families.source import Source
from lorasmith.families.transformer_models.single_file import TransformerFile


class TransformerLoader(FamilyLoader):
    title: ClassVar[str]
    """What messages call the family."""
    hub_weights: ClassVar[Mapping[str, str]] = {
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder*": "model",
    }

    def replace_vae(self, base: Source, path: Path) -> Source:
        if isinstance(base, TransformerFile):
            return base.with_parts([path])
        raise LorasmithError(f"vae: {self.title} has one VAE, which its transformer was trained with; leave `vae` out")

    def with_parts(self, base: Source, paths: Sequence[Path]) -> Source:
        if isinstance(base, TransformerFile):
            return base.with_parts(paths)
        raise LorasmithError(
            f"base_parts: {base.name} is a diffusers folder, which has its text encoders and VAE; leave base_parts out"
        )
