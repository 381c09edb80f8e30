"""Reading the tensors and metadata of a `.safetensors` file, with checks that give clear errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from safetensors import SafetensorError, safe_open

from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError

if TYPE_CHECKING:
    from torch import Tensor

TensorsByKey: TypeAlias = "dict[str, Tensor]"
Metadata = dict[str, str]
LIBRARY_ERRORS = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, MemoryError)
"""What safetensors and torch raise for damaged headers, unknown dtypes, and files that end too early."""
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def read_tensors(path: Path, check_keys: Callable[[list[str]], None] | None = None) -> tuple[TensorsByKey, Metadata]:
    """Tensors and metadata of a file, unchanged. `check_keys` gets the keys before any tensor is read.

    Raises LorasmithError for a missing, damaged, pickled, empty or non-finite file.
    """
    if path.is_dir():
        raise LorasmithError(f"{path}: is a folder; name the .safetensors file in it")
    if not path.is_file():
        raise LorasmithError(f"{path}: no such LoRA file")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise LorasmithError(
            f"{path}: is a pickle file, which may run code when it is opened; only .safetensors files are read"
        )
    try:
        with safe_open(path, "pt") as file:
            # in the order of the file, since some programs answer by the first key that they know
            keys = file.offset_keys()
            if check_keys is not None:
                check_keys(keys)
            tensors = {key: file.get_tensor(key) for key in keys}
            metadata = file.metadata() or {}
    except LIBRARY_ERRORS as error:
        raise LorasmithError(f"{path}: not a readable safetensors file ({error})") from None
    if not tensors:
        raise LorasmithError(f"{path}: holds no tensors")
    non_finite = [key for key, tensor in tensors.items() if not all_finite(tensor)]
    if non_finite:
        raise LorasmithError(
            f"{path}: {len(non_finite)} tensors hold numbers that are not finite, for example {non_finite[0]}"
        )
    return tensors, metadata


def all_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor of any dtype are finite."""
    # float8 has no isfinite
    if tensor.is_floating_point() and tensor.dtype.itemsize == 1:
        tensor = tensor.float()
    return bool(torch.isfinite(tensor).all())
