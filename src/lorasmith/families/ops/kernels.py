"""Where Triton kernels can be used, and the modules that contain them."""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs kernels on the CPU, one operation at a time: for tests without a GPU."""


def usable(x: Tensor) -> bool:
    """Whether kernels can read this tensor: it is on a GPU, in a dtype of theirs, and Triton is installed."""
    return (x.is_cuda or INTERPRETED) and x.dtype in DTYPES and _is_installed()


@cache
def _is_installed() -> bool:
    try:
        importlib.import_module("triton")
    except ImportError:
        return False
    return True


@cache
def load(name: str) -> Any:
    """A module of this folder with kernels. Raises ImportError where Triton is not installed."""
    return importlib.import_module(f"lorasmith.families.ops.{name}")
