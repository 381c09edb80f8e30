"""Normal random numbers as `torch.randn(device="cuda")` draws them, without a GPU: A1111's noise by default.

Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) and the first number of
a Box-Muller pair; element i has the counter (0, 0, i, 0) and the key (seed, 0), as in torch's CUDA generator.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
HIGH = np.uint64(32)

Words = npt.NDArray[np.uint64]
"""32-bit numbers in 64-bit places, so that products do not overflow."""


def randn(shape: tuple[int, ...], seed: int) -> Tensor:
    """float32 normal numbers, as the first call after `torch.manual_seed(seed)` draws them on CUDA."""
    count = math.prod(shape)
    zeros = np.zeros(count, np.uint64)
    first, second = _philox((zeros, zeros, np.arange(count, dtype=np.uint64), zeros), seed)
    # uniform in (0, 1] and (0, 2 pi], in float32 as CUDA computes them
    unit = np.float32(2.3283064e-10)
    turn = np.float32(2.3283064e-10 * 6.2831855)
    u = first.astype(np.float32) * unit + unit / 2
    v = second.astype(np.float32) * turn + turn / 2
    numbers = np.sqrt(-2 * np.log(u)) * np.sin(v)
    return torch.from_numpy(numbers.astype(np.float32).reshape(shape))


def _philox(counter: tuple[Words, Words, Words, Words], seed: int) -> tuple[Words, Words]:
    """The first two of the four numbers of each counter."""
    a, b, c, d = counter
    keys = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    for _ in range(ROUNDS):
        low_product, high_product = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (
            (high_product >> HIGH) ^ b ^ np.uint64(keys[0]),
            high_product & LOW,
            (low_product >> HIGH) ^ d ^ np.uint64(keys[1]),
            low_product & LOW,
        )
        keys = [(key + step) & 0xFFFFFFFF for key, step in zip(keys, KEY_STEPS, strict=True)]
    return a, b
