"""The values of all loss terms, from one pass of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorasmith.core.deferred_torch import torch
from lorasmith.training.step.objectives.terms.base import LossTerm

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.data.dataset import Batch
    from lorasmith.families.base import Family


def predict_with_terms(
    family: Family, x_t: Tensor, t: Tensor, batch: Batch, terms: Sequence[LossTerm]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The network's output, and the values of the loss terms by name.

    Attention maps are computed only if a term needs some. Without new tokens there are no terms.
    """
    assert batch.conditioning is not None
    new_tokens = family.new_token_index(batch.conditioning)
    if new_tokens is None or family.vocabulary is None:
        return family.predict(x_t, t, batch.conditioning), {}

    from lorasmith.families.stable_diffusion.attention_maps import CrossAttentionMaps, record_maps

    # The maps of all terms are recorded in one pass, then each term gets its share.
    columns = [term.columns(new_tokens, family.vocabulary) for term in terms]
    all_columns = torch.cat(columns, 1)
    if all_columns.shape[1]:
        with record_maps(family.denoiser, all_columns, (x_t.shape[2], x_t.shape[3])) as maps:
            output = family.predict(x_t, t, batch.conditioning)
    else:
        output = family.predict(x_t, t, batch.conditioning)
        maps = CrossAttentionMaps(all_columns, (1, 1))

    shares = maps.split([wanted.shape[1] for wanted in columns])
    values: dict[str, Tensor] = {}
    for (name, term), share in zip(terms_by_name(terms).items(), shares, strict=True):
        values[name] = term(share, batch, family)
    return output, values


def terms_by_name(terms: Sequence[LossTerm]) -> dict[str, LossTerm]:
    """Terms by kind; the second of a kind is `kind_2`."""
    named: dict[str, LossTerm] = {}
    counts: dict[str, int] = {}
    for term in terms:
        kind = str(getattr(term, "kind", type(term).__name__))
        counts[kind] = counts.get(kind, 0) + 1
        named[kind if counts[kind] == 1 else f"{kind}_{counts[kind]}"] = term
    return named
