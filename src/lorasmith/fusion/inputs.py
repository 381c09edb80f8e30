"""The inputs of layers while a model runs, collected as Gram matrices and sketches: no activations are stored."""

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

SKETCH_ROWS = 64
"""Rows of a sketch, which stands for all inputs of a layer where only the norm of outputs is needed."""


class GramMatrices:
    """For each layer the mean of x x^T over all its inputs x, (n, n) float32; for a convolution n includes the kernel
    window.

    And for each layer a sketch of the inputs (CountSketch, Charikar et al. 2002): a few rows R, which are sums of
    inputs with random signs. R^T R is the Gram matrix in expectation, and exactly as long as there are no more inputs
    than rows.
    """

    def __init__(self, *, sketches_only: bool = False) -> None:
        """`sketches_only`: keep no Gram matrices, which take most of the memory."""
        self._sketches_only = sketches_only
        self._sums: dict[str, Tensor] = {}
        self._sketches: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, inputs: Tensor) -> None:
        """Add inputs of a layer, (rows, n)."""
        inputs = inputs.detach().float()
        # Sums are kept on the device of the layer, in float32 whatever the model's precision is.
        width = inputs.shape[1]
        if name not in self._sketches:
            self._sketches[name] = torch.zeros(SKETCH_ROWS, width, device=inputs.device)
            self._counts[name] = 0
        if not self._sketches_only:
            if name not in self._sums:
                self._sums[name] = torch.zeros(width, width, device=inputs.device)
            self._sums[name].addmm_(inputs.T, inputs)

        # The inputs go to the rows of the sketch in turn; the signs follow from their position.
        start, count = self._counts[name], len(inputs)
        generator = torch_generator(0, "sketch", name, start)
        signs = torch.randint(2, (count, 1), generator=generator) * 2 - 1
        rows = (torch.arange(start, start + count) % SKETCH_ROWS).to(inputs.device)
        self._sketches[name].index_add_(0, rows, inputs * signs.to(inputs))
        self._counts[name] += count

    def pop(self, name: str, width: int) -> Tensor:
        """Take out a layer's Gram matrix, on the CPU; zeros if the layer never ran."""
        if name not in self._sums:
            return torch.zeros(width, width)
        return (self._sums.pop(name) / max(1, self._counts[name])).cpu()

    def sketch(self, name: str, width: int) -> Tensor:
        """A layer's sketch (q, n), on the CPU; zeros if the layer never ran."""
        if name not in self._sketches:
            return torch.zeros(1, width)
        return (self._sketches[name] / max(1, self._counts[name]) ** 0.5).cpu()

    @contextmanager
    def collecting(self, family: Family, layers: Iterable[str], token_mask: Tensor | None = None) -> Iterator[None]:
        """Add the inputs of these layers while the model runs in this context. The layers must carry adapters.

        `token_mask` (B, tokens) bool: only these tokens of a text encoder's batch, whose samples may be repeated.
        """
        modules = family.named_layers(components_of(layers))
        with ExitStack() as stack:
            for name in layers:
                layer = module_at(modules[name])
                spec = spec_of(name, layer)
                assert spec is not None
                # Before the forward pass, so that inputs are seen as the layer gets them.
                handle = layer.register_forward_pre_hook(self._hook(name, spec, token_mask))
                stack.callback(handle.remove)
            yield

    def _hook(self, name: str, spec: LayerSpec, token_mask: Tensor | None) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs = input_vectors(spec, args[0])
            if token_mask is not None:
                # A text with vectors for each layer is encoded once for each layer: its samples are repeated.
                repeats = len(args[0]) // len(token_mask)
                mask = token_mask.to(inputs.device).repeat_interleave(repeats, 0)
                inputs = inputs[mask.flatten()]
            self.add(name, inputs)

        return hook


def input_vectors(spec: LayerSpec, x: Tensor) -> Tensor:
    """The vectors that a layer multiplies with its weight, (rows, n)."""
    if spec.kind != "conv":
        return x.flatten(0, -2)
    # A convolution is a matrix product with the windows of its input.
    windows = F.unfold(x.float(), spec.shape[2:], spec.dilation, spec.padding, spec.stride)
    return windows.transpose(1, 2).flatten(0, 1)


@contextmanager
def attached_changes(family: Family, changes: dict[str, Factors], layers: Iterable[str]) -> Iterator[None]:
    """Attach these changes to the model in this context, and adapters that change nothing to the others of `layers`."""
    names = list(dict.fromkeys([*layers, *changes]))
    modules = family.named_layers(components_of(names))
    adapters: dict[str, Adapter] = {}
    for name in names:
        layer = module_at(modules[name])
        spec = spec_of(name, layer)
        assert spec is not None
        weight: Any = layer.weight
        # The inputs of all layers are read at adapters, so that those without a change get one of zeros.
        zero = (torch.zeros(spec.shape[0], 1), torch.zeros(1, weight[0].numel()))
        up, down = changes.get(name, zero)
        tensors = lora_tensors(up, down, spec.shape)
        adapters[name] = LoRA().restore(spec, weight, tensors).to(weight.device).eval()
    adapter_set = AdapterSet.restore(adapters, modules).attach()
    try:
        yield
    finally:
        adapter_set.detach()


def components_of(layers: Iterable[str]) -> list[str]:
    """The components (`unet`, `te`, ...) that these layers belong to."""
    return list(dict.fromkeys(name.split(".", 1)[0] for name in layers))
