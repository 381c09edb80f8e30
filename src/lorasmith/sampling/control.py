"""ControlNets (arXiv 2302.05543) and T2I-Adapters (arXiv 2302.08453): models of diffusers that steer sampling
by a picture.

Each kind of model is a `ControlModel`, found by the class name in the model's config.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from operator import add
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
from lorasmith.core.text_files import read_json_table
from lorasmith.families.base import Conditioning, Family
from lorasmith.families.stable_diffusion.conditioning import CONTEXT, POOLED, TIME_IDS, steer
from lorasmith.families.stable_diffusion.steering import Residuals, cells
from lorasmith.sampling.regions import PictureArea

Window = tuple[int, int, int, int]
"""A crop of the latents: top, left, bottom, right."""


class AreaWeight(PictureArea):
    """The weight of a control in a part of the picture, in place of the control's general weight."""

    weight: float


class Control(Config):
    """A ControlNet or T2I-Adapter with its picture."""

    model: str
    """A diffusers folder with a ControlNet or a T2I-Adapter, or a hub id."""
    image: Path
    """The kind of picture that the model was trained on: edges, a pose, depth ...; it is resized to the output."""
    weight: float = 1.0
    start: float = Field(default=0.0, ge=0, lt=1)
    """The control has an effect from this fraction of the steps on."""
    end: float = Field(default=1.0, gt=0, le=1)
    """The control has an effect up to this fraction of the steps."""
    areas: tuple[AreaWeight, ...] = ()
    """Other weights for parts of the picture; where areas overlap, the last one counts."""

    @field_validator("image")
    @classmethod
    def _must_exist(cls, value: Path) -> Path:
        if not value.is_file():
            raise ValueError("an existing picture; there is no such file")
        return value

    @classmethod
    def read(cls, text: str) -> dict[str, Any]:
        """`MODEL=IMAGE` or `MODEL=IMAGE:WEIGHT` as a table. Raises LorasmithError for any other form."""
        model, sign, rest = text.partition("=")
        if not sign or not model or not rest:
            raise LorasmithError(f'--control "{text}": write MODEL=IMAGE or MODEL=IMAGE:WEIGHT')
        image, _, weight = rest.rpartition(":")
        try:
            if image:
                return {"model": model, "image": image, "weight": float(weight)}
        except ValueError:
            pass  # the colon belongs to the path, as in C:/edges.png
        return {"model": model, "image": rest}

    def __str__(self) -> str:
        return f"{Path(self.model).name} {self.image.name} {self.weight:g}"


class ControlModel(ABC):
    """A loaded model. Subclasses have the names of diffusers' classes."""

    by_class_name: ClassVar[dict[str, type[ControlModel]]] = {}
    """Subclasses by the `_class_name` in a model's config."""
    constant: ClassVar[bool] = False
    """Whether the residuals depend on the picture alone, not on x and t, so that they are computed once."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ControlModel.by_class_name[cls.__name__] = cls

    def __init__(self, folder: str, family: Family) -> None:
        """Raises LorasmithError if the model cannot be loaded, or was made for a UNet of other widths."""
        import diffusers

        family.require("controls", "control")
        try:
            self.model: Any = getattr(diffusers, type(self).__name__).from_pretrained(folder, torch_dtype=family.dtype)
        except (OSError, ValueError, RuntimeError) as error:
            raise LorasmithError(f"{folder}: the model cannot be loaded: {str(error).splitlines()[0]}") from None
        self.model = self.model.to(family.device).requires_grad_(False).eval()
        unet: Any = family.denoiser
        self.channels: tuple[int, ...] = tuple(unet.config.channels)
        # A model for another base has the same class; only the widths of the UNet tell it apart.
        if tuple(self.widths()) != self.channels:
            raise LorasmithError(
                f"{folder}: made for a UNet of the widths {_join(self.widths())}; this {family.kind} base has "
                f"{_join(self.channels)}"
            )

    @abstractmethod
    def widths(self) -> Sequence[int]:
        """The channels of each level of the UNet that the model was made for."""

    @property
    def image_mode(self) -> str:
        """The colour mode of the picture that the model takes: `RGB` or `L`."""
        return "RGB"

    @abstractmethod
    def __call__(self, image: Tensor, x: Tensor, t: Tensor, conditioning: Conditioning) -> Residuals:
        """Residuals for the UNet's prediction from x (B, C, h, w) and t (B,). `image`: (1, channels, H, W) in 0..1."""


class ControlNetModel(ControlModel):
    """A copy of the UNet's encoder that also gets the picture; it runs at each step."""

    def widths(self) -> Sequence[int]:
        return self.model.config.block_out_channels

    def __call__(self, image: Tensor, x: Tensor, t: Tensor, conditioning: Conditioning) -> Residuals:
        dtype = self.model.dtype
        # a ControlNet has one context for all layers; layer-wise contexts (B, layers, tokens, width) are averaged
        context = conditioning[CONTEXT]
        context = context if context.dim() == 3 else context.mean(1)
        pooled, time_ids = conditioning.get(POOLED), conditioning.get(TIME_IDS)
        added_cond = None
        if pooled is not None and time_ids is not None:
            added_cond = {"text_embeds": pooled.to(dtype), "time_ids": time_ids.to(dtype)}
        skips, middle = self.model(
            x.to(dtype),
            t,
            context.to(dtype),
            image.expand(len(x), -1, -1, -1),
            added_cond_kwargs=added_cond,
            return_dict=False,
        )
        return Residuals(skips, middle)


