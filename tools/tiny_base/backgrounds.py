"""Backgrounds: twelve plain colours, gradients of two of them, and seven simple scenes, drawn in batches on any
device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 44, 44),
    "orange": (245, 140, 35),
    "yellow": (250, 215, 60),
    "green": (60, 165, 75),
    "blue": (45, 95, 210),
    "purple": (130, 65, 180),
    "pink": (250, 160, 195),
    "brown": (120, 75, 45),
    "black": (18, 18, 20),
    "white": (248, 248, 248),
    "gray": (135, 138, 142),
    "turquoise": (60, 205, 200),
}


@dataclass(frozen=True)
class Scene:
    """Bands from top to bottom as (r, g, b), horizons as (lowest, highest) share of the height; `wave` moves the last
    horizon, `grain` = (strength, cells across, cells down) of the ground's texture, `dots` = count of bright dots a
    unit square."""

    bands: tuple[tuple[int, int, int], ...]
    horizons: tuple[tuple[float, float], ...]
    phrases: tuple[str, ...]
    wave: float = 0.0
    grain: tuple[float, int, int] = (0.06, 32, 32)
    dots: int = 0


SCENES: dict[str, Scene] = {
    "grass": Scene(
        ((150, 210, 245), (95, 175, 65)), ((0.35, 0.6),), ("on green grass", "on grass"), 0.02, (0.16, 64, 16)
    ),
    "beach": Scene(
        ((160, 220, 250), (40, 150, 200), (238, 214, 160)),
        ((0.25, 0.4), (0.5, 0.65)),
        ("on the beach", "on a beach"),
        0.02,
        (0.05, 64, 64),
    ),
    "night": Scene(
        ((18, 24, 70), (38, 44, 78)), ((0.6, 0.78),), ("at night", "under the stars"), 0.05, (0.05, 16, 8), 60
    ),
    "snow": Scene(
        ((176, 200, 226), (240, 245, 252)), ((0.4, 0.62),), ("in the snow", "on white snow"), 0.05, (0.03, 12, 12), 70
    ),
    "sea": Scene(((185, 225, 250), (25, 100, 180)), ((0.25, 0.5),), ("in the sea", "on the sea"), 0.01, (0.2, 8, 28)),
    "desert": Scene(
        ((250, 205, 140), (215, 145, 75)), ((0.4, 0.62),), ("in the desert", "in a desert"), 0.12, (0.06, 12, 24)
    ),
    "table": Scene(
        ((226, 214, 200), (150, 95, 55)), ((0.35, 0.58),), ("on a wooden table", "on a table"), 0.0, (0.22, 3, 30)
    ),
}

NAMES: tuple[str, ...] = (*COLOURS, *SCENES, "gradient")
"""Classes of backgrounds, in the judge's order."""


def _uniform(shape: tuple[int, ...], g: Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(shape, generator=g, device=g.device) * (high - low) + low


def plain(kinds: Tensor, size: int, g: Generator) -> Tensor:
    """(n, 3, size, size) in 0..1; `kinds` (n,) index COLOURS. A slight fall of light keeps them from being flat."""
    table = torch.tensor(list(COLOURS.values()), device=g.device).float() / 255
    base = table[kinds] + _uniform((len(kinds), 3), g, -0.035, 0.035)
    angle = _uniform((len(kinds), 1, 1), g, 0, 2 * math.pi)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size, device=g.device)] * 2, indexing="ij")
    light = (x * angle.cos() + y * angle.sin()) * _uniform((len(kinds), 1, 1), g, 0, 0.05)
    return (base[:, :, None, None] + light[:, None]).clamp(0, 1)


def gradient(first: Tensor, second: Tensor, size: int, g: Generator) -> Tensor:
    """(n, 3, size, size): from colour `first` at the top to `second` at the bottom."""
    table = torch.tensor(list(COLOURS.values()), device=g.device).float() / 255
    ramp = torch.linspace(-0.15, 1.15, size, device=g.device).clamp(0, 1)[None, None, :, None]
    top, bottom = table[first][:, :, None, None], table[second][:, :, None, None]
    return (top + (bottom - top) * ramp).expand(-1, -1, -1, size).clone()


def scene(name: str, count: int, size: int, g: Generator) -> Tensor:
    """(count, 3, size, size) pictures of one scene."""
    spec = SCENES[name]
    bands = torch.tensor(spec.bands, device=g.device).float() / 255 + _uniform(
        (count, len(spec.bands), 3), g, -0.03, 0.03
    )
    y, x = torch.meshgrid(*[torch.linspace(0, 1, size, device=g.device)] * 2, indexing="ij")
    out = bands[:, 0, :, None, None] + (y * 0.12)[None, None]
    for i, (low, high) in enumerate(spec.horizons):
        last = i == len(spec.horizons) - 1
        phase, pace = _uniform((count, 1, 1), g, 0, 6.3), _uniform((count, 1, 1), g, 3, 7)
        line = _uniform((count, 1, 1), g, low, high) + (spec.wave if last else 0.0) * torch.sin(x * pace + phase)
        below = ((y - line) * size * 0.7).clamp(0, 1)[:, None]
        ground = bands[:, i + 1, :, None, None] * (1.06 - 0.22 * (y - line))[:, None]
        if last:
            strength, across, down = spec.grain
            noise = F.interpolate(_uniform((count, 1, down, across), g, -1, 1), (size, size), mode="bilinear")
            ground = ground * (1 + strength * noise)
        out = out * (1 - below) + ground * below
    return (out + _dots(spec.dots, count, size, g)).clamp(0, 1)


def _dots(number: int, count: int, size: int, g: Generator) -> Tensor:
    if not number:
        return torch.zeros((), device=g.device)
    dots = (_uniform((count, 1, size // 2, size // 2), g) < number / (size // 2) ** 2).float()
    return F.interpolate(dots, (size, size), mode="bilinear") * 0.9
