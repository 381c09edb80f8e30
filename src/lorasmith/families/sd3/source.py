"""Where the parts of a Stable Diffusion 3 model are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from lorasmith.families.transformer_models.presets import preset_patterns
from lorasmith.families.transformer_models.source import TransformerFolder


class SD3Folder(TransformerFolder):
    """A diffusers folder of SD3 medium, SD3.5 medium or large."""

    kind = "sd3"
    class_name: ClassVar[str] = "SD3Transformer2DModel"
    projected_text: ClassVar[tuple[str, ...]] = ("te1", "te2")
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]] = preset_patterns(["transformer_blocks"])
    folders: ClassVar[Mapping[str, tuple[str, str]]] = {
        "te1": ("text_encoder", "tokenizer"),
        "te2": ("text_encoder_2", "tokenizer_2"),
        "t5": ("text_encoder_3", "tokenizer_3"),
    }

    def empty_denoiser(self) -> nn.Module:
        from lorasmith.families.sd3.mmdit import MMDiT

        return MMDiT.from_config(self.config("transformer"))  # pyright: ignore[reportReturnType]
