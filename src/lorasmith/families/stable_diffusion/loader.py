"""How models of Stable Diffusion 1.x, 2.x and XL are found and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from lorasmith.families.registry import FamilyLoader, register
from lorasmith.families.source import Source
from lorasmith.families.stable_diffusion.other_vae import OtherVae
from lorasmith.families.stable_diffusion.single_file import SingleFile
from lorasmith.families.stable_diffusion.source import PARTS, Folder, StableDiffusionSource

if TYPE_CHECKING:
    from lorasmith.families.stable_diffusion.family import StableDiffusion


class StableDiffusionLoader(FamilyLoader):
    kinds: ClassVar[tuple[str, ...]] = tuple(PARTS)
    hub_weights: ClassVar[Mapping[str, str]] = {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder*": "model",
    }

    def open_folder(self, name: str, path: Path, kind: str | None) -> Source:
        return Folder(name, path, kind)

    def open_file(self, name: str, path: Path, kind: str | None) -> Source:
        return SingleFile(name, path, kind)

    def replace_vae(self, base: Source, path: Path) -> Source:
        assert isinstance(base, StableDiffusionSource)
        return OtherVae(base, path)

    def load(self, source: Source, dtype: torch.dtype | None, device: torch.device | str) -> StableDiffusion:
        # Imported here, because finding a base needs none of the networks.
        from lorasmith.families.stable_diffusion.sd1 import SD1
        from lorasmith.families.stable_diffusion.sd2 import SD2
        from lorasmith.families.stable_diffusion.sdxl import SDXL

        assert isinstance(source, StableDiffusionSource)
        classes: dict[str, type[StableDiffusion]] = {cls.kind: cls for cls in (SD1, SD2, SDXL)}
        return classes[source.kind](source, dtype, device)


register(StableDiffusionLoader())
