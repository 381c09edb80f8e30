"""Pictures that lead a picture: ControlNets (arXiv 2302.05543) and T2I-Adapters (arXiv 2302.08453), diffusers' models.

Each kind is a `Guide`, found by the class that the model's own config names.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import Config
from lorasmith.families.base import Cond, Family
from lorasmith.families.stable_diffusion.steering import Residuals, cells
from lorasmith.sampling.regions import Place

Window = tuple[int, int, int, int]
"""A part of the latents: top, left, bottom, right."""


class Share(Place):
    """How much a control counts in a part of the picture, in place of its own weight."""

    weight: float


class Control(Config):
    """One model with its picture."""

    model: str
    """A folder of diffusers with a ControlNet or a T2I-Adapter, or a hub id."""
    image: Path
    """What the model was made for: edges, a pose, depth ...; resized to the picture."""
    weight: float = 1.0
    start: float = Field(default=0.0, ge=0, lt=1)
    """From which share of the steps on it counts."""
    end: float = Field(default=1.0, gt=0, le=1)
    areas: tuple[Share, ...] = ()
    """Other weights for parts of the picture; the last one counts."""

    @field_validator("image")
    @classmethod
    def _there(cls, value: Path) -> Path:
        if not value.is_file():
            raise ValueError("a picture; there is no such file")
        return value

    @classmethod
    def read(cls, text: str) -> dict[str, Any]:
        """`MODEL=IMAGE` or `MODEL=IMAGE:WEIGHT` as a table. Raises LorasmithError."""
        model, sign, rest = text.partition("=")
        if not sign or not model or not rest:
            raise LorasmithError(f'--control "{text}": write MODEL=IMAGE or MODEL=IMAGE:WEIGHT')
        plain: dict[str, Any] = {"model": model, "image": rest}
        image, _, weight = rest.rpartition(":")
        try:
            return {"model": model, "image": image, "weight": float(weight)} if image else plain
        except ValueError:
            return plain

    def __str__(self) -> str:
        return f"{Path(self.model).name} {self.image.name} {self.weight:g}"


class Guide(ABC):
    """A loaded model."""

    of: ClassVar[dict[str, type[Guide]]] = {}
    """By the class in a model's config."""
    steady: ClassVar[bool] = False
    """Whether it gives the same whatever x and t are."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Guide.of[cls.__name__] = cls

    def __init__(self, folder: str, family: Family) -> None:
        """Raises LorasmithError if the model is not whole, or made for another family."""
        import diffusers

        try:
            self.model: Any = getattr(diffusers, type(self).__name__).from_pretrained(folder, torch_dtype=family.dtype)
        except (OSError, ValueError, RuntimeError) as error:
            raise LorasmithError(f"{folder}: the model cannot be loaded: {str(error).splitlines()[0]}") from None
        self.model = self.model.to(family.device).requires_grad_(False).eval()
        unet: Any = family.unet
        self.channels: tuple[int, ...] = tuple(unet.config.channels)
        made_for = self.widths()
        if tuple(made_for) != self.channels:
            raise LorasmithError(
                f"{folder}: made for a UNet of the widths {_list(made_for)}; this {family.kind} base has "
                f"{_list(self.channels)}"
            )

    @abstractmethod
    def widths(self) -> Sequence[int]:
        """The widths of the UNet that it was made for."""

    @property
    def mode(self) -> str:
        """Of the picture: `RGB` or `L`."""
        return "RGB"

    @abstractmethod
    def __call__(self, image: Tensor, x: Tensor, t: Tensor, cond: Cond) -> Residuals:
        """What the picture (1, channels, H, W) in 0..1 adds to the prediction from x and t."""


class ControlNetModel(Guide):
    """A copy of the UNet's way down that sees the picture too; runs anew at each step."""

    def widths(self) -> Sequence[int]:
        return self.model.config.block_out_channels

    def __call__(self, image: Tensor, x: Tensor, t: Tensor, cond: Cond) -> Residuals:
        dtype = self.model.dtype
        context = cond.context if cond.context.dim() == 3 else cond.context.mean(1)  # it has no layer of its own words
        sizes = None
        if cond.pooled is not None and cond.time_ids is not None:
            sizes = {"text_embeds": cond.pooled.to(dtype), "time_ids": cond.time_ids.to(dtype)}
        skips, middle = self.model(
            x.to(dtype), t, context.to(dtype), image.expand(len(x), -1, -1, -1), added_cond_kwargs=sizes,
            return_dict=False,
        )  # fmt: skip
        return Residuals(skips, middle)


