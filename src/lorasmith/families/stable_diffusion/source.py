"""Where the parts of a Stable Diffusion model are stored: what both layouts share, and the diffusers folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lorasmith.adapters.base import LayerSpec
from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.core.package import assets
from lorasmith.core.text_files import parse_json_table
from lorasmith.families.folder_parts import read_part_config, read_part_headers, read_scheduler_config
from lorasmith.families.reader import TensorRef
from lorasmith.families.registry import NotRecognisedError
from lorasmith.families.source import Source
from lorasmith.families.stable_diffusion.presets import PRESETS
from lorasmith.families.stable_diffusion.stored_names import current_vae_names, text_encoder_names
from lorasmith.families.stable_diffusion.unet_config import UNetConfig

PARTS: dict[str, tuple[str, ...]] = {
    "sd1": ("unet", "vae", "te"),
    "sd2": ("unet", "vae", "te"),
    "sdxl": ("unet", "vae", "te1", "te2"),
}
_PART_TITLES = {
    "unet": "UNet",
    "vae": "VAE",
    "te": "text encoder",
    "te1": "first text encoder",
    "te2": "second text encoder",
    "t5": "T5 text encoder",
    "transformer": "transformer",
}


KINDS = ("sd1", "sd2", "sdxl")
TOKENIZERS = ("clip", "tiny-sd/tokenizer")
"""Tokenizers that are part of Lorasmith, by folder: that of published models, that of the built-in base."""


def shipped_config(kind: str, part: str) -> dict[str, Any]:
    """The diffusers or transformers config of a part of the published models of this kind."""
    return json.loads((assets() / "configs" / kind / f"{part}.json").read_text(encoding="utf-8"))


def configs_in(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The configs of the parts in a file's metadata (`lorasmith.configs`), with its `kind` and the name of its
    `tokenizer`, as the files that Lorasmith writes have them; else empty. Raises LorasmithError for other content."""
    text = metadata.get("lorasmith.configs", "")
    configs = parse_json_table(text, path) if text else {}
    parts = [value for key, value in configs.items() if key not in ("kind", "tokenizer")]
    known = configs.get("kind", "sd1") in KINDS and configs.get("tokenizer", TOKENIZERS[0]) in TOKENIZERS
    if not known or not all(isinstance(part, dict) for part in parts):
        raise LorasmithError(f"{path}: its metadata lorasmith.configs are damaged; get the file again")
    return configs


def part_title(part: str) -> str:
    """What messages call a part."""
    return _PART_TITLES[part]


def _hint(folder: Path) -> str:
    """What a folder without a UNet holds instead, as the end of an error message."""
    for name in ("model_index.json", "config.json"):
        with suppress(OSError, ValueError, AttributeError):
            class_name = json.loads((folder / name).read_text(encoding="utf-8")).get("_class_name")
            if isinstance(class_name, str):
                return f". By its {name} it is a {class_name}"
    files = sorted(folder.glob("*.safetensors"))
    return f". For a single file, name it: {files[0]}" if files else ""


class StableDiffusionSource(Source):
    """A base model of Stable Diffusion 1.x, 2.x or XL."""

    denoiser_component: ClassVar[str] = "unet"
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]] = PRESETS

    @property
    def text_components(self) -> tuple[str, ...]:
        return tuple(part for part in PARTS[self.kind] if is_text_encoder(part))

    @cached_property
    def unet_config(self) -> UNetConfig:
        return UNetConfig.from_diffusers(self.config("unet"), self.where("unet"))

    @property
    def network_shape(self) -> UNetConfig:
        return self.unet_config

    @property
    def prediction(self) -> str:
        """`epsilon` or `v_prediction`."""
        if not self.states_prediction and self._probed_prediction != "unknown":
            return self._probed_prediction
        kind = self.config("scheduler").get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise LorasmithError(
                f"{self.name}: its prediction type is {kind!r}; epsilon and v_prediction are supported"
            )
        return kind

    @property
    def states_prediction(self) -> bool:
        """Whether the base's own configs or tensors show what it predicts."""
        return True

    @cached_property
    def _probed_prediction(self) -> str:
        from lorasmith.families.stable_diffusion.unknown_prediction import probed_prediction

        return probed_prediction(self)

    @property
    def prediction_origin(self) -> str:
        if self.states_prediction:
            return "stated"
        return "assumed" if self._probed_prediction == "unknown" else "probed"

    @property
    def native_size(self) -> int:
        # The UNet's config gives the size of the latents; some configs have none, and some have height and width.
        size = self.config("unet").get("sample_size")
        if isinstance(size, list) and size:
            size = max(size)
        if not isinstance(size, int) or size < 2:
            size = shipped_config(self.kind, "unet")["sample_size"]
        return size * DOWNSCALE

    @property
    def context_width(self) -> int:
        return self.unet_config.context

    @property
    def parameters(self) -> int:
        return sum(math.prod(ref.shape) for ref in self.raw("unet").values())

    def check_parts(self, *, every_name: bool) -> None:
        # Imported here, because finding a base needs none of the networks.
        from lorasmith.families.stable_diffusion.completeness import check_parts

        check_parts(self, every_name)

    def layers(self) -> tuple[LayerSpec, ...]:
        from lorasmith.families.stable_diffusion.layer_names import layers_of

        text_configs = {component: self.config(component) for component in self.text_components}
        return layers_of(self.unet_config, text_configs)


class Folder(StableDiffusionSource):
    """A diffusers folder."""

    layout = "diffusers"
    _FOLDERS: ClassVar[Mapping[str, str]] = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}

    def __init__(self, name: str, path: Path, kind: str | None = None) -> None:
        """`name`: as the user wrote it. `kind` overrides detection. Raises NotRecognisedError if there is no UNet."""
        self.name, self.path = name, path
        if not (path / "unet" / "config.json").is_file():
            raise NotRecognisedError(
                f"{path}: not a diffusers model folder of Stable Diffusion (it has no unet/config.json){_hint(path)}"
            )
        self.kind = kind or self._detect_kind()

    def _detect_kind(self) -> str:
        config = self.config("unet")
        if config.get("addition_embed_type") == "text_time":
            # The refiner has only SDXL's second text encoder.
            if not (self.path / "text_encoder" / "config.json").is_file():
                raise LorasmithError(f"{self.path}: an SDXL refiner; only base models can be trained")
            return "sdxl"
        return "sd2" if config.get("use_linear_projection") else "sd1"

    @property
    def states_prediction(self) -> bool:
        # Of the published models only those of SD 2.x differ.
        return self.kind != "sd2" or (Path(self.where("scheduler")) / "scheduler_config.json").is_file()

    def where(self, part: str) -> str:
        return str(self.path / self._FOLDERS.get(part, part))

    def config(self, part: str) -> dict[str, Any]:
        folder = Path(self.where(part))
        if part == "scheduler":
            return read_scheduler_config(folder, default=shipped_config(self.kind, part))
        return read_part_config(folder, part_title(part))

    def raw(self, part: str) -> dict[str, TensorRef]:
        return read_part_headers(Path(self.where(part)), part_title(part))

    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        refs = self.raw(part)
        if part == "unet":
            return refs
        if part == "vae":
            return current_vae_names(refs)
        return text_encoder_names(refs, names)

    def tokenizer(self, part: str) -> Path:
        folder = self.path / ("tokenizer_2" if part == "te2" else "tokenizer")
        if not folder.is_dir():
            raise LorasmithError(f"{folder}: missing; texts cannot be split into tokens without it")
        return folder
