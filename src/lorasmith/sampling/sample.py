"""Sampling with classifier-free guidance (arXiv 2207.12598), from any family.

Noise is drawn on the CPU by seed, so a picture is the same on every device and in every batch, and drawing previews
cannot move training.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.core.rng import torch_generator
from lorasmith.families.base import Family
from lorasmith.sampling import samplers
from lorasmith.sampling.control import Control, Guides
from lorasmith.sampling.predictions import Predictions
from lorasmith.sampling.prompts import count_windows
from lorasmith.sampling.regions import Region

MOST_STEPS = 1000


@dataclass(frozen=True)
class Request:
    """One picture that is asked for. Raises LorasmithError for a value that no picture can have."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.0
    """Guidance scale; 1 is none, and takes half the time."""
    width: int = 512
    """Pixels, as `height`: a multiple of 8."""
    height: int = 512
    sampler: str = "ddim"
    clip_skip: int = 1
    rescale: float = 0.0
    """How far guidance keeps the std of the unguided prediction, 0..1 (arXiv 2305.08891, section 3.4)."""
    regions: tuple[Region, ...] = ()
    """Parts of the picture with texts of their own."""
    apart: float = 0.0
    """For this share of the steps, 0..1, each region is a picture of its own, so that none takes another's place."""
    controls: tuple[Control, ...] = ()
    """ControlNets and T2I-Adapters with their pictures."""

    def __post_init__(self) -> None:
        samplers.find(self.sampler)
        for name, value in (("rescale", self.rescale), ("apart", self.apart)):
            if not 0 <= value <= 1:
                raise LorasmithError(f"{name} is {value}; it must be within 0 and 1")
        for name, value in (("width", self.width), ("height", self.height)):
            if value < 8 or value % 8:
                raise LorasmithError(f"{name} is {value}; it must be a multiple of 8")
        if not 1 <= self.steps <= MOST_STEPS:
            raise LorasmithError(f"steps is {self.steps}; it must be within 1 and {MOST_STEPS}")
        if self.clip_skip < 1:
            raise LorasmithError(f"clip_skip is {self.clip_skip}; 1 is the last layer, 2 the one before")
        for place in (*self.regions, *(area for control in self.controls for area in control.areas)):
            place.share(self.width, self.height)

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """What is encoded for it: the prompt and, unless there is no guidance, the negative one; then each region's."""
        pairs = [(self.prompt, self.negative)]
        pairs += [(r.prompt, self.negative if r.negative is None else r.negative) for r in self.regions]
        return tuple(pair[:1] if self.cfg == 1 else pair for pair in pairs)

    @property
    def group(self) -> tuple[Any, ...]:
        """Requests of one group may be drawn in one batch."""
        places = (tuple((r.share(self.width, self.height), r.weight) for r in self.regions), self.apart)
        size = (self.width, self.height)
        return (self.steps, *size, self.sampler, self.cfg, self.clip_skip, self.rescale, places, self.controls)


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn: pixels (3, H, W) in -1..1 and what it was asked as."""

    pixels: Tensor
    request: Request
    facts: dict[str, str] = field(default_factory=dict)
    """More for the `parameters` text of its file, such as the model's name."""


Done = Callable[[int, Picture], object]


@torch.no_grad()
def sample(
    family: Family,
    requests: Sequence[Request],
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
    done: Done | None = None,
) -> list[Picture]:
    """Draw all requests, in order, with whatever adapters are attached to the family now.

    `done` gets each picture as soon as it is there, with its index. LoRA tags in prompts are not looked at here.
    Raises LorasmithError for a sampler that cannot be had.
    """
    listener, guides = progress or Progress(), Guides(family)
    for model in {control.model: None for request in requests for control in request.controls}:
        guides.guide(model)  # one that does not fit is found before the first picture
    pictures: dict[int, Picture] = {}
    batches = [
        (members, _scheduler(family, requests[members[0]])) for members in _batches(family, requests, batch_size)
    ]
    total = sum(len(members) * len(scheduler.timesteps) for members, scheduler in batches)
    with listener.track("sampling", total) as advance:
        for members, scheduler in batches:
            chosen = [requests[i] for i in members]
            x0 = draw(family, chosen, scheduler, partial(advance, len(members), ""), guides)
            for index, latent in zip(members, x0, strict=True):
                pixels = family.decode(latent[None])[0].float().cpu()
                if not bool(pixels.isfinite().all()):
                    listener.say(f"a picture is not finite and was left black: {requests[index].prompt!r}")
                    pixels = torch.full_like(pixels, -1.0)
                pictures[index] = Picture(pixels, requests[index])
                if done is not None:
                    done(index, pictures[index])
    return [pictures[i] for i in range(len(requests))]


def _batches(family: Family, requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Indices of requests that may go together: one group, and texts of equally many windows, since filling up a
    shorter text would change its picture."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, request in enumerate(requests):
        windows = tuple(count_windows(family, texts) for texts in request.texts)
        groups.setdefault((request.group, windows), []).append(index)
    for members in groups.values():
        for start in range(0, len(members), size):
            yield members[start : start + size]


def _scheduler(family: Family, request: Request) -> Any:
    scheduler = samplers.make(request.sampler, family.schedule, family.prediction)
    samplers.start(scheduler, request.steps, family.device)
    return scheduler


def draw(
    family: Family,
    requests: Sequence[Request],
    scheduler: Any,
    tick: Callable[[], object],
    guides: Guides | None = None,
) -> Tensor:
    """Requests of one group as one batch of clean latents (B, C, h, w); `tick` is called after each evaluation."""
    first = requests[0]
    predict = Predictions(family, requests, guides or Guides(family))
    noise = [torch_generator(r.seed, "sampling") for r in requests]
    options: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = noise

    shape = (family.latent_channels, first.height // family.downscale, first.width // family.downscale)
    x = torch.stack([torch.randn(shape, generator=g) for g in noise]).to(family.device) * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps):
        done = index / len(scheduler.timesteps)
        output = predict(scheduler.scale_model_input(x, t), t.expand(len(x)).to(family.device), done)
        x = scheduler.step(output, t, x, **options)[0]
        tick()
    return x
