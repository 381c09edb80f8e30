"""What else may bend a prediction when pictures are drawn: texts of their own for parts of the picture, and residuals
of a ControlNet (arXiv 2302.05543) or a T2I-Adapter (arXiv 2302.08453)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (B, tokens, C) to the attention's output."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the picture, 0..1."""
_SLACK = 1e-6
"""Of a pixel, so that a third of a width that three divides ends where it should."""


@dataclass(frozen=True)
class Residuals:
    """What is added inside the UNet, each (B, C, h, w) or with a batch of 1.

    `skips`: to every skip connection in the order in which they are made, and `middle` behind the middle block, as a
    ControlNet gives them; `levels`: one for each level on the way down, before its skip, as a T2I-Adapter gives them.
    """

    skips: Sequence[Tensor] = ()
    middle: Tensor | None = None
    levels: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Area:
    """A part of the picture with a prompt of its own.

    `context`: its text states, as in a conditioning; `weight` 1: only its own prompt counts.
    """

    box: Box
    context: Tensor
    weight: float = 1.0


class Regions:
    """Areas that see their own texts (Mix-of-Show, arXiv 2305.18292, section 4.3).

    In each cross-attention, pixels inside areas get, in place of the output O, the mean over their areas of
    (1 - weight) O + weight O_area, where O_area attends to the area's text. Self-attention stays whole, so that the
    picture does.
    """

    def __init__(self, areas: Sequence[Area], size: tuple[int, int]) -> None:
        """`size`: height and width of the latents."""
        self.areas, self.size = tuple(areas), size
        self._sizes = level_sizes(size)

    def rewrite(self, out: Tensor, q: Tensor, attend: Attend, attn: Any, layer: int) -> Tensor:
        """`out`: attention (B, pixels, C) of the queries `q` to the whole picture's text; `attn`: the layer, whose keys
        and values of the areas' texts are taken; `layer`: its place among the cross-attentions."""
        grid = self._sizes[q.shape[1]]
        queries = _grid(q, grid)

        def own(index: int, rows: slice, columns: slice) -> Tensor:
            context = self.areas[index].context
            context = (context if context.dim() == 3 else context[:, layer]).to(q.dtype)
            part = queries[..., rows, columns]
            seen = attend(part.flatten(2).transpose(1, 2), attn.to_k(context), attn.to_v(context))
            return _grid(seen, (part.shape[2], part.shape[3]))

        return blend(_grid(out, grid), [(area.box, area.weight) for area in self.areas], own).flatten(2).transpose(1, 2)


def blend(plain: Tensor, places: Sequence[tuple[Box, float]], own: Callable[[int, slice, slice], Tensor]) -> Tensor:
    """`plain` (B, C, h, w), and inside places the mean over a pixel's places of (1 - weight) plain + weight own.

    `own`: a place's number, rows and columns to what it has there, (B, C, rows, columns).
    """
    height, width = plain.shape[-2:]
    cut = [cells(box, height, width) for box, _ in places]
    counts = plain.new_zeros(height, width)
    for rows, columns in cut:
        counts[rows, columns] += 1
    result = plain.clone()
    for index, ((_, weight), (rows, columns)) in enumerate(zip(places, cut, strict=True)):
        change = own(index, rows, columns) - plain[..., rows, columns]
        result[..., rows, columns] += weight / counts[rows, columns] * change
    return result


def _grid(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, pixels, C) to (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, size)


def level_sizes(size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Number of pixels to height and width, for the size of the latents and every half of it, rounded up."""
    height, width = size
    sizes = {height * width: size}
    while height * width > 1:
        height, width = -(-height // 2), -(-width // 2)
        sizes[height * width] = (height, width)
    return sizes


def cells(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a grid that lie wholly in a box; where none does, the one in its middle."""
    left, top, right, bottom = box
    return _between(top, bottom, height), _between(left, right, width)


def _between(start: float, end: float, count: int) -> slice:
    first, last = math.ceil(start * count - _SLACK), math.floor(end * count + _SLACK)
    if first >= last:
        first = min(int((start + end) / 2 * count), count - 1)
        last = first + 1
    return slice(first, last)


@contextmanager
def regional(unet: nn.Module, regions: Regions | None) -> Iterator[None]:
    """The UNet's cross-attentions with these regions, for what runs inside."""
    blocks = [m for m in unet.modules() if hasattr(m, "regions")] if regions is not None else []
    for block in blocks:
        block.regions = regions  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    try:
        yield
    finally:
        for block in blocks:
            block.regions = None  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
