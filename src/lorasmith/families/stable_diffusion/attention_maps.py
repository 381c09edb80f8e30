"""Where each new word looks: cross-attention maps, with gradients.

The output of attention is computed as ever; beside it, the probabilities of the columns that are asked for are averaged
over heads, and over the layers of one size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lorasmith.families.stable_diffusion.steering import level_sizes


class Maps:
    """Collects maps while the network runs. `columns`: (B, kinds, tokens), for each kind of map the tokens' weights."""

    def __init__(self, columns: Tensor, size: tuple[int, int]) -> None:
        self.columns = columns
        self.closed = False
        self._size = size
        self._found: dict[int, list[Tensor]] = {}

    def see(self, q: Tensor, k: Tensor, heads: int) -> None:
        """Queries (B, pixels, C) and keys (B, tokens, C) of a layer. Once closed, only what a recomputation in the
        backward pass needs is done, so that it matches the first pass; a pass of another shape is none.

        Raises ValueError if what is watched has other samples or tokens than `columns`.
        """
        if self.closed and not torch.is_grad_enabled():
            return
        wanted, given = (self.columns.shape[0], self.columns.shape[2]), (q.shape[0], k.shape[1])
        if given != wanted:
            if self.closed:
                return
            raise ValueError(
                f"attention maps are asked for of {wanted[0]} samples with {wanted[1]} tokens, but the layers get "
                f"{given[0]} with {given[1]}"
            )
        q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
        chances = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(1)
        found = chances @ self.columns.to(chances).transpose(1, 2)
        if not self.closed:
            self._found.setdefault(q.shape[2], []).append(found)

    def split(self, counts: Sequence[int]) -> list[Maps]:
        """Closed copies with so many kinds of maps each."""
        parts, start = [], 0
        for count in counts:
            own = Maps(self.columns[:, start : start + count], self._size)
            own.closed = True
            own._found = {n: [f[..., start : start + count] for f in found] for n, found in self._found.items()}
            parts.append(own)
            start += count
        return parts

    def by_size(self) -> dict[tuple[int, int], Tensor]:
        """(h, w) to maps (B, kinds, h, w), the mean over the layers of that size."""
        sizes = level_sizes(self._size)
        return {
            sizes[pixels]: torch.stack(found).mean(0).transpose(1, 2).unflatten(-1, sizes[pixels])
            for pixels, found in self._found.items()
        }


@contextmanager
def watched(unet: nn.Module, columns: Tensor, size: tuple[int, int]) -> Iterator[Maps]:
    """Maps of all cross-attention layers of what runs inside. `size`: height and width of the latents.

    Where there are gradients, the watch stays on the layers after that, closed: checkpointing runs them once more.
    """
    maps = Maps(columns, size)
    layers = [module for module in unet.modules() if hasattr(module, "watch")]
    _put(layers, maps)
    try:
        yield maps
    finally:
        maps.closed = True
        if not torch.is_grad_enabled():
            _put(layers, None)


def _put(layers: Sequence[nn.Module], watch: Maps | None) -> None:
    for layer in layers:
        layer.watch = watch  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
