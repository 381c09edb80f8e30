"""How other programs draw a picture when nothing is set: sampler, schedule, steps, guidance, noise and emphasis.

Read from their code: A1111 1.10 (`sd_samplers_kdiffusion.py`, `sd_schedulers.py`, `rng_philox.py`, `sd_emphasis.py`)
and ComfyUI of October 2025 (`samplers.py`, `model_sampling.py`, `sample.py`, `sd1_clip.py`, and its default graph).
What stays different is precision: both compute in half precision, and an A1111 that draws noise on the CPU or on
another kind of GPU has other noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.schedule import require_schedule
from lorasmith.families.base import Conditioning
from lorasmith.families.stable_diffusion import comfy_emphasis, emphasis
from lorasmith.sampling import philox
from lorasmith.sampling.sigma_sampler import (
    Sigmas,
    SigmaSampler,
    Solver,
    dpmpp_2m,
    euler,
    karras_sigmas,
    normal_sigmas,
)

if TYPE_CHECKING:
    from lorasmith.sampling.request import Request


@dataclass(frozen=True)
class Program:
    """One program's defaults."""

    label: str
    sampler_label: str
    """The sampler as the program calls it."""
    schedule_label: str
    steps: int
    cfg: float
    solver: Solver
    sigmas: Sigmas
    whole_t: bool
    """Whether the network gets whole timesteps."""
    unit_variance: bool
    """Whether the first x has the variance 1 + sigma^2 instead of sigma^2."""
    noise: Callable[[tuple[int, ...], int], Tensor]
    """From the shape (C, h, w) and the seed."""
    parse: emphasis.Parse
    encode: Callable[..., Conditioning]

    def make_sampler(self, path: DiffusionPath, prediction: str, steps: int) -> SigmaSampler:
        """A new sampler with our noise schedule. Raises LorasmithError for a path that is not DDPM's."""
        schedule = require_schedule(path, f"drawing as {self.label}")
        return SigmaSampler(
            schedule.alphas_cumprod,
            prediction,
            steps,
            sigmas=self.sigmas,
            solver=self.solver,
            whole_t=self.whole_t,
            unit_variance=self.unit_variance,
        )

    def describe(self, steps: int, cfg: float, clip_skip: int) -> str:
        """One line: what a picture that is drawn so equals."""
        changed = [f"{steps} steps"] * (steps != self.steps) + [f"cfg {cfg:g}"] * (cfg != self.cfg)
        exceptions = f" (its defaults except {' and '.join(changed)})" if changed else " with its defaults"
        return (
            f"as {self.label}{exceptions}: {self.sampler_label}, schedule {self.schedule_label}, {steps} steps, "
            f"cfg {cfg:g}, clip skip {clip_skip}"
        )


def _cpu_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PROGRAMS: dict[str, Program] = {
    "a1111": Program(
        label="A1111",
        sampler_label="DPM++ 2M",
        schedule_label="Karras",
        steps=20,
        cfg=7.0,
        solver=dpmpp_2m,
        sigmas=karras_sigmas,
        whole_t=False,
        unit_variance=False,
        noise=philox.randn,
        parse=emphasis.parse,
        encode=emphasis.encode,
    ),
    "comfyui": Program(
        label="ComfyUI",
        sampler_label="euler",
        schedule_label="normal",
        steps=20,
        cfg=8.0,
        solver=euler,
        sigmas=normal_sigmas,
        whole_t=True,
        unit_variance=True,
        noise=_cpu_noise,
        parse=comfy_emphasis.parse,
        encode=comfy_emphasis.encode,
    ),
}
ALIASES = {"automatic1111": "a1111", "comfy": "comfyui"}
"""Other accepted names."""


def find(name: str) -> Program:
    """The program of a name. Raises LorasmithError for an unknown one."""
    key = name.strip().lower()
    program = PROGRAMS.get(ALIASES.get(key, key))
    if program is None:
        hint = did_you_mean(key, [*PROGRAMS, *ALIASES])
        raise LorasmithError(
            f'no program is called "{name}"; {f"{hint} " if hint else ""}known programs: {", ".join(PROGRAMS)}'
        )
    return program


def describe(request: Request) -> str:
    """One line: how a picture is drawn, and which program it equals."""
    if request.like:
        return find(request.like).describe(request.steps, request.cfg, request.clip_skip)
    return (
        f"with {request.sampler}, {request.steps} steps, cfg {request.cfg:g}, clip skip {request.clip_skip}; other "
        "programs have other defaults and other noise for the same seed (preview.like draws as they do: "
        f"{' or '.join(PROGRAMS)})"
    )


def checked(name: str) -> str:
    """The name of a setting `like`, which may be empty. Raises ValueError for an unknown program."""
    try:
        if name:
            find(name)
        return name
    except LorasmithError as error:
        raise ValueError(str(error)) from None


def with_defaults(values: Any) -> Any:
    """A table of settings with the steps and guidance of the program in `like`, where the table has none."""
    if not isinstance(values, dict):
        return values
    table: dict[str, Any] = dict(cast("dict[str, Any]", values))
    name = table.get("like")
    # an unknown name is reported by its own check
    if isinstance(name, str) and name.strip().lower() in {*PROGRAMS, *ALIASES}:
        program = find(name)
        table.setdefault("steps", program.steps)
        table.setdefault("cfg", program.cfg)
    return table
