"""Reading a LoRA file that anyone wrote into adapters for our layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.kohya import PREFIXES


@dataclass(frozen=True)
class LoraFile:
    """A file's tensors as they stand in it, and its metadata."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def kohya(self) -> bool:
        """Whether the names are kohya's."""
        return any(name.startswith(PREFIXES) for name in self.tensors)


def load(path: Path) -> LoraFile:
    """A safetensors file. Raises LorasmithError for a missing, damaged or pickled one."""
    if not path.is_file():
        raise LorasmithError(f"{path}: no such LoRA file")
    if path.suffix.lower() in (".pt", ".pth", ".ckpt", ".bin"):
        raise LorasmithError(f"{path}: a pickle file, which may run code when opened; only .safetensors are read")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return LoraFile(path, tensors, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise LorasmithError(f"{path}: not a readable safetensors file ({error})") from None
