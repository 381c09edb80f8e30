"""Cross-attention maps: how much each pixel attends to chosen tokens, with gradients.

The output of attention is computed as ever. Beside it, the attention probabilities of the chosen tokens are averaged
over heads, and over the layers of one size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.families.stable_diffusion.steering import level_sizes
from lorasmith.moved_modules import renamed


class CrossAttentionMaps:
    """Collects maps while the network runs.

    `columns`: (B, kinds, tokens), for each kind of map the weights of the tokens.
    """

    def __init__(self, columns: Tensor, size: tuple[int, int]) -> None:
        """`size`: height and width of the latents."""
        self.columns = columns
        self.closed = False
        """Whether recording has ended. A recomputation in the backward pass still calls `record`."""
        self._size = size
        self._by_pixels: dict[int, list[Tensor]] = {}
        """Maps (B, pixels, kinds) of single layers, by their number of pixels."""

    def record(self, q: Tensor, k: Tensor, heads: int) -> None:
        """Take queries (B, pixels, C) and keys (B, tokens, C) of a layer.

        Once closed, nothing is stored, but what a recomputation in the backward pass needs is computed again, so that
        it matches the first pass. Raises ValueError if the layer has other samples or tokens than `columns`; once
        closed, such a pass is another one and is ignored.
        """
        if self.closed and not torch.is_grad_enabled():
            return
        expected, actual = (self.columns.shape[0], self.columns.shape[2]), (q.shape[0], k.shape[1])
        if actual != expected:
            if self.closed:
                return
            raise ValueError(
                f"attention maps were requested for {expected[0]} samples with {expected[1]} tokens, "
                f"but the layers get {actual[0]} with {actual[1]}"
            )
        q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        probabilities = scores.softmax(-1).mean(1)
        maps = probabilities @ self.columns.to(probabilities).transpose(1, 2)
        if not self.closed:
            self._by_pixels.setdefault(q.shape[2], []).append(maps)

    def split(self, counts: Sequence[int]) -> list[CrossAttentionMaps]:
        """Closed copies with this many kinds of maps each."""
        parts: list[CrossAttentionMaps] = []
        start = 0
        for count in counts:
            kinds = slice(start, start + count)
            part = CrossAttentionMaps(self.columns[:, kinds], self._size)
            part.closed = True
            for pixels, layers in self._by_pixels.items():
                part._by_pixels[pixels] = [maps[..., kinds] for maps in layers]
            parts.append(part)
            start += count
        return parts

    def by_size(self) -> dict[tuple[int, int], Tensor]:
        """(h, w) to maps (B, kinds, h, w), the mean over the layers of that size."""
        sizes = level_sizes(self._size)
        result: dict[tuple[int, int], Tensor] = {}
        for pixels, layers in self._by_pixels.items():
            mean = torch.stack(layers).mean(0)
            result[sizes[pixels]] = mean.transpose(1, 2).unflatten(-1, sizes[pixels])
        return result


@contextmanager
def record_maps(unet: nn.Module, columns: Tensor, size: tuple[int, int]) -> Iterator[CrossAttentionMaps]:
    """Maps of all cross-attention layers of what runs in this context. `size`: height and width of the latents.

    With gradients, the layers keep the closed recorder afterwards, because checkpointing runs them once more.
    """
    maps = CrossAttentionMaps(columns, size)
    layers = [module for module in unet.modules() if hasattr(module, "map_recorder")]
    _set_recorder(layers, maps)
    try:
        yield maps
    finally:
        maps.closed = True
        if not torch.is_grad_enabled():
            _set_recorder(layers, None)


def _set_recorder(layers: Sequence[nn.Module], recorder: CrossAttentionMaps | None) -> None:
    for layer in layers:
        layer.map_recorder = recorder  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def __getattr__(name: str) -> Any:
    """Names that this module had in version 0.1."""
    return renamed("families.stable_diffusion.attention_maps", name)
