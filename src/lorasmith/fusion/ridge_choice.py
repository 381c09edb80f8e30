"""The strength of a regularisation, chosen by inputs that the fit has not seen.

The inputs of a few prompts leave many directions of a layer's inputs almost free. With a small ridge the regression
uses them to fit its own inputs a little better, and misses more of others. How much is too small depends on the layers,
the concepts and the prompts, so it is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lorasmith.fusion.closed_form import LayerRegression, OutputErrors

RIDGES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""The candidates."""

DEFAULT_RIDGE = 1e-2

MAX_LAYERS = 40
"""Layers of a stage that are tried: each costs a solution for each candidate."""


def choose_ridge(regressions: Mapping[str, LayerRegression], held_out: Sequence[Mapping[str, Tensor]]) -> float:
    """The candidate whose changes miss the smallest share of the concepts on `held_out`: for each concept a sketch of
    inputs for each layer. Concepts count alike, whatever the size of their effect. `DEFAULT_RIDGE` if there is nothing
    to choose by."""
    names = [name for name, regression in regressions.items() if regression.has_inputs]
    if not names or not held_out:
        return DEFAULT_RIDGE
    errors = OutputErrors()
    # Evenly spaced over the depth of the model.
    for name in names[:: -(-len(names) // MAX_LAYERS)]:
        regression = regressions[name]
        for ridge in RIDGES:
            sketches = [sketch[name] for sketch in held_out]
            errors.add(str(ridge), regression.solve(ridge), regression.changes, sketches)

    def missed(ridge: float) -> float:
        return sum(share**2 for share in errors.shares(str(ridge)))

    return min(RIDGES, key=missed)
