"""Keep new tokens where the model's token embeddings are: a density of these, by kernels (the research branch of
Mix-of-Show, `KDELoss`)."""

from __future__ import annotations

import math
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.concepts import Vocabulary
from lorasmith.concepts.density import Density
from lorasmith.data.dataset import Batch
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.attention_maps import CrossAttentionMaps
from lorasmith.training.step.objectives.terms.base import LossTerm

_DENSITIES: WeakKeyDictionary[Vocabulary, dict[float, dict[str, Density]]] = WeakKeyDictionary()
"""The densities of the model's token embeddings by bandwidth and text encoder, computed once for each vocabulary."""


class KernelDensity(LossTerm):
    """weight * sum over the vectors x of new words, and over text encoders, of -log of a density at x.

    In each dimension d the density is the mean over the model's own vectors e of a Gaussian kernel, p_d(x) = mean of
    exp(-(x_d - e_d)^2 / 2 bandwidth^2). With `dimensions = "sum"` the density is the mean of p_d over dimensions, as
    in the original but for a constant in its logarithm, which has no gradient: here the term is 0 at best. With
    `"product"` it is their product, that of independent dimensions, whose pull is far stronger.
    """

    kind: Literal["kde"] = "kde"
    weight: float = Field(default=0.002, gt=0)
    bandwidth: float = Field(default=0.5, gt=0)
    """The kernel's standard deviation. Token embeddings are about 0.01 to 0.03 in a dimension: with the original's 0.5
    all of them are one place, and the term pulls to their mean."""
    dimensions: Literal["sum", "product"] = "sum"

    def __call__(self, maps: CrossAttentionMaps, batch: Batch, family: Family) -> Tensor:
        vocabulary = family.vocabulary
        assert vocabulary is not None
        densities = self._densities(family, vocabulary)
        terms: list[Tensor] = []
        for word in vocabulary.values:
            for component, vectors in word.named_parameters():
                # (vectors, layers or 1, width) as rows; then log p_d, (rows, width)
                log_density = densities[component].log(vectors.flatten(0, 1))
                if self.dimensions == "sum":
                    terms.append(-(log_density.logsumexp(-1) - math.log(log_density.shape[-1])).sum())
                else:
                    terms.append(-log_density.sum(-1).sum())
        return self.weight * torch.stack(terms).sum().float()

    def _densities(self, family: Family, vocabulary: Vocabulary) -> dict[str, Density]:
        by_bandwidth = _DENSITIES.setdefault(vocabulary, {})
        if self.bandwidth not in by_bandwidth:
            tables = family.embedding_tables()
            by_bandwidth[self.bandwidth] = {part: Density(table, self.bandwidth) for part, table in tables.items()}
        return by_bandwidth[self.bandwidth]
