"""The fused change against least squares solved directly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lorasmith.fusion.closed_form import (
    Factors,
    LayerRegression,
    concatenate_factors,
    nearest_of_rank,
    solve_ridge,
    squared_output_error,
)
from lorasmith.fusion.inputs import SKETCH_ROWS, GramMatrices


def material(rank: int = 3, rows: int = 60) -> tuple[list[Factors], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    changes = [(draw(7, rank), draw(rank, 11)) for _ in range(3)]
    inputs = [draw(rows, 11) @ draw(11, 11) for _ in range(3)]
    return changes, inputs


def gram(x: Tensor) -> Tensor:
    return x.T @ x


def regress(
    changes: Sequence[Factors | None], grams: list[Tensor], ridge: float, kept: Tensor | None = None
) -> Factors:
    """One concept after the other, in float64."""
    sums = LayerRegression()
    for change, own in zip(changes, grams, strict=True):
        sums.add_concept(change, own.double().clone())
    if kept is not None:
        sums.add_preserved(kept.double())
    return sums.solve(ridge)


def test_it_solves_the_least_squares_problem() -> None:
    changes, inputs = material()
    up, down = regress(changes, [gram(x) for x in inputs], ridge=0)
    x = torch.cat(inputs).double()
    y = torch.cat([x_i.double() @ (u @ d).double().T for (u, d), x_i in zip(changes, inputs, strict=True)])
    expected = torch.linalg.lstsq(x, y).solution.T
    torch.testing.assert_close((up @ down).double(), expected, rtol=1e-4, atol=1e-4)
    assert down.shape == (9, 11), "the ranks add up"


def test_the_ridge_is_a_share_of_the_mean_diagonal_and_pulls_to_the_base() -> None:
    changes, inputs = material()
    grams = [gram(x) for x in inputs]
    up, down = regress(changes, grams, ridge=0.3)
    total = torch.stack(grams).sum(0).double()
    moved = sum((u @ d).double() @ g.double() for (u, d), g in zip(changes, grams, strict=True))
    damped = total + 0.3 * total.diagonal().mean() * torch.eye(11)
    torch.testing.assert_close((up @ down).double(), moved @ torch.linalg.inv(damped), rtol=1e-4, atol=1e-4)
    assert (up @ down).norm() < torch.mm(*regress(changes, grams, ridge=0)).norm()


def test_concepts_that_do_not_meet_are_kept_whole() -> None:
    changes, _ = material()
    basis = torch.linalg.qr(torch.randn(11, 11, generator=torch.Generator().manual_seed(1)))[0]
    inputs = [basis[i * 3 : i * 3 + 3] for i in range(3)]
    fused = regress(changes, [gram(x) for x in inputs], ridge=1e-9)
    for change, own in zip(changes, inputs, strict=True):
        lost, whole = squared_output_error(fused, change, own)
        assert lost < 1e-6 * whole
        lost, whole = squared_output_error(concatenate_factors(changes, 1 / 3), change, own)
        assert lost > 0.1 * whole


def test_a_concept_that_leaves_a_layer_alone_keeps_the_base_there() -> None:
    changes, inputs = material(rows=4)
    grams = [gram(x) for x in inputs]
    fused = regress([changes[0], None, changes[2]], grams, ridge=1e-9)
    assert fused[1].shape == (6, 11)
    alone = squared_output_error(fused, None, inputs[1])
    assert alone[0] < squared_output_error(concatenate_factors([changes[0], None, changes[2]]), None, inputs[1])[0]
    assert alone[1] == 0.0


def test_what_is_to_be_preserved_is() -> None:
    changes, inputs = material(rows=3)
    grams, kept = [gram(x) for x in inputs], gram(torch.ones(1, 11)) * 100
    free, bound = (regress(changes, grams, 1e-6, k) for k in (None, kept))
    at = torch.ones(11)
    assert (bound[0] @ (bound[1] @ at)).norm() < 0.1 * (free[0] @ (free[1] @ at)).norm()


def test_missed_is_the_share_of_outputs() -> None:
    changes, inputs = material()
    lost, whole = squared_output_error(changes[1], changes[0], inputs[0])
    first, second = (torch.mm(*pair) for pair in changes[:2])
    assert lost == pytest.approx(float(((second - first) @ inputs[0].T).square().sum()), rel=1e-4)
    assert whole == pytest.approx(float((first @ inputs[0].T).square().sum()), rel=1e-4)


def test_without_any_input_changes_are_added_up() -> None:
    changes, _ = material()
    up, down = regress(changes, [torch.zeros(11, 11)] * 3, 1e-3)
    torch.testing.assert_close(up @ down, sum(u @ d for u, d in changes), rtol=1e-4, atol=1e-4)


def test_the_nearest_change_of_a_rank_is_that_of_the_outputs() -> None:
    """Against the singular values of the outputs themselves (Eckart and Young)."""
    change, x = torch.randn(7, 11), torch.randn(60, 11) @ torch.randn(11, 11)
    outputs = change @ x.T
    for rank in (1, 3):
        up, down = nearest_of_rank(change, gram(x), 0, rank)
        assert up.shape == (7, rank)
        left = float((up @ down @ x.T - outputs).square().sum())
        assert left == pytest.approx(float(torch.linalg.svdvals(outputs)[rank:].square().sum()), rel=1e-3)
    up, down = nearest_of_rank(change, gram(x), 0, 99)
    torch.testing.assert_close(up @ down, change, rtol=1e-4, atol=1e-4)


def test_solved_is_the_damped_inverse() -> None:
    x, moved = torch.randn(30, 5), torch.randn(2, 5)
    total = gram(x)
    damped = total + 0.1 * total.diagonal().mean() * torch.eye(5)
    torch.testing.assert_close(solve_ridge(moved, total, 0.1), moved @ torch.linalg.inv(damped), rtol=1e-4, atol=1e-4)


def test_no_gram_matrix_is_kept() -> None:
    """One sum of them, whatever the number of concepts, and as many rows as they have ranks."""
    sums = LayerRegression()
    for _ in range(5):
        changes, inputs = material()
        sums.add_concept(changes[0], gram(inputs[0]))
    held = [t for value in vars(sums).values() for t in (value if isinstance(value, list) else [value])]
    own = sum(t.numel() for t in held if isinstance(t, Tensor))
    assert own == 11 * 11 + 5 * 3 * 11


def test_grams_and_sketches_of_the_inputs() -> None:
    few, many = torch.randn(SKETCH_ROWS - 5, 11), torch.randn(3000, 11) @ torch.randn(11, 11)
    grams = GramMatrices()
    grams.add("few", few[:20])
    grams.add("few", few[20:])
    for part in many.split(700):
        grams.add("many", part)
    sketch = grams.sketch("few", 11)
    torch.testing.assert_close(gram(sketch), gram(few) / len(few), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grams.pop("many", 11), gram(many) / len(many), rtol=1e-4, atol=1e-4)
    assert not grams.pop("many", 11).any(), "it is not kept"
    assert not grams.pop("none", 7).any()
    assert grams.sketch("none", 7).shape == (1, 7)
    change = torch.randn(5, 4), torch.randn(4, 11)
    exact = squared_output_error(change, None, many)[0] / len(many)
    assert squared_output_error(change, None, grams.sketch("many", 11))[0] == pytest.approx(exact, rel=0.5)
