"""The token embeddings that new tokens start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lorasmith.concepts.config import RANDOM_INIT, Concept
from lorasmith.concepts.vocabulary import Vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import torch_generator

VectorLookup = Callable[[str], Mapping[str, Tensor]]
"""The vectors that an `init` text stands for, by text encoder: those of existing tokens, (tokens, width), or those of a
file, which may be (vectors, layers, width)."""


def initial_vocabulary(
    concepts: Sequence[Concept], look_up: VectorLookup, size: int, layers: int, seed: int
) -> Vocabulary:
    """The vocabulary at step 0. `size`: number of tokens of the model; `layers`: number of its cross-attention layers.

    Raises LorasmithError if an `init` text has no tokens, or if two concepts share a word.
    """
    words: list[str] = []
    vectors: list[dict[str, Tensor]] = []
    concept_numbers: list[int] = []
    for concept_number, concept in enumerate(concepts):
        depth = layers if concept.layerwise else 1
        for index, word in enumerate(concept.words):
            initial = _initial_vectors(concept.init_of(index), word, concept.vectors, look_up, seed)
            # Vectors without layers start the same in every layer.
            with_layers = {
                part: tensor if tensor.dim() == 3 else tensor[:, None].repeat(1, depth, 1)
                for part, tensor in initial.items()
            }
            words.append(word)
            vectors.append(with_layers)
            concept_numbers.append(concept_number)
    return Vocabulary(words, vectors, size, layers, concept_numbers)


def _initial_vectors(init: str, word: str, count: int, look_up: VectorLookup, seed: int) -> dict[str, Tensor]:
    """The vectors of one word by text encoder: (count, width), or (count, layers, width)."""
    random_init = RANDOM_INIT.fullmatch(init)
    if random_init is not None:
        std = float(random_init.group(1))
        vectors: dict[str, Tensor] = {}
        for part, existing in look_up("a").items():  # any existing token tells the width
            generator = torch_generator(seed, "word", word, part)
            vectors[part] = torch.randn(count, existing.shape[1], generator=generator) * std
        return vectors

    existing_vectors = look_up(init)
    if any(len(tensor) == 0 for tensor in existing_vectors.values()):
        raise LorasmithError(
            f'concepts: the initial word "{init}" of {word} has no tokens; use a word that the model knows'
        )
    # If there are fewer existing tokens than vectors, they are repeated in turn.
    vectors = {}
    for part, existing in existing_vectors.items():
        rows = torch.arange(count) % len(existing)
        vectors[part] = existing[rows].detach().cpu().clone()
    return vectors
