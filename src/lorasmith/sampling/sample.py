"""Sampling with any family: requests to pictures.

Noise is drawn on the CPU from the seed, so that a picture is the same on every device and in every batch, and so that
previews cannot change a training run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.progress import Progress
from lorasmith.core.rng import torch_generator
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion import emphasis
from lorasmith.sampling import programs, samplers
from lorasmith.sampling.condition_pictures import say_missing
from lorasmith.sampling.control import ControlModels
from lorasmith.sampling.predictions import GuidedPrediction
from lorasmith.sampling.request import Request


@dataclass(frozen=True)
class Picture:
    """A generated picture."""

    pixels: Tensor
    """(3, H, W) in -1..1."""
    request: Request
    metadata: dict[str, str] = field(default_factory=dict)
    """Further entries for the `parameters` text of its file, such as the name of the model."""


OnPicture = Callable[[int, Picture], object]
"""Gets the index of a request and its picture."""


@torch.no_grad()
def sample(
    family: Family,
    requests: Sequence[Request],
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
    on_picture: OnPicture | None = None,
) -> list[Picture]:
    """Generate a picture for each request, in their order, with the adapters that are attached to the family now.

    `on_picture` is called for each picture as soon as it is finished. LoRA tags in prompts are not interpreted here.
    Raises LorasmithError if a sampler or a control model cannot be loaded.
    """
    progress = progress or Progress()

    # Models and schedulers are loaded first, so that an error comes before the first picture.
    models = ControlModels(family)
    for request in requests:
        for control in request.controls:
            models.load(control.model)
    say_missing(family, requests, progress)
    batches = []
    for indices in _batches(family, requests, batch_size):
        batches.append((indices, scheduler_for(family, requests[indices[0]])))

    # Batches come in the order of their groups, so pictures are collected by the index of their request.
    pictures: dict[int, Picture] = {}
    evaluations = sum(len(indices) * len(scheduler.timesteps) for indices, scheduler in batches)
    with progress.track("sampling", evaluations) as advance:
        for indices, scheduler in batches:
            batch = [requests[index] for index in indices]
            latents = sample_latents(family, batch, scheduler, partial(advance, len(indices), ""), models)
            for index, latent in zip(indices, latents, strict=True):
                # pictures are decoded one by one, which needs less memory than the batch
                pixels = family.decode(latent[None])[0].float().cpu()
                if not bool(pixels.isfinite().all()):
                    progress.say(
                        f"a picture has values that are not finite and is left black: {requests[index].prompt!r}"
                    )
                    pixels = torch.full_like(pixels, -1.0)
                pictures[index] = Picture(pixels, requests[index])
                if on_picture is not None:
                    on_picture(index, pictures[index])
    return [pictures[index] for index in range(len(requests))]


def _batches(family: Family, requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Indices of requests that can be generated together: with equal `batch_key`, and with texts of equally many
    windows, because padding a shorter text with a window would change its picture."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, request in enumerate(requests):
        windows = tuple(_count_windows(family, request, texts) for texts in request.texts)
        groups.setdefault((request.batch_key, windows), []).append(index)
    for indices in groups.values():
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def _count_windows(family: Family, request: Request, texts: Sequence[str]) -> int:
    """How many windows of tokens the longest of the texts needs, as the program splits them that it is to be like."""
    if request.like:
        return emphasis.count_windows(family, texts, programs.find(request.like).parse)
    return family.count_windows(texts)


def scheduler_for(family: Family, request: Request) -> Any:
    """A scheduler of diffusers, or of the program that a picture is to be like, for this request's picture."""
    path = family.path.for_latents(request.height // family.downscale, request.width // family.downscale)
    if request.like:
        return programs.find(request.like).make_sampler(path, family.prediction.name, request.steps)
    scheduler = samplers.make_scheduler(request.sampler, path, family.prediction.name)
    samplers.set_timesteps(scheduler, request.steps, family.device, path)
    return scheduler


def sample_latents(
    family: Family,
    requests: Sequence[Request],
    scheduler: Any,
    after_step: Callable[[], object],
    models: ControlModels | None = None,
) -> Tensor:
    """Sample one batch of requests with equal `batch_key` to clean latents (B, C, h, w).

    `scheduler`: of diffusers, with its timesteps set, or of another program (`Request.like`). `after_step` is called
    after each step.
    """
    predict = GuidedPrediction(family, requests, models or ControlModels(family))
    first = requests[0]

    # Each request has its own generator, which gives the initial noise and that of stochastic samplers.
    generators = [torch_generator(request.seed, "sampling") for request in requests]
    step_options: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(scheduler.step).parameters:
        step_options["generator"] = generators

    # Noise is drawn on the CPU, so that it does not depend on the device.
    shape = (family.latent_channels, first.height // family.downscale, first.width // family.downscale)
    if first.like:
        draw = programs.find(first.like).noise
        noise = torch.stack([draw(shape, request.seed) for request in requests])
    else:
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    x = noise.to(family.device) * samplers.initial_scale(scheduler)
    for index, t in enumerate(scheduler.timesteps):
        step_fraction = index / len(scheduler.timesteps)
        model_input = samplers.scale_input(scheduler, x, t)
        at = family.path.from_sampler(t.expand(len(x)).to(family.device))
        output = predict(model_input, at, step_fraction)
        x = scheduler.step(output, t, x, **step_options)[0]
        after_step()
    return x
