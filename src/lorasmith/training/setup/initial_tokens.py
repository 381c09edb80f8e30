"""What new words start as in a run: words of the model, or a file of an earlier training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lorasmith.concepts import Concept
from lorasmith.concepts.start import OwnVectors
from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Family
from lorasmith.formats import embeddings

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")
"""Of an `init` that is a file."""


def starts(concepts: Sequence[Concept], family: Family, layers: int) -> OwnVectors:
    """The vectors of an `init`, by text encoder: (tokens, width), or of a file with layers (vectors, layers, width).

    Raises LorasmithError if a file is none, or does not suit its concept or the model.
    """
    files = {
        init: _read(init, concept, family, layers)
        for concept in concepts
        for init in concept.init
        if Path(init).suffix.lower() in SUFFIXES
    }
    return lambda text: files[text] if text in files else family.own_vectors(text)


def _read(init: str, concept: Concept, family: Family, layers: int) -> Mapping[str, Tensor]:
    path = Path(init).expanduser()
    if not path.is_file():
        raise LorasmithError(f"concepts.init: {path}: no such file")
    _, found = embeddings.load(path)
    table = family.own_table()
    if found.keys() != table.keys():
        raise LorasmithError(f"concepts.init: {path} was not made for a {family.kind} base")
    for part, tensor in found.items():
        if tensor.shape[-1] != table[part].shape[1]:
            has, needs = tensor.shape[-1], table[part].shape[1]
            raise LorasmithError(f"concepts.init: {path} has vectors of width {has}; this base needs {needs}")
        if len(tensor) != concept.vectors:
            remedy = f"set vectors = {len(tensor)}"
            raise LorasmithError(f"concepts.init: {path} has {len(tensor)} vectors, not {concept.vectors}; {remedy}")
        if tensor.dim() == 3 and (tensor.shape[1] != layers or not concept.layerwise):
            remedy = "set layerwise = true" if tensor.shape[1] == layers else f"this base has {layers}"
            raise LorasmithError(f"concepts.init: {path} has vectors for {tensor.shape[1]} layers; {remedy}")
    return found
