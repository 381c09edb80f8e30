"""What may be added to the UNet's prediction: prompts for parts of the picture, and the residuals of a ControlNet
(arXiv 2302.05543), of a T2I-Adapter (arXiv 2302.08453) or of a condition."""

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
"""Left, top, right, bottom as fractions of the picture, 0..1."""
_TOLERANCE = 1e-6
"""In pixels: a third of a width that is divisible by three ends at a whole pixel despite rounding."""


@dataclass(frozen=True)
class Residuals:
    """What is added inside the UNet, each (B, C, h, w) or with a batch of 1."""

    skips: Sequence[Tensor] = ()
    """For every skip connection, in the order in which they are made, as a ControlNet gives them."""
    middle: Tensor | None = None
    """Added after the middle block."""
    levels: Sequence[Tensor] = ()
    """One for each level on the way down, before its skip, as a T2I-Adapter gives them."""

    def __add__(self, other: Residuals) -> Residuals:
        """The sum at each place; what only one of them has stays."""
        middles = [middle for middle in (self.middle, other.middle) if middle is not None]
        return Residuals(
            _add_lists(self.skips, other.skips),
            sum(middles[1:], middles[0]) if middles else None,
            _add_lists(self.levels, other.levels),
        )


def _add_lists(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """The sums of tensors at equal positions; an empty list adds nothing. Batches of 1 are broadcast."""
    if not first or not second:
        return list(first or second)
    return [a + b for a, b in zip(first, second, strict=True)]


@dataclass(frozen=True)
class Area:
    """A part of the picture with a prompt of its own.

    `context`: its text states, as in a conditioning; `weight` 1: only its own prompt counts.
    """

    box: Box
    context: Tensor
    weight: float = 1.0


class Regions:
    """Areas with prompts of their own (Mix-of-Show, arXiv 2305.18292, section 4.3).

    In each cross-attention, pixels inside areas get, in place of the output O, the mean over their areas of
    (1 - weight) O + weight O_area, where O_area attends to the area's prompt. Self-attention is unchanged, so the
    picture stays coherent.
    """

    def __init__(self, areas: Sequence[Area], size: tuple[int, int]) -> None:
        """`size`: height and width of the latents."""
        self.areas, self.size = tuple(areas), size
        self._sizes = level_sizes(size)

    def apply(self, out: Tensor, q: Tensor, attend: Attend, attn: Any, layer: int) -> Tensor:
        """The output of one cross-attention with the areas' prompts.

        `out`: the attention (B, pixels, C) of the queries `q` to the whole picture's prompt; `attn`: the layer, which
        gives keys and values of the areas' prompts; `layer`: its position among the cross-attentions.
        """
        size = self._sizes[q.shape[1]]
        queries = _as_image(q, size)

        def attend_to_area(index: int, rows: slice, columns: slice) -> Tensor:
            context = self.areas[index].context
            if context.dim() == 4:  # one context for each cross-attention layer
                context = context[:, layer]
            context = context.to(q.dtype)
            part = queries[..., rows, columns]
            area_out = attend(part.flatten(2).transpose(1, 2), attn.to_k(context), attn.to_v(context))
            return _as_image(area_out, (part.shape[2], part.shape[3]))

        places = [(area.box, area.weight) for area in self.areas]
        blended = blend(_as_image(out, size), places, attend_to_area)
        return blended.flatten(2).transpose(1, 2)


def blend(
    plain: Tensor, places: Sequence[tuple[Box, float]], values_at: Callable[[int, slice, slice], Tensor]
) -> Tensor:
    """`plain` (B, C, h, w), and inside places the mean over a pixel's places of (1 - weight) plain + weight value.

    `values_at`: a place's index, rows and columns to its values, (B, C, rows, columns).
    """
    height, width = plain.shape[-2:]
    slices = [cells(box, height, width) for box, _ in places]
    # In how many places each pixel is.
    counts = plain.new_zeros(height, width)
    for rows, columns in slices:
        counts[rows, columns] += 1
    result = plain.clone()
    for index, ((_, weight), (rows, columns)) in enumerate(zip(places, slices, strict=True)):
        # Attention needs at least one query.
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        change = values_at(index, rows, columns) - plain[..., rows, columns]
        result[..., rows, columns] += weight / counts[rows, columns] * change
    return result


def _as_image(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, pixels, C) to (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, size)


def level_sizes(size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Number of pixels to height and width, for the size of the latents and each halving of it, rounded up."""
    height, width = size
    sizes = {height * width: size}
    while height * width > 1:
        height, width = -(-height // 2), -(-width // 2)
        sizes[height * width] = (height, width)
    return sizes


def cells(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a grid that are completely inside a box. There may be none: as in Mix-of-Show, a box that is
    narrower than a cell has no effect at that resolution."""
    left, top, right, bottom = box
    return _cells_between(top, bottom, height), _cells_between(left, right, width)


def _cells_between(start: float, end: float, count: int) -> slice:
    first = math.ceil(start * count - _TOLERANCE)
    last = math.floor(end * count + _TOLERANCE)
    return slice(first, max(first, last))


@contextmanager
def with_regions(unet: nn.Module, regions: Regions | None) -> Iterator[None]:
    """The UNet's cross-attentions with these regions, for what runs in this context."""
    blocks = [module for module in unet.modules() if hasattr(module, "regions")] if regions is not None else []
    for block in blocks:
        block.regions = regions  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    try:
        yield
    finally:
        for block in blocks:
            block.regions = None  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
