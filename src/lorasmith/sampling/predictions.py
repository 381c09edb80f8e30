"""What the network gives for requests: guided (arXiv 2207.12598), by regions, and led by other pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasmith.families.base import Cond, Family
from lorasmith.families.stable_diffusion.steering import Area, Regions, blend, cells
from lorasmith.sampling.control import Guides, Window, led
from lorasmith.sampling.prompts import encode

if TYPE_CHECKING:
    from lorasmith.sampling.sample import Request

Network = Callable[[Tensor, Tensor], Tensor]
"""x and t to what the network gives."""


class Predictions:
    """The guided predictions of a batch of requests of one group, with its regions and controls."""

    def __init__(self, family: Family, requests: Sequence[Request], guides: Guides) -> None:
        self.family, self.request = family, requests[0]
        first, down = self.request, family.downscale
        size = (first.height // down, first.width // down)
        self.leads = [guides.lead(control, (first.height, first.width)) for control in first.controls]
        self.whole: Window = (0, 0, *size)
        whole, *texts = (list(same) for same in zip(*(r.texts for r in requests), strict=True))
        self.places = [(region.share(first.width, first.height), region.weight) for region in first.regions]
        cut = [cells(box, *size) for box, _ in self.places]
        self.windows = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in cut]
        sides = [((bottom - top) * down, (right - left) * down) for top, left, bottom, right in self.windows]
        self.alone = [condition(family, same, first, side) for same, side in zip(texts, sides, strict=True)]
        self.cond = condition(family, whole, first, (first.height, first.width))
        if self.places:
            areas = [Area(box, own.context, w) for (box, w), own in zip(self.places, self.alone, strict=True)]
            self.cond = replace(self.cond, regions=Regions(areas, size))

    def __call__(self, x: Tensor, t: Tensor, done: float) -> Tensor:
        """`x`, `t`: what the network gets; `done`: the share of steps that lie behind.

        While regions are apart, each is predicted from its own crop and text alone, as MultiDiffusion (arXiv
        2302.08113) does throughout.
        """
        if done >= self.request.apart or not self.places:
            return self._guided(x, t, self.cond, done, self.whole)

        def own(index: int, rows: slice, columns: slice) -> Tensor:
            return self._guided(x[..., rows, columns], t, self.alone[index], done, self.windows[index])

        return blend(self._guided(x, t, self.cond, done, self.whole), self.places, own)

    def _guided(self, x: Tensor, t: Tensor, cond: Cond, done: float, window: Window) -> Tensor:
        def network(x: Tensor, t: Tensor) -> Tensor:
            return self.family.predict(x, t, led(cond, self.leads, (x, t), window, done))

        return guidance(network, self.request)(x, t)


def condition(family: Family, texts: Sequence[Sequence[str]], request: Request, size: tuple[int, int]) -> Cond:
    """Prompts, each alone or with its negative one, as a condition: all prompts, then all negative ones. `size`: height
    and width of the picture, which is an uncropped original for SDXL."""
    flat = [text for parts in zip(*texts, strict=True) for text in parts]
    cond = encode(family, flat, clip_skip=request.clip_skip)
    sizes = torch.tensor([size], device=family.device).expand(len(flat), 2)
    return family.size_cond(cond, sizes, torch.zeros_like(sizes), sizes)


def guidance(network: Network, request: Request) -> Network:
    """The guided prediction. `network` has prompts followed by as many negative ones, or prompts alone with cfg 1."""
    cfg, rescale = request.cfg, request.rescale
    if cfg == 1:
        return network

    def predict(x: Tensor, t: Tensor) -> Tensor:
        wanted, unwanted = network(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
        guided = unwanted + cfg * (wanted - unwanted)
        if rescale:
            ratio = wanted.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
            guided = guided * (rescale * ratio + 1 - rescale)
        return guided

    return predict
