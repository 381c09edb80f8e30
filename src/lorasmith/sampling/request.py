"""The description of one picture to generate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.latent_grid import DOWNSCALE, MAX_SIDE
from lorasmith.sampling import programs, samplers
from lorasmith.sampling.control import Control
from lorasmith.sampling.regions import Region

MAX_STEPS = 1000
DEFAULT_GUIDANCE = 3.5
"""The guidance that Flux.1 dev is published with."""


@dataclass(frozen=True)
class Request:
    """One picture to generate. Raises LorasmithError for a value outside of its range."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.0
    """Guidance scale; 1 turns guidance off, which halves the time."""
    guidance: float = DEFAULT_GUIDANCE
    """What Flux.1 dev gets as its guidance; other models ignore it."""
    width: int = 512
    """Pixels, a multiple of 8, as `height`."""
    height: int = 512
    sampler: str = "ddim"
    like: str = ""
    """Draw as another program does, by its name: its sampler (in place of `sampler`), schedule, noise and emphasis."""
    clip_skip: int = 1
    rescale: float = 0.0
    """How far guidance keeps the std of the unguided prediction, 0..1 (arXiv 2305.08891, section 3.4)."""
    regions: tuple[Region, ...] = ()
    """Parts of the picture with their own prompts."""
    apart: float = 0.0
    """For this share of the steps, 0..1, each region is generated as a separate picture, so that no subject takes the
    place of another."""
    controls: tuple[Control, ...] = ()
    """ControlNets and T2I-Adapters with their pictures."""
    conditions: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """The picture of each condition that the LoRA was trained with, by the condition's name. A condition without a
    picture gets its empty value."""

    def __post_init__(self) -> None:
        self._check_choices()
        for name, value in (("rescale", self.rescale), ("apart", self.apart)):
            if not 0 <= value <= 1:
                raise LorasmithError(f"{name} is {value}; it must be between 0 and 1")
        for name, value in (("width", self.width), ("height", self.height)):
            if value < DOWNSCALE or value % DOWNSCALE:
                raise LorasmithError(f"{name} is {value}; it must be a multiple of {DOWNSCALE}")
            if value > MAX_SIDE:
                raise LorasmithError(f"{name} is {value}; it must be at most {MAX_SIDE}")
        if not 1 <= self.steps <= MAX_STEPS:
            raise LorasmithError(f"steps is {self.steps}; it must be between 1 and {MAX_STEPS}")
        if self.clip_skip < 1:
            raise LorasmithError(f"clip_skip is {self.clip_skip}; it must be 1 (the last layer) or more")

        # boxes in pixels can only be checked here, where the size of the picture is known
        control_areas = [area for control in self.controls for area in control.areas]
        for area in (*self.regions, *control_areas):
            area.relative_box(self.width, self.height)

    def _check_choices(self) -> None:
        if self.guidance < 0:
            raise LorasmithError(f"guidance is {self.guidance}; it must be at least 0")
        samplers.find(self.sampler)
        if self.like:
            programs.find(self.like)
        for name, path in self.conditions.items():
            if not path.is_file():
                raise LorasmithError(f"condition {name}: {path} is no file; name an existing picture")
        if self.conditions and self.apart:
            raise LorasmithError("apart: regions cannot be apart in a picture with conditions; set apart = 0")

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The texts to encode: first those of the whole picture, then those of each region; each is a pair of prompt
        and negative prompt, or the prompt alone where guidance is off (`cfg` 1)."""
        pairs = [(self.prompt, self.negative)]
        for region in self.regions:
            pairs.append((region.prompt, self.negative if region.negative is None else region.negative))
        return tuple(pair[:1] if self.cfg == 1 else pair for pair in pairs)

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Requests with equal keys may be generated in one batch; they differ in texts and seeds at most."""
        boxes = tuple((region.relative_box(self.width, self.height), region.weight) for region in self.regions)
        return (
            self.steps,
            self.width,
            self.height,
            self.sampler,
            self.like,
            self.cfg,
            self.guidance,
            self.clip_skip,
            self.rescale,
            boxes,
            self.apart,
            self.controls,
        )
