"""The initial embeddings of new tokens: those of the model's own tokens, or of a file from an earlier training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lorasmith.concepts import Concept
from lorasmith.concepts.config import EMBEDDING_SUFFIXES
from lorasmith.concepts.initial_embeddings import VectorLookup
from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Family
from lorasmith.formats import embeddings


def initial_vectors(concepts: Sequence[Concept], family: Family, layers: int) -> VectorLookup:
    """A function from an `init` to its vectors by text encoder: (tokens, width), or (vectors, layers, width) of a file
    with vectors for each of the base's `layers` cross-attention layers.

    Raises LorasmithError if a file is missing, or does not fit its concept or the model.
    """
    files: dict[str, Mapping[str, Tensor]] = {}
    for concept in concepts:
        for init in concept.init:
            if Path(init).suffix.lower() in EMBEDDING_SUFFIXES:
                files[init] = read_embedding_file(init, concept, family, layers)

    def vectors_of(init: str) -> Mapping[str, Tensor]:
        return files[init] if init in files else family.token_embeddings(init)

    return vectors_of


def read_embedding_file(init: str, concept: Concept, family: Family, layers: int) -> Mapping[str, Tensor]:
    """The vectors of an embedding file by text encoder, checked against the concept and the base."""
    path = Path(init).expanduser()
    if not path.is_file():
        raise LorasmithError(f"concepts.init: {path}: file not found")
    _, vectors = embeddings.load(path)
    token_table = family.embedding_tables()
    if vectors.keys() != token_table.keys():
        raise LorasmithError(f"concepts.init: {path} was not made for a {family.kind} base")

    for component, tensor in vectors.items():
        width, base_width = tensor.shape[-1], token_table[component].shape[1]
        if width != base_width:
            raise LorasmithError(f"concepts.init: {path} has vectors of width {width}; this base needs {base_width}")
        if len(tensor) != concept.vectors:
            raise LorasmithError(
                f"concepts.init: {path} has {len(tensor)} vectors, not {concept.vectors}; set vectors = {len(tensor)}"
            )
        has_layers = tensor.dim() == 3
        if has_layers and (tensor.shape[1] != layers or not concept.layerwise):
            remedy = "set layerwise = true" if tensor.shape[1] == layers else f"this base has {layers}"
            raise LorasmithError(f"concepts.init: {path} has vectors for {tensor.shape[1]} layers; {remedy}")
    return vectors