class T2IAdapter(Guide):
    """A small network that sees the picture alone; the same at each step."""

    steady = True

    def widths(self) -> Sequence[int]:
        return self.model.config.channels[: len(self.channels)]

    @property
    def mode(self) -> str:
        return "L" if self.model.config.in_channels == 1 else "RGB"

    def __call__(self, image: Tensor, x: Tensor, t: Tensor, cond: Cond) -> Residuals:
        found, depth = self.model(image), len(self.channels)
        return Residuals((), found[depth] if len(found) > depth else None, found[:depth])


class Lead:
    """A control on pictures of one size."""

    def __init__(self, guide: Guide, image: Tensor, weights: Tensor, control: Control) -> None:
        """`image`: (1, channels, H, W) in 0..1; `weights`: (1, 1, h, w), of each pixel of the latents."""
        self.guide, self.image, self.weights, self.control = guide, image, weights, control
        self._kept: dict[Window, Residuals] = {}

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, window: Window) -> Residuals:
        """What is added to the prediction from `x` and `t`, which the UNet gets, where `x` is a part of the picture."""
        if window in self._kept:
            return self._kept[window]
        top, left, bottom, right = window
        down = self.image.shape[-1] // self.weights.shape[-1]
        image = self.image[..., top * down : bottom * down, left * down : right * down]
        found = _weighed(self.guide(image, x, t, cond), self.weights[..., top:bottom, left:right])
        if self.guide.steady:
            self._kept[window] = found
        return found


def led(cond: Cond, leads: Sequence[Lead], asked: tuple[Tensor, Tensor], window: Window, done: float) -> Cond:
    """The condition with the residuals of all controls that count now. `asked`: x and t as the UNet gets them; `done`:
    the share of steps that lie behind."""
    found = [lead(*asked, cond, window) for lead in leads if lead.control.start <= done < lead.control.end]
    return replace(cond, residuals=_sum(found)) if found else cond


class Guides:
    """The models of one call of sampling, each read once."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._models: dict[str, Guide] = {}

    def lead(self, control: Control, size: tuple[int, int]) -> Lead:
        """A control on pictures of this height and width. Raises LorasmithError if its model or picture does not do."""
        guide = self.guide(control.model)
        try:
            with Image.open(control.image) as opened:
                picture = opened.convert(guide.mode).resize((size[1], size[0]), Image.Resampling.LANCZOS)
        except OSError as error:
            raise LorasmithError(f"{control.image}: not a picture that can be read ({error})") from None
        values = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
        values = values[None, None] if guide.mode == "L" else values.permute(2, 0, 1)[None]
        height, width = (side // self.family.downscale for side in size)
        weights = torch.full((height, width), control.weight, device=self.family.device)
        for area in control.areas:
            weights[cells(area.share(size[1], size[0]), height, width)] = area.weight
        return Lead(guide, values.to(self.family.device, self.family.dtype), weights[None, None], control)

    def guide(self, model: str) -> Guide:
        """The loaded model. Raises LorasmithError if it is none, or does not fit the base."""
        if model not in self._models:
            name = _class_of(model)
            if name not in Guide.of:
                raise LorasmithError(f"{model}: a model of class {name}; {_list(list(Guide.of))} can lead a picture")
            self._models[model] = Guide.of[name](model, self.family)
        return self._models[model]


def _class_of(model: str) -> str:
    """The class that a model's config names."""
    file = Path(model) / "config.json"
    if not file.is_file():
        if Path(model).exists() or Path(model).is_absolute():
            raise LorasmithError(f"{model}: not a model folder of diffusers (it has no config.json)")
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(model, "config.json"))
        except Exception as error:  # of many kinds, all of which mean that it cannot be had
            raise LorasmithError(
                f"{model}: neither a folder nor a model that the hub gives ({str(error).splitlines()[0]})"
            ) from None
    return str(json.loads(file.read_text(encoding="utf-8")).get("_class_name", "unknown"))


def _weighed(plain: Residuals, weights: Tensor) -> Residuals:
    """Residuals times the weights (1, 1, h, w) of the latents' pixels."""

    def times(x: Tensor) -> Tensor:
        return x * F.adaptive_avg_pool2d(weights, (x.shape[-2], x.shape[-1])).to(x.dtype)

    middle = None if plain.middle is None else times(plain.middle)
    return Residuals([times(x) for x in plain.skips], middle, [times(x) for x in plain.levels])


def _sum(parts: Sequence[Residuals]) -> Residuals:
    def added(lists: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        there = [one for one in lists if one]
        return [torch.stack(torch.broadcast_tensors(*same)).sum(0) for same in zip(*there, strict=True)]

    middles = [part.middle for part in parts if part.middle is not None]
    middle = added([[m] for m in middles])[0] if middles else None
    return Residuals(added([p.skips for p in parts]), middle, added([p.levels for p in parts]))


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
