"""Keep new words where the model's own words are: a density of the token embeddings, by kernels (the research branch of
Mix-of-Show, `KDELoss`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.concepts import Vocabulary
from lorasmith.concepts.density import Density
from lorasmith.data.dataset import Batch
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.attention_maps import Maps
from lorasmith.training.step.objectives.terms.base import ObjectivePart

_DENSITIES: WeakKeyDictionary[Vocabulary, dict[float, dict[str, Density]]] = WeakKeyDictionary()
"""What is computed once of the model's own words, for each set of new ones and each bandwidth."""


class KernelDensity(ObjectivePart):
    """weight * sum over the vectors x of new words, and over text encoders, of -log of a density at x.

    In each dimension d the density is the mean over the model's own vectors e of a Gaussian kernel, p_d(x) = mean of
    exp(-(x_d - e_d)^2 / 2 bandwidth^2). With `dimensions = "sum"` the density is the mean of p_d over dimensions, as
    in the original but for a constant in its logarithm, which has no gradient: here the term is 0 at best. With
    `"product"` it is their product, that of independent dimensions, whose pull is far stronger.
    """

    kind: Literal["kde"] = "kde"
    weight: float = Field(default=0.002, gt=0)
    bandwidth: float = Field(default=0.5, gt=0)
    """The kernel's standard deviation. Token embeddings are about 0.01 to 0.03 in a dimension: the original's 0.5 sees
    them all as one place, and pulls to their mean."""
    dimensions: Literal["sum", "product"] = "sum"

    def __call__(self, maps: Maps, batch: Batch, family: Family) -> Tensor:
        vocabulary = family.vocabulary
        assert vocabulary is not None
        densities = self.densities(family, vocabulary)
        terms = [
            -_joined(densities[part].log(vectors), self.dimensions).sum() for part, vectors in vectors_of(vocabulary)
        ]
        return self.weight * torch.stack(terms).sum().float()

    def densities(self, family: Family, vocabulary: Vocabulary) -> dict[str, Density]:
        """Of each text encoder's own vectors; made once."""
        kept = _DENSITIES.setdefault(vocabulary, {})
        if self.bandwidth not in kept:
            kept[self.bandwidth] = {
                part: Density(own, self.bandwidth) for part, own in family.embedding_tables().items()
            }
        return kept[self.bandwidth]


def vectors_of(vocabulary: Vocabulary) -> Iterator[tuple[str, Tensor]]:
    """Each word's vectors, (vectors * layers or 1, width), by text encoder."""
    for word in vocabulary.values:
        for part, vectors in word.named_parameters():
            yield part, vectors.flatten(0, 1)


def _joined(logs: Tensor, dimensions: Literal["sum", "product"]) -> Tensor:
    """From log p_d (rows, width) to the log of the density (rows,)."""
    if dimensions == "sum":
        return logs.logsumexp(-1) - math.log(logs.shape[-1])
    return logs.sum(-1)
