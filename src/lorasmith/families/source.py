"""Where the parts of a base model are stored, whatever its family. Only headers and configs are read here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from lorasmith.adapters.base import LayerSpec
from lorasmith.core.errors import LorasmithError
from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.families.network_shape import NetworkShape
from lorasmith.families.reader import TensorRef
from lorasmith.moved_modules import renamed

LARGE = 100_000_000
"""Denoisers with more weights than this are loaded in bfloat16 by default."""


def __getattr__(name: str) -> Any:
    """Names that this module had in version 0.1."""
    return renamed("families.source", name)


class Source(ABC):
    """The parts of one base model on disk: the denoiser, `vae`, and the text encoders (`te`, or `te1` and `te2`).

    Each family has its own subclasses, one for each layout in which its models are published.
    """

    layout: str
    """`diffusers` or `single-file`."""
    name: str
    """The base as the user wrote it."""
    path: Path
    kind: str
    """`sd1`, `sd2`, `sdxl`."""
    denoiser_component: ClassVar[str]
    projected_text: ClassVar[tuple[str, ...]] = ("te2",)
    """The CLIP text encoders whose pooled text is projected."""
    frozen_text_encoders: ClassVar[tuple[str, ...]] = ()
    """Text encoders that are never trained here, though LoRA files may change them."""
    side_step: ClassVar[int] = DOWNSCALE
    """Sides of images are multiples of this many pixels."""
    timesteps: ClassVar[str] = "uniform"
    """The timestep sampler that a first config of this family has."""
    default_cfg: ClassVar[float | None] = None
    """See `DiffusionModel.default_cfg`."""
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]]
    """See `LayerNames.layer_presets`."""

    def projects(self, part: str) -> bool:
        """Whether the pooled text of a CLIP text encoder is projected."""
        return part in self.projected_text

    @property
    @abstractmethod
    def text_components(self) -> tuple[str, ...]:
        """The component names of the text encoders of this kind."""

    @property
    def present_text_encoders(self) -> tuple[str, ...]:
        """Those of `text_components` that are found; some bases are a denoiser alone."""
        return tuple(part for part in self.text_components if not self.missing_reason(part))

    def missing_reason(self, part: str) -> str:
        """Why a part cannot be read: it is missing, or several files have it. Empty if it can."""
        try:
            self.raw(part)
        except LorasmithError as error:
            return str(error)
        return ""

    @abstractmethod
    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, or of the `scheduler`."""

    @abstractmethod
    def raw(self, part: str) -> dict[str, TensorRef]:
        """The tensors of a part by the names in the file. Raises LorasmithError if the part is missing."""

    @abstractmethod
    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        """Where the parameters called `names` are stored (text encoders: without `text_model.`).

        Names that are not found are left out, and tensors that no name matches are added under their names in the
        file, so that comparing the result with `names` shows both.
        """

    @abstractmethod
    def check_parts(self, *, every_name: bool) -> None:
        """Raise LorasmithError, with all faults, unless pictures can be drawn and adapters trained with the model.

        Only headers are read. `every_name`: compare the names and shapes of all tensors of all parts, which imports the
        libraries that the parts come from; else only find out whether there is a tensor of each part.
        """

    @abstractmethod
    def tokenizer(self, part: str) -> Path:
        """The folder with the tokenizer of a text encoder."""

    def pad(self, part: str) -> int | None:
        """The token id that pads texts for this encoder; None: the tokenizer's pad token."""
        return None

    def where(self, part: str) -> str:
        """Where a part is stored, for messages."""
        return str(self.path)

    @property
    @abstractmethod
    def prediction(self) -> str:
        """The kind of prediction: `epsilon`, `v_prediction`."""

    @property
    def prediction_origin(self) -> str:
        """How the prediction is known: `stated`, by the base; `probed`, by one pass of its denoiser; or `assumed`."""
        return "stated"

    @property
    def network_shape(self) -> NetworkShape | None:
        """The sizes of the denoiser, from which the need of memory is estimated; None if the family has no estimate."""
        return None

    @property
    @abstractmethod
    def native_size(self) -> int:
        """The side in pixels of the pictures that the model was trained on."""

    @property
    @abstractmethod
    def context_width(self) -> int:
        """The width of the text states that the denoiser takes."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """The number of weights of the denoiser."""

    @property
    def default_dtype(self) -> torch.dtype:
        """The dtype that the model is loaded in where none is given: bfloat16 if it is of full size, else
        float32."""
        return torch.bfloat16 if self.parameters > LARGE else torch.float32

    def count_weights(self) -> int:
        """The number of weights of the denoiser and of all text encoders that are there."""
        encoders = (*self.text_components, *self.frozen_text_encoders)
        present = [part for part in encoders if not self.missing_reason(part)]
        refs = [ref for part in (self.denoiser_component, *present) for ref in self.raw(part).values()]
        return sum(math.prod(ref.shape) for ref in refs)

    @abstractmethod
    def layers(self) -> tuple[LayerSpec, ...]:
        """Every layer of the denoiser and the text encoders that may carry an adapter: linears, convolutions, norms."""
