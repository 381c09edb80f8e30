"""Cuts are the best that torch's SVD finds, of matrices and of products."""

from __future__ import annotations

import math

import pytest
import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.files.lowrank import MatrixSvd, ProductSvd, Svd, Truncation, TruncationErrors

SHAPES = [(24, 40), (40, 24), (30, 30)]


def both(shape: tuple[int, int]) -> tuple[list[Svd], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(shape[0], 9, generator=generator), torch.randn(9, shape[1], generator=generator)
    return [MatrixSvd(up @ down), ProductSvd(up, down)], (up.double() @ down.double())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_a_cut_has_the_least_error_that_there_is(shape: tuple[int, int], rank: int) -> None:
    spectra, matrix = both(shape)
    values = torch.linalg.svdvals(matrix)
    least = float(values[rank:].norm())
    for spectrum in spectra:
        up, down = spectrum.truncate(rank)
        assert up.shape == (shape[0], rank)
        assert down.shape == (rank, shape[1])
        assert float((matrix - up.double() @ down.double()).norm()) == pytest.approx(least, rel=1e-5)
        assert math.sqrt(spectrum.squared_error(rank)) == pytest.approx(least, rel=1e-5)
        torch.testing.assert_close(spectrum.singular_values[:9], values[:9], rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_exact_and_has_no_more_ranks_than_needed(shape: tuple[int, int]) -> None:
    spectra, matrix = both(shape)
    for spectrum in spectra:
        assert spectrum.numerical_rank == 9
        up, down = spectrum.truncate(100)
        assert up.shape[1] == 9
        assert float((matrix - up.double() @ down.double()).norm() / matrix.norm()) < 1e-6


def test_a_change_of_zero_stays_zero() -> None:
    for spectrum in (MatrixSvd(torch.zeros(5, 7)), ProductSvd(torch.zeros(5, 2), torch.randn(2, 7))):
        up, down = spectrum.truncate(3)
        assert up.shape[1] == 1
        assert not (up @ down).any()
        assert Truncation(energy=0.9).rank_for(spectrum) == 1
    loss = TruncationErrors()
    loss.add("a", 0.0, 0.0)
    assert loss.relative_error == 0


def diagonal(*values: float) -> ProductSvd:
    matrix = torch.diag(torch.tensor(values))
    return ProductSvd(matrix, torch.eye(len(values)))


def test_shares_count_squares_and_norms() -> None:
    spectrum = diagonal(4, 3, 2, 1)  # squares 16, 9, 4, 1 of 30
    assert [Truncation(energy=e).rank_for(spectrum) for e in (16 / 30, 0.54, 0.83, 0.84, 1.0)] == [1, 2, 2, 3, 4]
    assert [Truncation(frobenius=math.sqrt(e) + 1e-6).rank_for(spectrum) for e in (0.5, 0.84)] == [1, 3]
    assert Truncation(rank=2, energy=0.99).rank_for(spectrum) == 2


def test_one_rank_for_all_layers_or_each_its_own() -> None:
    spectra = {"a": diagonal(10, 9, 8, 7), "b": diagonal(1, 0.1, 0.1, 0.1)}
    assert Truncation(rank=2).ranks(spectra) == {"a": 2, "b": 2}
    assert Truncation(energy=0.9).ranks(spectra) == {"a": 4, "b": 4}
    assert Truncation(energy=0.9, per_layer=True).ranks(spectra) == {"a": 4, "b": 1}
    assert Truncation(rank=2, per_layer=True).ranks(spectra) == {"a": 3, "b": 1}


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        ({}, "no rank is given"),
        ({"energy": 0.5, "frobenius": 0.5}, "two forms"),
        ({"rank": 0}, "1 or more"),
        ({"energy": 1.5}, "1"),
    ],
)
def test_a_cut_must_make_sense(cut: dict, words: str) -> None:
    with pytest.raises(LorasmithError, match=words):
        Truncation(**cut)
