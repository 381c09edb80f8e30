"""Writing a LoRA file: whole or not at all, and read back before it counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path
from lorasmith.formats.metadata import hashes


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype) -> Path:
    """Write tensors in `dtype` with metadata and hashes. Raises LorasmithError if a number is not finite (the old file
    then stays), or if the file cannot be written."""
    rounded = rounding(path, tensors, dtype)
    with atomic_path(path) as temporary:
        save_file(rounded, temporary, {"format": "pt", **metadata, **hashes(rounded, metadata)})
        _verify(temporary, rounded)
    return path


def write_pickle(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Path:
    """Write the plain dict of tensors by `torch.save`, for programs that read nothing else; it opens with
    `weights_only=True`. Raises LorasmithError as `write` does."""
    rounded = rounding(path, tensors, dtype)
    with atomic_path(path) as temporary:
        torch.save(rounded, temporary)
    return path


def rounding(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors in `dtype`, in the order of their names. Raises LorasmithError if a number is not finite, or is not in
    this dtype."""
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise LorasmithError(f"{path}: not written, since it would hold numbers that are not finite, in {bad[0]}")
    # alphas stay as they are: rounded to bf16, one of 22.6 would be 22.625
    rounded = {name: (t.to(dtype) if t.dim() else t).contiguous().clone() for name, t in sorted(tensors.items())}
    lost = [name for name, tensor in rounded.items() if not torch.isfinite(tensor).all()]
    if lost:
        raise LorasmithError(f"{path}: {lost[0]} does not fit into {dtype}; export with another dtype")
    return rounded


def _verify(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with safe_open(path, "pt") as file:
        if set(file.keys()) != set(tensors) or any(not torch.equal(file.get_tensor(n), t) for n, t in tensors.items()):
            raise LorasmithError(f"{path}: what was written reads back differently; is the disk sound?")
