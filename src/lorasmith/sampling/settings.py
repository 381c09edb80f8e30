"""The settings of `lorasmith sample` and `lorasmith.sample`, and the requests that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field, field_validator, model_validator

from lorasmith.core.config import validate
from lorasmith.core.dtypes import dtype_of
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.registry import Config
from lorasmith.families.source import Source
from lorasmith.sampling import programs, samplers
from lorasmith.sampling.control import Control
from lorasmith.sampling.prompts import parse_line, read_prompts
from lorasmith.sampling.regions import Region
from lorasmith.sampling.request import DEFAULT_GUIDANCE, MAX_STEPS, Request


class SampleSettings(Config):
    """Settings of all pictures of a call; options of a single prompt (`--d 7`) take precedence."""

    negative: str = ""
    seed: int = Field(default=0, ge=0)
    """Seed of the first picture of each prompt; it is counted up for the next ones."""
    steps: int = Field(default=20, ge=1, le=MAX_STEPS)
    cfg: float = 7.0
    """Guidance scale; 1 turns guidance off. Default for SD3: 4.5, for Flux: 1."""
    guidance: float = Field(default=DEFAULT_GUIDANCE, ge=0)
    """What Flux.1 dev gets as its guidance; other models ignore it."""
    sampler: str = "ddim"
    like: str = ""
    """Draw as `a1111` or `comfyui` do when nothing is set there: their sampler, schedule, noise of a seed and emphasis,
    and their number of steps and guidance where `steps` and `cfg` are not given."""
    width: int | None = Field(default=None, ge=8, multiple_of=8)
    """Pixels, as `height`. Default: the size that the base model was trained for."""
    height: int | None = Field(default=None, ge=8, multiple_of=8)
    clip_skip: int = Field(default=1, ge=1)
    rescale: float = Field(default=0.0, ge=0, le=1)
    """How far guidance keeps the std of the unguided prediction (arXiv 2305.08891, section 3.4)."""
    count: int = Field(default=1, ge=1)
    """Pictures of each prompt."""
    strengths: tuple[float, ...] = (1.0,)
    """Factors of the LoRAs' strengths: each picture is generated with each of them; 0 is the base model."""
    embeddings: tuple[Path, ...] = ()
    """Files of new tokens (textual inversion); prompts call each by the name of its file."""
    vae: str = ""
    """A VAE in place of the base model's, as in a training config."""
    base_parts: tuple[str, ...] = ()
    """Files and folders with the parts that the base model's file lacks, as in a training config."""
    batch_size: int = Field(default=4, ge=1)
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the network predicts, if a LoRA was trained for something else than its base model."""
    zero_terminal_snr: bool = False
    regions: tuple[Region, ...] = ()
    """Parts of each picture with their own prompts."""
    apart: float = Field(default=0.0, ge=0, le=1)
    """For this fraction of the steps each region is generated as a separate picture, so that no subject takes the place
    of another."""
    controls: tuple[Control, ...] = ()
    """ControlNets and T2I-Adapters with their pictures."""
    conditions: dict[str, Path] = Field(default_factory=dict)
    """The pictures of conditions that the LoRA was trained with, by the names of the conditions."""

    @field_validator("sampler")
    @classmethod
    def _must_be_known(cls, value: str) -> str:
        try:
            samplers.find(value)
        except LorasmithError:
            hint = did_you_mean(value, samplers.sampler_names())
            known = ", ".join(samplers.sampler_names())
            raise ValueError(f"{known}; {hint}" if hint else known) from None
        return value

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_program(cls, values: Any) -> Any:
        """Steps and guidance that are not given are those of the program that is imitated."""
        return programs.with_defaults(values)

    @field_validator("like")
    @classmethod
    def _must_be_a_program(cls, value: str) -> str:
        return programs.checked(value)

    @field_validator("strengths")
    @classmethod
    def _must_not_be_empty(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("at least one strength")
        return value

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of `precision`; None for `auto`: the default of the base model."""
        return dtype_of(self.precision)


def command_options(request: Request) -> list[str]:
    """Options of `lorasmith sample` that draw as `request` does: guidance, sampler, steps and what else is set."""
    # written even where it is the default, which depends on the family
    options = ["--cfg", f"{request.cfg:g}"]
    for name in ("negative", "steps", "sampler", "like", "clip_skip"):
        value = getattr(request, name)
        if value == SampleSettings.model_fields[name].default:
            continue
        has_own_option = name in ("negative", "steps", "sampler")
        options += [f"--{name}", str(value)] if has_own_option else ["--set", f"{name}={value}"]
    return options


Settings = TypeVar("Settings", bound=SampleSettings)


class _Scene(Config):
    regions: tuple[Region, ...] = ()
    controls: tuple[Control, ...] = ()


SHARED_FIELDS = {"negative", "seed", "steps", "cfg", "guidance", "sampler", "like", "clip_skip", "rescale", "apart"}
"""Fields that a request takes unchanged from the settings."""


def with_default_cfg(settings: Settings, base: Source) -> Settings:
    """`settings` with the guidance scale of the base's family if it has one and none is given."""
    if base.default_cfg is None or "cfg" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"cfg": base.default_cfg})


def build_requests(prompts: Sequence[str] | Path, settings: SampleSettings, base: Source) -> list[Request]:
    """A request for each prompt of a list or a file; options of a prompt take precedence over the settings.

    Sizes and guidance that neither gives are those of the base. Raises LorasmithError for unknown options and wrong
    values.
    """
    settings = with_default_cfg(settings, base)
    # a path is a file of prompts; strings are prompts, which may have options
    lines = read_prompts(prompts) if isinstance(prompts, Path) else [parse_line(prompt) for prompt in prompts]
    if not lines:
        raise LorasmithError("there is no prompt; give at least one")
    # Regions and controls stay objects: `model_dump` would make tables of them.
    shared = settings.model_dump(include=SHARED_FIELDS)
    shared["width"] = settings.width or base.native_size
    shared["height"] = settings.height or base.native_size
    shared["regions"] = settings.regions
    shared["controls"] = settings.controls
    shared["conditions"] = settings.conditions
    requests = [_build_request({**shared, **line}) for line in lines]
    for request in requests:
        check_sides(request, base)
    return requests


def check_sides(request: Request, base: Source) -> None:
    """Raise LorasmithError if a side of the picture is none that the base takes."""
    for name, side in (("width", request.width), ("height", request.height)):
        if side % base.side_step:
            lower = side // base.side_step * base.side_step
            raise LorasmithError(
                f"{request.prompt!r}: {name} is {side}; {base.kind} models take multiples of {base.side_step} pixels, "
                f"such as {lower or base.side_step} or {lower + base.side_step}"
            )


def _build_request(values: dict[str, Any]) -> Request:
    prompt = repr(values["prompt"])
    # prompts from files hold regions and controls as tables
    tables = {name: values[name] for name in _Scene.model_fields}
    scene = validate(_Scene, tables, f"the prompt {prompt}")
    fields = {**values, "regions": scene.regions, "controls": scene.controls}
    try:
        return Request(**fields)
    except LorasmithError as error:
        raise LorasmithError(f"{prompt}: {error}") from None
