"""How models of Stable Diffusion 3 are found and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from lorasmith.families.registry import register
from lorasmith.families.sd3.source import SD3File, SD3Folder, SD3Source
from lorasmith.families.source import Source
from lorasmith.families.transformer_models.folder_loader import TransformerLoader

if TYPE_CHECKING:
    from lorasmith.families.sd3.family import SD3


class SD3Loader(TransformerLoader):
    kinds: ClassVar[tuple[str, ...]] = ("sd3",)
    title: ClassVar[str] = "Stable Diffusion 3"

    def open_folder(self, name: str, path: Path, kind: str | None) -> SD3Folder:
        return SD3Folder(name, path)

    def open_file(self, name: str, path: Path, kind: str | None) -> SD3File:
        return SD3File(name, path)

    def load(self, source: Source, dtype: torch.dtype | None, device: torch.device | str) -> SD3:
        # Imported here, because finding a base needs none of the networks.
        from lorasmith.families.sd3.family import SD3

        assert isinstance(source, SD3Source)
        return SD3(source, dtype, device)


register(SD3Loader())
