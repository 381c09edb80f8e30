"""Reading the tensors and metadata of a `.safetensors` file, with checks that give clear errors."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorasmith.core.errors import LorasmithError

PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file, unchanged.

    Raises LorasmithError for a missing, damaged, pickled, empty or non-finite file.
    """
    if not path.is_file():
        raise LorasmithError(f"{path}: no such LoRA file")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise LorasmithError(
            f"{path}: is a pickle file, which may run code when it is opened; only .safetensors files are read"
        )
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise LorasmithError(f"{path}: not a readable safetensors file ({error})") from None
    if not tensors:
        raise LorasmithError(f"{path}: holds no tensors")
    # float8 has no isfinite, hence the conversion
    non_finite = [key for key, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    if non_finite:
        raise LorasmithError(
            f"{path}: {len(non_finite)} tensors hold numbers that are not finite, for example {non_finite[0]}"
        )
    return tensors, metadata
