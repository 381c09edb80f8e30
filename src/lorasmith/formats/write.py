"""Writing a LoRA file: completely or not at all, and read back to verify it."""

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
from lorasmith.formats.read_tensors import all_finite


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype) -> Path:
    """Write tensors in `dtype` with metadata and hashes.

    Raises LorasmithError if a number is not finite (an existing file then stays), or if the file cannot be written.
    """
    converted = convert_dtype(path, tensors, dtype)
    with atomic_path(path) as temporary:
        save_file(converted, temporary, {"format": "pt", **metadata, **hashes(converted, metadata)})
        _verify(temporary, converted)
    return path


def write_pickle(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Path:
    """Write the plain dict of tensors by `torch.save`, for programs that read nothing else. It can be opened with
    `weights_only=True`. Raises LorasmithError as `write` does."""
    converted = convert_dtype(path, tensors, dtype)
    with atomic_path(path) as temporary:
        torch.save(converted, temporary)
    return path


def convert_dtype(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors in `dtype`, in the order of their names. Raises LorasmithError if a number is not finite, or not finite
    in this dtype."""
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            raise LorasmithError(f"{path}: not written, since {name} holds numbers that are not finite")
    converted: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        # alphas (scalars) keep their dtype: rounded to bf16, one of 22.6 would be 22.625
        converted_tensor = tensor.to(dtype) if tensor.dim() else tensor
        converted[name] = converted_tensor.contiguous().clone()
    # fp16 ends at 65504
    for name, tensor in converted.items():
        if not all_finite(tensor):
            raise LorasmithError(f"{path}: {name} does not fit into {dtype}; export with another dtype")
    return converted


def _verify(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise LorasmithError if a file does not hold exactly these tensors."""
    with safe_open(path, "pt") as file:
        same_keys = set(file.keys()) == set(tensors)
        if not same_keys or any(not torch.equal(file.get_tensor(key), tensor) for key, tensor in tensors.items()):
            raise LorasmithError(f"{path}: the written file reads back differently; check the disk")
