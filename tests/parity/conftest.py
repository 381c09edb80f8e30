"""Random tiny base models of each family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bases(random_base: Callable[..., Path]) -> Callable[[str], Path]:
    """A function from `sd1`, `sd2`, `sdxl` to a diffusers folder; the original-layout file is beside it."""
    return random_base
