"""The names of Stable Diffusion's layers in LoRA files."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from lorasmith.adapters.base import LayerSpec
from lorasmith.families.file_names import FamilyFileNames, FileNames, register
from lorasmith.families.source import Source
from lorasmith.families.stable_diffusion import layer_names
from lorasmith.families.stable_diffusion.source import StableDiffusionSource
from lorasmith.families.stable_diffusion.unet_config import UNetConfig


class StableDiffusionNames(FileNames):
    def __init__(self, kind: str, layers: Collection[str], config: UNetConfig) -> None:
        self.kind, self.config = kind, config
        self._layers = tuple(layers)

    def kohya_name(self, layer: str) -> str:
        return layer_names.kohya(self.kind, layer, self.config)

    def from_kohya(self, name: str) -> str | None:
        return layer_names.from_kohya(self.kind, name, self._layers, self.config)

    def peft_name(self, layer: str) -> str:
        return layer_names.peft_name(layer)


class StableDiffusionFileNames(FamilyFileNames):
    kinds: ClassVar[tuple[str, ...]] = ("sd1", "sd2", "sdxl")

    def published_layers(self, kind: str, widths: Collection[int]) -> tuple[LayerSpec, ...]:
        return layer_names.layers(kind)

    def layers_of(self, source: Source) -> tuple[LayerSpec, ...]:
        assert isinstance(source, StableDiffusionSource)
        text_configs = {component: source.config(component) for component in source.present_text_encoders}
        return layer_names.layers_of(source.unet_config, text_configs)

    def names(self, kind: str, layers: Collection[str], source: Source | None) -> FileNames:
        assert source is None or isinstance(source, StableDiffusionSource)
        config = layer_names.published_unet(kind) if source is None else source.unet_config
        return StableDiffusionNames(kind, layers, config)


register(StableDiffusionFileNames())
