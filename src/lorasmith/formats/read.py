"""Reading a LoRA file that anyone wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.spellings import KOHYA, canonical

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


@dataclass(frozen=True)
class LoraFile:
    """A file's tensors in kohya's spelling, and its metadata.

    `spelling`: whose spelling the names had; `embeddings`: bundled new words, by word and text encoder (`clip_l` ...).
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    spelling: str = "kohya"
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """New words in our own form: (vectors, layers or 1, width) by word and text encoder."""
    names: tuple[str, ...] = ()
    """The names as they stand in the file."""

    @property
    def family(self) -> str | None:
        """The family that the file is for, by the widths of its layers or else its metadata: `sd1`, `sd2`, `sdxl`."""
        from lorasmith.formats.survey import Survey

        return Survey(self).family

    @property
    def kohya(self) -> bool:
        """Whether the names are now kohya's."""
        return any(name.startswith(KOHYA) for name in self.tensors)


def load(path: Path) -> LoraFile:
    """A LoRA in any known spelling. Raises LorasmithError for a missing, damaged, pickled or non-finite file."""
    from lorasmith.formats import mixofshow, token_embeddings

    if path.suffix.lower() == mixofshow.SUFFIX and path.is_file():
        return mixofshow.load(path)
    tensors, metadata = read_tensors(path)
    bundled = {name: t for name, t in tensors.items() if name.startswith("bundle_emb.")}
    own = token_embeddings.decode(tensors, metadata, str(path))
    rest = {n: t for n, t in tensors.items() if n not in bundled and not n.startswith(token_embeddings.PREFIX)}
    try:
        found, spelling = canonical(rest, metadata)
    except ValueError as error:
        raise LorasmithError(f"{path}: its lora_adapter_metadata cannot be read ({error})") from None
    return LoraFile(path, found, metadata, spelling, _words(bundled), own, tuple(tensors))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, as they are."""
    if not path.is_file():
        raise LorasmithError(f"{path}: no such LoRA file")
    if path.suffix.lower() in PICKLES:
        raise LorasmithError(f"{path}: a pickle file, which may run code when opened; only .safetensors are read")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise LorasmithError(f"{path}: not a readable safetensors file ({error})") from None
    if not tensors:
        raise LorasmithError(f"{path}: holds no tensors")
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    if bad:
        raise LorasmithError(f"{path}: {len(bad)} tensors hold numbers that are not finite, for example {bad[0]}")
    return tensors, metadata


def _words(bundled: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`bundle_emb.<word>.<part>` by word and part (`string_to_param.*`, `clip_l` ...)."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in bundled.items():
        _, word, part = key.split(".", 2)
        found.setdefault(word, {})[part] = tensor
    return found
