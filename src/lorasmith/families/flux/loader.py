"""How models of Flux are found and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from lorasmith.families.flux.source import FluxFile, FluxFolder, FluxSource
from lorasmith.families.registry import register
from lorasmith.families.source import Source
from lorasmith.families.transformer_models.folder_loader import TransformerLoader

if TYPE_CHECKING:
    from lorasmith.families.flux.family import Flux


class FluxLoader(TransformerLoader):
    kinds: ClassVar[tuple[str, ...]] = ("flux",)
    title: ClassVar[str] = "Flux"

    def open_folder(self, name: str, path: Path, kind: str | None) -> FluxFolder:
        return FluxFolder(name, path)

    def open_file(self, name: str, path: Path, kind: str | None) -> FluxFile:
        return FluxFile(name, path)

    def load(self, source: Source, dtype: torch.dtype | None, device: torch.device | str) -> Flux:
        # Imported here, because finding a base needs none of the networks.
        from lorasmith.families.flux.family import Flux

        assert isinstance(source, FluxSource)
        return Flux(source, dtype, device)


register(FluxLoader())
