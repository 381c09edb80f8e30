"""A training step as one CUDA graph. The networks of the tiny base are so small that launching their kernels one by one
takes longer than running them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Captured:
    """`step` with inputs of the shapes of `example`, captured once and replayed for each call.

    `step` must leave nothing behind but what it writes into tensors that exist before it, and must not wait for the
    device. It is called three times before the capture, with `example`: set the learning rate to zero for these calls.
    """

    def __init__(self, step: Callable[..., Tensor], example: tuple[Tensor, ...], warm_up: int = 3) -> None:
        self.inputs = tuple(tensor.clone() for tensor in example)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warm_up):
                step(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = step(*self.inputs)

    def __call__(self, *tensors: Tensor) -> Tensor:
        """One step. Returns what `step` returned; the next call overwrites it."""
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.result
