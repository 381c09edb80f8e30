"""The ridge is chosen by inputs that the fit has not seen."""

from __future__ import annotations

import torch
from torch import Tensor

from lorasmith.fusion.closed_form import Factors, LayerRegression, squared_output_error
from lorasmith.fusion.ridge_choice import DEFAULT_RIDGE, MAX_LAYERS, RIDGES, choose_ridge

WIDTH = 24


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def material(rows: int) -> tuple[list[Factors], list[Tensor], list[Tensor]]:
    """The changes of two concepts, the few inputs that they are fitted to, and many others of the same distribution."""
    changes = [(drawn(8, 3, seed=i), drawn(3, WIDTH, seed=10 + i)) for i in range(2)]
    # Both concepts have large inputs in the same few directions, and small ones in all.
    shared = drawn(3, WIDTH, seed=20)
    fitted, others = (
        [drawn(n, 3, seed=s + i) @ shared + 0.3 * drawn(n, WIDTH, seed=s + 5 + i) for i in range(2)]
        for n, s in ((rows, 30), (500, 40))
    )
    return changes, fitted, others


def regression_of(changes: list[Factors], inputs: list[Tensor]) -> LayerRegression:
    regression = LayerRegression()
    for change, own in zip(changes, inputs, strict=True):
        regression.add_concept(change, own.T @ own / len(own))
    return regression


def missed(fused: Factors, changes: list[Factors], inputs: list[Tensor]) -> float:
    pairs = [squared_output_error(fused, change, own) for change, own in zip(changes, inputs, strict=True)]
    return sum(error / size for error, size in pairs)


def test_few_inputs_need_a_larger_ridge_than_many() -> None:
    chosen: list[float] = []
    for rows in (11, 4000):
        changes, fitted, others = material(rows)
        chosen.append(choose_ridge({"a": regression_of(changes, fitted)}, [{"a": own} for own in others]))
    assert chosen[0] > 3 * chosen[1]


def test_the_choice_misses_least_of_what_was_held_out() -> None:
    changes, fitted, others = material(11)
    regression = regression_of(changes, fitted)
    chosen = choose_ridge({"a": regression}, [{"a": own} for own in others])
    errors = {ridge: missed(regression.solve(ridge), changes, others) for ridge in RIDGES}
    assert errors[chosen] == min(errors.values())
    assert errors[chosen] < 0.9 * errors[RIDGES[0]]


def test_a_concept_of_small_effect_counts_as_much() -> None:
    """A change that is a hundred times as large does not decide alone."""
    changes, fitted, others = material(11)
    sketches = [{"a": own} for own in others]
    plain = choose_ridge({"a": regression_of(changes, fitted)}, sketches)
    for large in range(2):
        scaled = [(100 * up, down) if i == large else (up, down) for i, (up, down) in enumerate(changes)]
        regression = regression_of(scaled, fitted)
        errors = {ridge: missed(regression.solve(ridge), scaled, others) for ridge in RIDGES}
        assert errors[choose_ridge({"a": regression}, sketches)] == min(errors.values())
    assert plain in RIDGES


def test_without_inputs_there_is_nothing_to_choose_by() -> None:
    changes, fitted, others = material(11)
    assert choose_ridge({"a": regression_of(changes, fitted)}, []) == DEFAULT_RIDGE
    silent = regression_of(changes, [torch.zeros(1, WIDTH)] * 2)
    assert choose_ridge({"a": silent}, [{"a": own} for own in others]) == DEFAULT_RIDGE


def test_only_some_of_many_layers_are_tried() -> None:
    changes, fitted, others = material(11)
    tried: list[float] = []

    class Counted(LayerRegression):
        def solve(self, ridge: float) -> Factors:
            tried.append(ridge)
            return super().solve(ridge)

    regressions: dict[str, LayerRegression] = {}
    for index in range(3 * MAX_LAYERS + 1):
        regressions[str(index)] = regression = Counted()
        for change, own in zip(changes, fitted, strict=True):
            regression.add_concept(change, own.T @ own)
    sketch = [dict.fromkeys(regressions, own) for own in others]
    choose_ridge(regressions, sketch)
    assert len(tried) <= MAX_LAYERS * len(RIDGES)
