"""Frozen weights that stay in the memory of the host and come to the GPU block by block, when they are needed.

Each block is called with copies of its frozen weights on the device. While it computes, the weights of the block that
is expected next are copied in a stream of their own, so that the copy hides behind the arithmetic. The copies are
dropped after use and never written back, since frozen weights do not change. In the backward pass blocks must be
computed again (gradient checkpointing); otherwise autograd would hold all copies until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lorasmith.families.host_memory import HostMemory


@dataclass
class _Copies:
    """The weights of one block on the device. `ready`: the event after which they can be used; None on a CPU."""

    tensors: dict[str, Tensor]
    ready: Any = None


class BlockStream:
    """The blocks of a network in the order in which they run, with their frozen weights on the host."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, resident: Sequence[str] = ()) -> None:
        """`resident`: layers of the blocks, by the first part of their names, that stay on the device."""
        self.device = device
        self._on_gpu = device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(device) if self._on_gpu else None
        self._blocks = list(blocks)
        self._position = {id(block): i for i, block in enumerate(self._blocks)}
        self._host: set[int] = set()
        """Identities of the tensors that are on the host."""
        self._coming: dict[int, _Copies] = {}
        self._last = -1
        self._memory = HostMemory(page_locked=self._on_gpu)
        for block in self._blocks:
            for name, tensor in _frozen(block).items():
                if name.partition(".")[0] not in resident:
                    self._move_to_host(tensor)

    def _move_to_host(self, tensor: Tensor) -> None:
        """Give a tensor storage on the host, in memory that a GPU can read without waiting."""
        tensor.data = self._memory.copy_of(tensor.data)
        self._host.add(id(tensor))

    def _is_on_host(self, tensor: Tensor) -> bool:
        """Whether a tensor must be copied: one that was moved, or one that took its place (weights in 8 bits)."""
        return id(tensor) in self._host or tensor.device.type != self.device.type

    def __call__(self, block: nn.Module, *inputs: Any, **named: Any) -> Any:
        """The block's output; meanwhile the weights of the next block are on their way."""
        position = self._position[id(block)]
        copies = self._coming.pop(position, None) or self._copy(position)

        # Forward passes go up, and backward passes, in which blocks are computed again, go down.
        step = 1 if position > self._last else -1
        self._last = position
        expected = position + step
        for other in [other for other in self._coming if other != expected]:
            del self._coming[other]
        if 0 <= expected < len(self._blocks) and expected not in self._coming:
            self._coming[expected] = self._copy(expected)

        if copies.ready is not None:
            current: Any = torch.cuda.current_stream(self.device)
            current.wait_event(copies.ready)
            for tensor in copies.tensors.values():
                # the allocator must not hand out this memory before the computation has read it
                tensor.record_stream(current)
        return functional_call(block, copies.tensors, inputs, named)

    def _copy(self, position: int) -> _Copies:
        """Begin to copy the weights of a block."""
        # by name at each call: adapters that are attached later change the names
        frozen = {name: t for name, t in _frozen(self._blocks[position]).items() if self._is_on_host(t)}
        if self._stream is None:
            # detached, so that what autograd keeps is not the parameter, whose storage is the host's
            return _Copies({name: tensor.detach().to(self.device) for name, tensor in frozen.items()})
        with torch.cuda.stream(self._stream):
            tensors = {name: tensor.detach().to(self.device, non_blocking=True) for name, tensor in frozen.items()}
            return _Copies(tensors, self._stream.record_event())


def stream_calls(stream: BlockStream, block: nn.Module) -> None:
    """Let every call of a block go through `stream`, for networks whose code cannot be changed."""
    plain: Callable[..., Any] = block.forward
    is_inside = False

    def forward(*inputs: Any, **named: Any) -> Any:
        nonlocal is_inside
        if is_inside:  # the stream calls the block, too
            return plain(*inputs, **named)
        is_inside = True
        try:
            return stream(block, *inputs, **named)
        finally:
            is_inside = False

    block.forward = forward


def _frozen(block: nn.Module) -> dict[str, Tensor]:
    """The weights of a block that are not trained, by name; in 8 bits they are buffers. Not those of adapters, which
    may be frozen for a part of the run only."""
    tensors: dict[str, Tensor] = dict(block.named_parameters())
    tensors |= {name: buffer for name, buffer in block.named_buffers() if name.endswith(("codes", "scales"))}
    return {name: t for name, t in tensors.items() if not t.requires_grad and ".adapters." not in f".{name}"}
