"""What new words start as."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lorasmith.concepts.config import RANDOM, Concept
from lorasmith.concepts.vocabulary import Vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import torch_generator

OwnVectors = Callable[[str], Mapping[str, Tensor]]
"""The vectors that an initial word stands for, by text encoder: a model's own, (tokens, width), or a file's, which may
be (vectors, layers, width)."""


def begin(concepts: Sequence[Concept], own: OwnVectors, size: int, layers: int, seed: int) -> Vocabulary:
    """The vocabulary at step 0. `size`: how many tokens the model has; `layers`: its cross-attention layers.

    Raises LorasmithError if an initial word is none, or two concepts share a word.
    """
    words, vectors, numbers = [], [], []
    for number, concept in enumerate(concepts):
        for index, word in enumerate(concept.words):
            first = _first(concept.init_of(index), word, concept.vectors, own, seed)
            depth = layers if concept.layerwise else 1
            words.append(word)
            numbers.append(number)
            vectors.append({part: t if t.dim() == 3 else t[:, None].repeat(1, depth, 1) for part, t in first.items()})
    return Vocabulary(words, vectors, size, layers, numbers)


def _first(init: str, word: str, count: int, own: OwnVectors, seed: int) -> dict[str, Tensor]:
    """(count, width), or (count, layers, width), by text encoder."""
    if drawn := RANDOM.fullmatch(init):
        like = own("a")
        return {
            part: torch.randn(count, t.shape[1], generator=torch_generator(seed, "word", word, part))
            * float(drawn.group(1))
            for part, t in like.items()
        }
    found = own(init)
    if any(len(t) == 0 for t in found.values()):
        raise LorasmithError(f'concepts: the initial word "{init}" of {word} has no tokens; give an existing word')
    return {part: t[torch.arange(count) % len(t)].detach().cpu().clone() for part, t in found.items()}
