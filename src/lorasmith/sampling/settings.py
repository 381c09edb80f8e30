"""What a call of the sampling command or of `lorasmith.sample` may set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from lorasmith.core.config import validate
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.registry import Config
from lorasmith.sampling import samplers
from lorasmith.sampling.control import Control
from lorasmith.sampling.prompts import parse_line, read_prompts
from lorasmith.sampling.regions import Region
from lorasmith.sampling.sample import MOST_STEPS, Request

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class SampleSettings(Config):
    """Of all pictures; a prompt's own options (`--d 7`) go before them."""

    negative: str = ""
    seed: int = Field(default=0, ge=0)
    """Of the first picture of each prompt; further ones count up."""
    steps: int = Field(default=20, ge=1, le=MOST_STEPS)
    cfg: float = 7.0
    sampler: str = "ddim"
    width: int | None = Field(default=None, ge=8, multiple_of=8)
    """Pixels, as `height`. Default: the size that the base model was made for."""
    height: int | None = Field(default=None, ge=8, multiple_of=8)
    clip_skip: int = Field(default=1, ge=1)
    rescale: float = Field(default=0.0, ge=0, le=1)
    """How far guidance keeps the std of the unguided prediction (arXiv 2305.08891, section 3.4)."""
    count: int = Field(default=1, ge=1)
    """Pictures of each prompt."""
    strengths: tuple[float, ...] = (1.0,)
    """Draws each picture once for each of these factors of the LoRAs' strengths; 0 is the base model."""
    embeddings: tuple[Path, ...] = ()
    """Files of new words (textual inversion); each word is called by its file's name."""
    vae: str = ""
    """Another VAE in the place of the base's, as in a training config."""
    batch_size: int = Field(default=4, ge=1)
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the network gives, if a LoRA was trained for something else than its base."""
    zero_terminal_snr: bool = False
    regions: tuple[Region, ...] = ()
    """Parts of each picture with texts of their own."""
    apart: float = Field(default=0.0, ge=0, le=1)
    """For this share of the steps each region is a picture of its own, so that none takes another's place."""
    controls: tuple[Control, ...] = ()
    """ControlNets and T2I-Adapters with their pictures."""

    @field_validator("sampler")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            samplers.find(value)
        except LorasmithError:
            hint = did_you_mean(value, samplers.SAMPLERS)
            raise ValueError(f"{', '.join(samplers.SAMPLERS)}{f'; {hint}' if hint else ''}") from None
        return value

    @field_validator("strengths")
    @classmethod
    def _some(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("at least one strength")
        return value

    @property
    def dtype(self) -> torch.dtype | None:
        """None: the base model's own default."""
        return DTYPES[self.precision]


def requests_of(prompts: Sequence[str] | Path, settings: SampleSettings, native: int) -> list[Request]:
    """The requests that prompts, or a file of them, ask for; `native` is the side of pictures that nobody sized.

    Raises LorasmithError for options that are unknown or do not fit.
    """
    lines = read_prompts(prompts) if isinstance(prompts, Path) else [parse_line(p) for p in prompts]
    if not lines:
        raise LorasmithError("there is no prompt to draw")
    shared = settings.model_dump(
        include={"negative", "seed", "steps", "cfg", "sampler", "clip_skip", "rescale", "apart"}
    )
    shared |= {"width": settings.width or native, "height": settings.height or native}
    shared |= {"regions": settings.regions, "controls": settings.controls}
    return [_request({**shared, **line}) for line in lines]


class _Scene(Config):
    regions: tuple[Region, ...] = ()
    controls: tuple[Control, ...] = ()


def _request(values: dict[str, Any]) -> Request:
    place = repr(values["prompt"])
    scene = validate(_Scene, {name: values[name] for name in _Scene.model_fields}, f"the prompt {place}")
    try:
        return Request(**{**values, "regions": scene.regions, "controls": scene.controls})
    except LorasmithError as error:
        raise LorasmithError(f"{place}: {error}") from None


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU. Raises LorasmithError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LorasmithError(f'device: "{name}" is not a device; use auto, cpu, cuda, cuda:1 or mps') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LorasmithError(f'device: "{name}" was asked for, but torch sees no CUDA device here; use auto')
    return device
