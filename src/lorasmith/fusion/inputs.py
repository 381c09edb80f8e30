"""What goes into layers while a model runs, as Gram matrices and sketches: no activation is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorasmith.adapters.attach import AdapterSet, module_at
from lorasmith.adapters.base import Adapter, LayerSpec
from lorasmith.adapters.layer import spec_of
from lorasmith.adapters.lora import LoRA
from lorasmith.core.rng import torch_generator
from lorasmith.families.base import Family
from lorasmith.files.lora import lora_tensors
from lorasmith.fusion.closed_form import Factors

SKETCH = 64
"""Rows that stand for all inputs of a layer where only norms of outputs are asked for."""


class Grams:
    """Mean of x x^T over all inputs x of each layer, (n, n) float32; n counts a convolution's window too. And of each
    layer a sketch (CountSketch, Charikar et al. 2002): few rows R, sums of inputs with random signs, for which R^T R is
    this mean on average, and exactly while there are no more inputs than rows."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._sketches: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}

    def add(self, name: str, rows: Tensor) -> None:
        """More inputs of a layer, (rows, n)."""
        rows = rows.detach().float()
        if name not in self._sums:
            self._sums[name] = torch.zeros(rows.shape[1], rows.shape[1], device=rows.device)
            self._sketches[name] = torch.zeros(SKETCH, rows.shape[1], device=rows.device)
            self._rows[name] = 0
        self._sums[name].addmm_(rows.T, rows)
        before, count = self._rows[name], len(rows)
        signs = torch.randint(2, (count, 1), generator=torch_generator(0, "sketch", name, before)) * 2 - 1
        at = (torch.arange(before, before + count) % SKETCH).to(rows.device)
        self._sketches[name].index_add_(0, at, rows * signs.to(rows))
        self._rows[name] += count

    def take(self, name: str, width: int) -> Tensor:
        """A layer's matrix, on the CPU; zeros if it never ran. It is not kept."""
        if name not in self._sums:
            return torch.zeros(width, width)
        return (self._sums.pop(name) / max(1, self._rows[name])).cpu()

    def sketch(self, name: str, width: int) -> Tensor:
        """A layer's sketch (q, n), on the CPU; zeros if it never ran."""
        if name not in self._sketches:
            return torch.zeros(1, width)
        return (self._sketches[name] / max(1, self._rows[name]) ** 0.5).cpu()

    @contextmanager
    def watching(self, family: Family, layers: Iterable[str], chosen: Tensor | None = None) -> Iterator[None]:
        """While the model runs, take in the inputs of these layers, which must carry adapters.

        `chosen` (B, tokens) bool: only these tokens of a text encoder's batch, whose samples may be repeated.
        """
        places = family.named_layers(_components(layers))
        with ExitStack() as stack:
            for name in layers:
                layer = module_at(places[name])
                spec = spec_of(name, layer)
                assert spec is not None
                handle = layer.register_forward_pre_hook(self._hook(name, spec, chosen))
                stack.callback(handle.remove)
            yield

    def _hook(self, name: str, spec: LayerSpec, chosen: Tensor | None) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = rows_of(spec, given[0])
            if chosen is not None:
                mask = chosen.to(rows.device).repeat_interleave(len(given[0]) // len(chosen), 0)
                rows = rows[mask.flatten()]
            self.add(name, rows)

        return hook


def rows_of(spec: LayerSpec, x: Tensor) -> Tensor:
    """The vectors that a layer multiplies with its weight, (rows, n)."""
    if spec.kind != "conv":
        return x.flatten(0, -2)
    windows = F.unfold(x.float(), spec.shape[2:], spec.dilation, spec.padding, spec.stride)
    return windows.transpose(1, 2).flatten(0, 1)


@contextmanager
def attached(family: Family, changes: dict[str, Factors], layers: Iterable[str]) -> Iterator[None]:
    """With these changes on the model, and adapters that change nothing on the others of `layers`."""
    places = family.named_layers(_components([*layers, *changes]))
    adapters: dict[str, Adapter] = {}
    for name in dict.fromkeys([*layers, *changes]):
        layer = module_at(places[name])
        spec = spec_of(name, layer)
        assert spec is not None
        weight: Any = layer.weight
        up, down = changes.get(name) or (torch.zeros(spec.shape[0], 1), torch.zeros(1, weight[0].numel()))
        tensors = lora_tensors(up, down, spec.shape)
        adapters[name] = LoRA().restore(spec, weight, tensors).to(weight.device).eval()
    found = AdapterSet.restore(adapters, places).attach()
    try:
        yield
    finally:
        found.detach()


def _components(layers: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".", 1)[0] for name in layers))
