"""Where the parts of a model with a transformer are stored: what its layouts share, and the diffusers folder."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.layer import spec_of
from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.core.text_files import read_json_table
from lorasmith.diffusion.rectified_flow import PATCH
from lorasmith.families.folder_parts import read_part_config, read_part_headers, read_scheduler_config
from lorasmith.families.reader import TensorRef, check_keys
from lorasmith.families.registry import NotRecognisedError
from lorasmith.families.source import Source
from lorasmith.families.stable_diffusion.source import part_title
from lorasmith.families.stable_diffusion.stored_names import current_vae_names, text_encoder_names

DENOISER = "transformer"
LATENT_CHANNELS = 16
"""Channels of the latents of SD3 and Flux."""
T5 = "t5"
"""The part name of the T5 encoder, which is never trained and therefore no component."""


class TransformerSource(Source):
    """A model whose denoiser is a transformer, with CLIP text encoders and T5."""

    denoiser_component: ClassVar[str] = DENOISER
    frozen_text_encoders: ClassVar[tuple[str, ...]] = (T5,)
    side_step: ClassVar[int] = PATCH * DOWNSCALE
    folders: ClassVar[Mapping[str, tuple[str, str]]]
    """Text encoder, T5 included, to its folder and that of its tokenizer in the diffusers layout."""
    needs_t5: ClassVar[bool]
    """Whether T5 must be there. SD3 was trained to do without it."""

    @property
    def text_components(self) -> tuple[str, ...]:
        return tuple(part for part in self.folders if is_text_encoder(part))

    @property
    @abstractmethod
    def has_t5(self) -> bool:
        """Whether the T5 encoder is there."""

    @property
    def t5_tokens(self) -> int | None:
        """How many tokens T5 reads, if the base says so; None: the family's own number. A small base that was trained
        without T5 says 0."""
        return None

    @abstractmethod
    def empty_denoiser(self) -> nn.Module:
        """The transformer of the config, on the current default device."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that must be complete."""
        return (DENOISER, "vae", *self.text_components, *([T5] if self.needs_t5 or self.has_t5 else []))

    def check_parts(self, *, every_name: bool) -> None:
        faults: list[str] = []
        for part in self.parts:
            try:
                if every_name:
                    model, refs = self.empty_part(part)
                    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
                    check_keys(shapes, refs, part_title(part), self.where(part))
                    _ = self.tokenizer(part) if part in self.folders else None
                else:
                    self.raw(part)
            except LorasmithError as error:
                faults.append(str(error))
        if faults:
            raise LorasmithError("\n  ".join(faults))

    def empty_part(self, part: str) -> tuple[nn.Module, dict[str, TensorRef]]:
        """A part on the meta device, and where its weights are stored."""
        # Imported here, because finding a base needs none of the networks.
        from lorasmith.families.stable_diffusion import text, vae
        from lorasmith.families.transformer_models import t5

        if is_text_encoder(part):
            return text.empty_text_encoder(self, part)
        if part == "vae":
            return vae.empty_vae(self)
        if part == T5:
            return t5.empty_t5(self)
        with torch.device("meta"):
            model = self.empty_denoiser()
        return model, self.resolve(DENOISER, model.state_dict())

    @property
    def prediction(self) -> str:
        return "velocity"

    @property
    def native_size(self) -> int:
        size = self.config(DENOISER).get("sample_size")
        return size * DOWNSCALE if isinstance(size, int) and size > 1 else 1024

    @property
    def context_width(self) -> int:
        return int(self.config(DENOISER)["joint_attention_dim"])

    @property
    def parameters(self) -> int:
        return sum(math.prod(ref.shape) for ref in self.raw(DENOISER).values())

    def layers(self) -> tuple[LayerSpec, ...]:
        return self.layers_in((DENOISER, *self.text_components))

    def layers_in(self, components: Iterable[str]) -> tuple[LayerSpec, ...]:
        """Every layer of these components that may carry an adapter. Raises LorasmithError if one is missing."""
        return tuple(spec for component in components for spec in self._layers_of(component))

    def _layers_of(self, component: str) -> tuple[LayerSpec, ...]:
        from lorasmith.families.stable_diffusion.text import classic_name

        # building even an empty transformer takes time
        if component not in self._known_layers:
            model, _ = self.empty_part(component)
            specs: list[LayerSpec] = []
            for path, module in model.named_modules():
                name = classic_name(path) if is_text_encoder(component) else path
                spec = spec_of(f"{component}.{name}", module)
                if spec is not None:
                    specs.append(spec)
            self._known_layers[component] = tuple(specs)
        return self._known_layers[component]

    @cached_property
    def _known_layers(self) -> dict[str, tuple[LayerSpec, ...]]:
        """By component, those that were listed already."""
        return {}


class TransformerFolder(TransformerSource):
    """A diffusers folder. Each family has its subclass."""

    layout = "diffusers"
    class_name: ClassVar[str]
    """diffusers' class of the transformer, by which the family is recognised."""

    def __init__(self, name: str, path: Path) -> None:
        """`name`: as the user wrote it. Raises NotRecognisedError if there is no transformer of this class."""
        self.name, self.path = name, path
        file = path / DENOISER / "config.json"
        if not file.is_file():
            raise NotRecognisedError
        found = read_json_table(file).get("_class_name")
        if found != self.class_name:
            raise NotRecognisedError(f"{path}: its transformer is a {found}, that of {self.kind} a {self.class_name}")

    @property
    def has_t5(self) -> bool:
        return Path(self.where(T5)).is_dir()

    @property
    def t5_tokens(self) -> int | None:
        file = self.path / "model_index.json"
        stated = read_json_table(file).get("t5_tokens") if file.is_file() else None
        return stated if isinstance(stated, int) else None

    def where(self, part: str) -> str:
        return str(self.path / (self.folders[part][0] if part in self.folders else part))

    def config(self, part: str) -> dict[str, Any]:
        folder = Path(self.where(part))
        if part == "scheduler":
            return read_scheduler_config(folder, default={})
        return read_part_config(folder, part_title(part))

    def raw(self, part: str) -> dict[str, TensorRef]:
        return read_part_headers(Path(self.where(part)), part_title(part))

    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        refs = self.raw(part)
        if part == "vae":
            return current_vae_names(refs)
        return text_encoder_names(refs, names) if is_text_encoder(part) else refs

    def tokenizer(self, part: str) -> Path:
        folder = self.path / self.folders[part][1]
        if not folder.is_dir():
            raise LorasmithError(f"{folder}: missing; texts cannot be split into tokens without it")
        return folder
