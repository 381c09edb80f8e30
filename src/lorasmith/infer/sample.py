"""Sampling with classifier-free guidance (arXiv 2207.12598), from any family.

Noise is drawn on the CPU by seed, so a picture is the same on every device and in every batch, and drawing previews
cannot move training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.progress import Progress
from lorasmith.core.rng import torch_generator
from lorasmith.families.base import Cond, Family
from lorasmith.infer import samplers
from lorasmith.infer.prompts import encode


@dataclass(frozen=True)
class Request:
    """One picture that is asked for."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.0
    width: int = 512
    height: int = 512
    sampler: str = "ddim"
    clip_skip: int = 1

    @property
    def group(self) -> tuple[Any, ...]:
        """Requests of one group may be drawn in one batch."""
        return (self.steps, self.width, self.height, self.sampler, self.cfg, self.clip_skip)


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn: pixels (3, H, W) in -1..1 and what it was asked as."""

    pixels: Tensor
    request: Request
    facts: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def sample(
    family: Family, requests: Sequence[Request], *, batch_size: int = 4, progress: Progress | None = None
) -> list[Picture]:
    """Draw all requests, in order, with whatever adapters are attached to the family now.

    Sizes must be multiples of 8. Raises LorasmithError for an unknown sampler.
    """
    pictures: dict[int, Picture] = {}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(request.group, []).append(index)
    total = sum(len(members) for members in groups.values())
    with (progress or Progress()).track("sampling", total) as advance:
        for members in groups.values():
            for start in range(0, len(members), batch_size):
                chosen = members[start : start + batch_size]
                pixels = draw(family, [requests[i] for i in chosen])
                pictures |= {i: Picture(p.cpu(), requests[i]) for i, p in zip(chosen, pixels, strict=True)}
                advance(len(chosen), "")
    return [pictures[i] for i in range(len(requests))]


def draw(family: Family, requests: Sequence[Request]) -> Tensor:
    """Requests of one group as one batch: pixels (B, 3, H, W) in -1..1."""
    first = requests[0]
    guided = first.cfg != 1
    cond = encode(family, [r.prompt for r in requests], [r.negative for r in requests], first.clip_skip)
    predict = guidance(family, with_sizes(family, cond, first), first.cfg if guided else 1.0, len(requests))

    scheduler = samplers.make(first.sampler, family.schedule, family.prediction)
    scheduler.set_timesteps(first.steps, device=family.device)
    noise = [StepNoise(r.seed, family.device) for r in requests]
    shape = (family.latent_channels, first.height // family.downscale, first.width // family.downscale)
    x = torch.stack([n.draw(shape) for n in noise]) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = predict(scheduler.scale_model_input(x, t), t.expand(len(x)).to(family.device))
        x = advance_sampler(scheduler, output, t, x, noise)
    return family.decode(x)


def guidance(family: Family, cond: Cond, cfg: float, count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The guided prediction. `cond`: `count` prompts followed by as many negative ones."""
    if cfg == 1.0:
        alone = Cond(**{name: tensor[:count] for name, tensor in cond.tensors().items()})
        return lambda x, t: family.predict(x, t, alone)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        wanted, unwanted = family.predict(torch.cat([x, x]), torch.cat([t, t]), cond).chunk(2)
        return unwanted + cfg * (wanted - unwanted)

    return predict


def with_sizes(family: Family, cond: Cond, request: Request) -> Cond:
    """SDXL's size conditions: an uncropped original of the size that is asked for."""
    batch = len(cond.context)
    size = torch.tensor([[request.height, request.width]], device=family.device).expand(batch, 2)
    return family.size_cond(cond, size, torch.zeros_like(size), size)


class StepNoise:
    """All noise of one picture: a stream of its own, by seed."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator, self.device = torch_generator(seed, "sampling"), device

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device)


def advance_sampler(scheduler: Any, output: Tensor, t: Tensor, x: Tensor, noise: Sequence[StepNoise]) -> Tensor:
    """One step of the sampler; ancestral ones get each picture's own noise."""
    from inspect import signature

    accepted = signature(scheduler.step).parameters
    options: dict[str, Any] = {"return_dict": False}
    if "generator" in accepted:
        options["generator"] = [n.generator for n in noise]
    return scheduler.step(output, t, x, **options)[0]