class T2IAdapter(ControlModel):
    """A small network that gets the picture alone; its residuals are the same at each step."""

    constant = True

    def widths(self) -> Sequence[int]:
        return self.model.config.channels[: len(self.channels)]

    @property
    def image_mode(self) -> str:
        return "L" if self.model.config.in_channels == 1 else "RGB"

    def __call__(self, image: Tensor, x: Tensor, t: Tensor, conditioning: Conditioning) -> Residuals:
        features = self.model(image)
        levels = len(self.channels)
        # an adapter with one more level than the UNet has a residual for the middle block too
        middle = features[levels] if len(features) > levels else None
        return Residuals((), middle, features[:levels])


class ActiveControl:
    """A control prepared for pictures of one size: model, picture and weight map."""

    def __init__(self, model: ControlModel, image: Tensor, weights: Tensor, control: Control) -> None:
        """`image`: (1, channels, H, W) in 0..1; `weights`: (1, 1, h, w), a factor for each pixel of the latents."""
        self.model = model
        self.image = image
        self.weights = weights
        self.control = control
        self._constant_residuals: dict[Window, Residuals] = {}

    def residuals(self, x: Tensor, t: Tensor, conditioning: Conditioning, window: Window) -> Residuals:
        """Weighted residuals for the UNet's prediction from `x` and `t`, where `x` is a crop of the picture."""
        # A T2I-Adapter gives the same residuals at each step; regions have their own windows.
        if window in self._constant_residuals:
            return self._constant_residuals[window]
        top, left, bottom, right = window
        pixels = self.image.shape[-1] // self.weights.shape[-1]  # pixels of the picture for each pixel of the latents
        image = self.image[..., top * pixels : bottom * pixels, left * pixels : right * pixels]
        weights = self.weights[..., top:bottom, left:right]
        weighted = _multiply(self.model(image, x, t, conditioning), weights)
        if self.model.constant:
            self._constant_residuals[window] = weighted
        return weighted


def add_residuals(
    conditioning: Conditioning,
    controls: Sequence[ActiveControl],
    inputs: tuple[Tensor, Tensor],
    window: Window,
    step_fraction: float,
) -> Conditioning:
    """The conditioning with the summed residuals of all controls that have an effect now.

    `inputs`: x and t as the UNet gets them; `window`: the crop of the latents that x is; `step_fraction`: the part of
    the steps that is done, 0..1.
    """
    x, t = inputs
    residuals = []
    for active in controls:
        if active.control.start <= step_fraction < active.control.end:
            residuals.append(active.residuals(x, t, conditioning, window))
    return steer(conditioning, residuals=reduce(add, residuals)) if residuals else conditioning


class ControlModels:
    """The control models of one call of sampling; each is loaded once."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._models: dict[str, ControlModel] = {}

    def activate(self, control: Control, height: int, width: int) -> ActiveControl:
        """Prepare a control for pictures of this size in pixels.

        Raises LorasmithError if its model cannot be used or its picture cannot be read.
        """
        # The picture, in the colour mode of the model and the size of the output.
        model = self.load(control.model)
        try:
            with Image.open(control.image) as opened:
                picture = opened.convert(model.image_mode).resize((width, height), Image.Resampling.LANCZOS)
        except OSError as error:
            raise LorasmithError(f"{control.image}: not a picture that can be read ({error})") from None
        values = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
        channels_first = values[None] if model.image_mode == "L" else values.permute(2, 0, 1)
        image = channels_first[None].to(self.family.device, self.family.dtype)

        # The weight map has the size of the latents. Later areas overwrite earlier ones.
        latent_height, latent_width = height // self.family.downscale, width // self.family.downscale
        weights = torch.full((latent_height, latent_width), control.weight, device=self.family.device)
        for area in control.areas:
            rows, columns = cells(area.relative_box(width, height), latent_height, latent_width)
            weights[rows, columns] = area.weight
        return ActiveControl(model, image, weights[None, None], control)

    def load(self, name: str) -> ControlModel:
        """The model of a folder or hub id. Raises LorasmithError if it is not a control model, or does not fit the
        base."""
        if name not in self._models:
            class_name = _read_class_name(name)
            model_class = ControlModel.by_class_name.get(class_name)
            if model_class is None:
                known = _join(ControlModel.by_class_name)
                raise LorasmithError(f"{name}: a model of class {class_name}; {known} can be used as a control")
            self._models[name] = model_class(name, self.family)
        return self._models[name]


def _read_class_name(model: str) -> str:
    """The diffusers class that the config of a model names."""
    file = Path(model) / "config.json"
    if not file.is_file():
        if Path(model).exists() or Path(model).is_absolute():
            raise LorasmithError(f"{model}: not a model folder of diffusers (it has no config.json)")
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(model, "config.json"))
        except Exception as error:  # the hub raises many types, all of which mean that the file is not available
            reason = str(error).splitlines()[0]
            raise LorasmithError(f"{model}: neither a folder nor a model on the hub ({reason})") from None
    config = read_json_table(file)
    return str(config.get("_class_name", "unknown"))


def _multiply(residuals: Residuals, weights: Tensor) -> Residuals:
    """Residuals times a weight map (1, 1, h, w), which is resized to each of them."""

    def scale(x: Tensor) -> Tensor:
        return x * F.adaptive_avg_pool2d(weights, (x.shape[-2], x.shape[-1])).to(x.dtype)

    skips = [scale(x) for x in residuals.skips]
    middle = None if residuals.middle is None else scale(residuals.middle)
    levels = [scale(x) for x in residuals.levels]
    return Residuals(skips, middle, levels)


def _join(values: Sequence[Any] | dict[str, Any]) -> str:
    return ", ".join(str(value) for value in values)
