"""Composites: a sprite over a background, its caption's facts, its mask. All of a batch at once, on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tools.tiny_base import backgrounds
from tools.tiny_base.sprites import SPRITE, Bank

SIZE = 128
"""Edge of a picture in pixels."""

PLAIN_SHARE, GRADIENT_SHARE = 0.55, 0.07


@dataclass(frozen=True)
class Batch:
    """`images` (n, 3, SIZE, SIZE) in -1..1, `masks` (n, 1, SIZE, SIZE) in 0..1, `sprites` (n,) index into the bank,
    `background` (n,) index into backgrounds.NAMES, `second` (n, 2) the two colours of a gradient."""

    images: Tensor
    masks: Tensor
    sprites: Tensor
    background: Tensor
    second: Tensor


def draw_backgrounds(n: int, g: Generator, kinds: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 3, SIZE, SIZE) in 0..1, their classes (n,), the colours of gradients (n, 2)."""
    colours = len(backgrounds.COLOURS)
    if kinds is None:
        kinds = torch.randint(colours, (n,), generator=g, device=g.device)
        what = torch.rand(n, generator=g, device=g.device)
        scenes = torch.randint(len(backgrounds.SCENES), (n,), generator=g, device=g.device) + colours
        kinds = torch.where(what > PLAIN_SHARE, scenes, kinds)
        kinds = torch.where(what > 1 - GRADIENT_SHARE, len(backgrounds.NAMES) - 1, kinds)
    first = torch.randint(colours, (n,), generator=g, device=g.device)
    second = (first + 1 + torch.randint(colours - 1, (n,), generator=g, device=g.device)) % colours
    out = torch.empty(n, 3, SIZE, SIZE, device=g.device)
    for kind, name in enumerate(backgrounds.NAMES):
        at = (kinds == kind).nonzero()[:, 0]
        if len(at) == 0:
            continue
        if kind < colours:
            out[at] = backgrounds.plain(kinds[at], SIZE, g)
        elif name == "gradient":
            out[at] = backgrounds.gradient(first[at], second[at], SIZE, g)
        else:
            out[at] = backgrounds.scene(name, len(at), SIZE, g)
    return out, kinds, torch.stack([first, second], 1)


def _place(pixels: Tensor, g: Generator) -> Tensor:
    """Sprites (n, 4, s, s) onto a canvas of SIZE: scale 0.55..0.95, moved, half of them mirrored, a third turned by up
    to 10 degrees."""
    n = len(pixels)

    def u(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=g, device=g.device) * (high - low) + low

    scale = 0.55 + 0.4 * u(0, 1)
    room = (1 - scale).clamp(min=0)
    dx, dy = u(-0.8, 0.8) * room, u(-0.5, 0.8) * room
    angle = torch.where(u(0, 1) < 0.33, u(-0.17, 0.17), torch.zeros_like(scale))
    mirror = torch.where(u(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    theta = torch.stack(
        [
            torch.stack([mirror * cos, mirror * sin, -mirror * (cos * dx + sin * dy)], 1),
            torch.stack([-sin, cos, sin * dx - cos * dy], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 4, 2 * SIZE, 2 * SIZE], align_corners=False)
    return F.avg_pool2d(F.grid_sample(pixels, grid, mode="bilinear", align_corners=False), 2)


def render(bank: Bank, sprites: Tensor, g: Generator, kinds: Tensor | None = None) -> Batch:
    """One composite for every entry of `sprites` (n,); `kinds` (n,) fixes the backgrounds. `g` lives on the bank's
    device."""
    placed = _place(bank.pixels[sprites].float(), g)
    back, kinds, second = draw_backgrounds(len(sprites), g, kinds)
    images = placed[:, :3] + back * (1 - placed[:, 3:])
    return Batch(images.clamp(0, 1) * 2 - 1, placed[:, 3:], sprites, kinds, second)


def choose(bank: Bank, n: int, g: Generator, turned_share: float = 0.5) -> Tensor:
    """(n,) sprites: concepts evenly; of a colourable concept, `turned_share` of the draws in another colour than
    drawn."""
    concepts = torch.randint(len(bank.names), (n,), generator=g, device=g.device)
    index = bank.concept.to(g.device)
    starts = torch.searchsorted(index, concepts)
    counts = torch.searchsorted(index, concepts, right=True) - starts
    turn = torch.rand(n, generator=g, device=g.device) < turned_share
    pick = 1 + (torch.rand(n, generator=g, device=g.device) * (counts - 1)).long()
    return starts + torch.where(turn & (counts > 1), pick.clamp(max=counts - 1), torch.zeros_like(pick))


assert SPRITE >= SIZE
