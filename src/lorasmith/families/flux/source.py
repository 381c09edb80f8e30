"""Where the parts of a Flux model are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from lorasmith.families.transformer_models.presets import preset_patterns
from lorasmith.families.transformer_models.source import TransformerFolder


class FluxFolder(TransformerFolder):
    """A diffusers folder of Flux.1 dev or schnell."""

    kind = "flux"
    class_name: ClassVar[str] = "FluxTransformer2DModel"
    projected_text: ClassVar[tuple[str, ...]] = ()
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]] = preset_patterns(
        ["transformer_blocks", "single_transformer_blocks"]
    )
    folders: ClassVar[Mapping[str, tuple[str, str]]] = {
        "te1": ("text_encoder", "tokenizer"),
        "t5": ("text_encoder_2", "tokenizer_2"),
    }

    @property
    def is_distilled(self) -> bool:
        """Whether the guidance is an input of the network (dev), rather than a second pass (schnell: none at all)."""
        return bool(self.config("transformer").get("guidance_embeds"))

    def empty_denoiser(self) -> nn.Module:
        from lorasmith.families.flux.network import FluxNetwork

        return FluxNetwork.from_config(self.config("transformer"))  # pyright: ignore[reportReturnType]
