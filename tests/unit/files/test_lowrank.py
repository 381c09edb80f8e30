"""Cuts are the best that torch's SVD finds, of matrices and of products."""

from __future__ import annotations

import math

import pytest
import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.files.lowrank import Cut, Dense, Loss, Product, Spectrum

SHAPES = [(24, 40), (40, 24), (30, 30)]


def both(shape: tuple[int, int]) -> tuple[list[Spectrum], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(shape[0], 9, generator=generator), torch.randn(9, shape[1], generator=generator)
    return [Dense(up @ down), Product(up, down)], (up.double() @ down.double())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_a_cut_has_the_least_error_that_there_is(shape: tuple[int, int], rank: int) -> None:
    spectra, matrix = both(shape)
    values = torch.linalg.svdvals(matrix)
    least = float(values[rank:].norm())
    for spectrum in spectra:
        up, down = spectrum.cut(rank)
        assert up.shape == (shape[0], rank)
        assert down.shape == (rank, shape[1])
        assert float((matrix - up.double() @ down.double()).norm()) == pytest.approx(least, rel=1e-5)
        assert math.sqrt(spectrum.lost(rank)) == pytest.approx(least, rel=1e-5)
        torch.testing.assert_close(spectrum.values[:9], values[:9], rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_exact_and_has_no_more_ranks_than_needed(shape: tuple[int, int]) -> None:
    spectra, matrix = both(shape)
    for spectrum in spectra:
        assert spectrum.full == 9
        up, down = spectrum.cut(100)
        assert up.shape[1] == 9
        assert float((matrix - up.double() @ down.double()).norm() / matrix.norm()) < 1e-6


def test_a_change_of_zero_stays_zero() -> None:
    for spectrum in (Dense(torch.zeros(5, 7)), Product(torch.zeros(5, 2), torch.randn(2, 7))):
        up, down = spectrum.cut(3)
        assert up.shape[1] == 1
        assert not (up @ down).any()
        assert Cut(energy=0.9).of(spectrum) == 1
    loss = Loss()
    loss.add("a", 0.0, 0.0)
    assert loss.error == 0


def diagonal(*values: float) -> Product:
    matrix = torch.diag(torch.tensor(values))
    return Product(matrix, torch.eye(len(values)))


def test_shares_count_squares_and_norms() -> None:
    spectrum = diagonal(4, 3, 2, 1)  # squares 16, 9, 4, 1 of 30
    assert [Cut(energy=e).of(spectrum) for e in (16 / 30, 0.54, 0.83, 0.84, 1.0)] == [1, 2, 2, 3, 4]
    assert [Cut(frobenius=math.sqrt(e) + 1e-6).of(spectrum) for e in (0.5, 0.84)] == [1, 3]
    assert Cut(rank=2, energy=0.99).of(spectrum) == 2


def test_one_rank_for_all_layers_or_each_its_own() -> None:
    spectra = {"a": diagonal(10, 9, 8, 7), "b": diagonal(1, 0.1, 0.1, 0.1)}
    assert Cut(rank=2).ranks(spectra) == {"a": 2, "b": 2}
    assert Cut(energy=0.9).ranks(spectra) == {"a": 4, "b": 4}
    assert Cut(energy=0.9, per_layer=True).ranks(spectra) == {"a": 4, "b": 1}
    assert Cut(rank=2, per_layer=True).ranks(spectra) == {"a": 3, "b": 1}


@pytest.mark.parametrize(
    ("cut", "words"),
    [({}, "how much"), ({"energy": 0.5, "frobenius": 0.5}, "same"), ({"rank": 0}, "1 or more"), ({"energy": 1.5}, "1")],
)
def test_a_cut_must_make_sense(cut: dict, words: str) -> None:
    with pytest.raises(LorasmithError, match=words):
        Cut(**cut)
