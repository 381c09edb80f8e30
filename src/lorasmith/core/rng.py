"""Randomness by position, not by history.

Every draw comes from a generator seeded by its purpose and its position: (seed, purpose, step, index of the sample in
the global batch). Ranks, micro-steps, worker counts, previews and resumes therefore cannot change it, and a checkpoint
needs no random state. (The idea of seeding by position: EDM2, arXiv 2312.02696.)
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from lorasmith.core.deferred_torch import torch

if TYPE_CHECKING:
    from torch import Tensor


def derive(seed: int, purpose: str, *position: int | str) -> int:
    """A 63-bit seed for one purpose at one position; the same on every machine."""
    # Python's own hash differs between processes
    text = "/".join([str(seed), purpose, *(str(part) for part in position)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(seed: int, purpose: str, *position: int | str) -> torch.Generator:
    """A CPU generator for one purpose at one position."""
    return torch.Generator("cpu").manual_seed(derive(seed, purpose, *position))


def python_random(seed: int, purpose: str, *position: int | str) -> random.Random:
    """A `random.Random` for one purpose at one position (captions, crops, orders)."""
    return random.Random(derive(seed, purpose, *position))


@contextmanager
def restored_global_generators(device: torch.device) -> Generator[None, None, None]:
    """Torch's global generators of the CPU and of `device` are the same after the block.

    The one exception to randomness by position: `torch.nn.functional.dropout` takes no generator, so the training step
    seeds the global ones by its position, inside this block.
    """
    if device.type == "mps":  # one device, which fork_rng cannot name
        before = torch.mps.get_rng_state()
        try:
            with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
                yield
        finally:
            torch.mps.set_rng_state(before)
        return
    devices, device_type = ([], "cuda") if device.type == "cpu" else ([device], device.type)
    with torch.random.fork_rng(devices=devices, device_type=device_type):  # pyright: ignore[reportUnknownMemberType]
        yield


@contextmanager
def seeded_global_generators(seed: int, device: torch.device) -> Generator[None, None, None]:
    """Inside the block torch's global generators begin at `seed`; afterwards they are as before. For the initial
    weights of modules of torch, which take no generator."""
    with restored_global_generators(device):
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        yield


Draw: TypeAlias = "Callable[[torch.Generator], Tensor]"
"""One sample's draw from its generator."""
Make: TypeAlias = "Callable[[], Tensor]"
"""The draws of all samples for one purpose, (B, ...), at the present step."""

GOLDEN = (5**0.5 - 1) / 2
"""The golden ratio conjugate; its multiples modulo 1 are a low-discrepancy sequence."""
SILVER = 2**0.5 - 1
"""The silver ratio conjugate; likewise."""


class StepRng:
    """The draws of one micro-batch of one step: one independent stream per sample and purpose.

    `samples` are the indices of the micro-batch's samples in the global batch of the step. Draws are made on the CPU,
    so that they are the same on every device, and then moved to `device`.

    After `freeze()` the tensors of the first use stay in place, and `refill(step)` writes the draws of another step
    into them: a captured CUDA graph then reads new numbers from the same addresses.
    """

    def __init__(self, seed: int, step: int, samples: list[int], device: torch.device | str = "cpu") -> None:
        self.seed, self.step, self.samples, self.device = seed, step, samples, torch.device(device)
        self._frozen: dict[str, tuple[Make, Tensor]] | None = None
        """Purpose to how its draws are made and the tensor that holds them; None unless frozen."""

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) float32, standard normal."""
        return self._draws(purpose, lambda: self._each_sample(purpose, lambda g: torch.randn(shape, generator=g)))

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """(B, *shape) float32 in [0, 1)."""
        return self._draws(purpose, lambda: self._each_sample(purpose, lambda g: torch.rand(shape, generator=g)))

    def integers(self, purpose: str, low: int, high: int) -> Tensor:
        """(B,) int64 in [low, high)."""

        def draw(generator: torch.Generator) -> Tensor:
            return torch.randint(low, high, (), generator=generator)

        return self._draws(purpose, lambda: self._each_sample(purpose, draw))

    def spread(self, purpose: str) -> Tensor:
        """(B,) float32 in [0, 1), evenly spread over the samples of a step and over the steps of a run.

        Points of a lattice: start(seed) + sample * golden ratio + step * silver ratio, modulo 1. Each row and each
        column of it is a low-discrepancy sequence.
        """
        start = derive(self.seed, purpose) / 2**63

        def make() -> Tensor:
            return torch.tensor([(start + sample * GOLDEN + self.step * SILVER) % 1.0 for sample in self.samples])

        return self._draws(purpose, make)

    def _draws(self, purpose: str, make: Make) -> Tensor:
        """The draws for a purpose on `device`: made now or, if frozen, the tensor of the first use."""
        if self._frozen is not None and purpose in self._frozen:
            return self._frozen[purpose][1]
        # the copy to a GPU is not waited for
        draws = make().to(self.device, non_blocking=True)
        if self._frozen is not None:
            self._frozen[purpose] = (make, draws)
        return draws

    def _each_sample(self, purpose: str, draw: Draw) -> Tensor:
        """One draw per sample, each from a generator of its position, stacked."""
        generators = [torch_generator(self.seed, purpose, self.step, sample) for sample in self.samples]
        return torch.stack([draw(generator) for generator in generators])

    def freeze(self) -> StepRng:
        """Keep each purpose's tensor from now on; returns self."""
        self._frozen = {}
        return self

    def refill(self, step: int, samples: list[int]) -> None:
        """Write the draws of another step into the frozen tensors. The number of samples must stay the same."""
        self.step, self.samples = step, samples
        for make, draws in (self._frozen or {}).values():
            draws.copy_(make(), non_blocking=True)
