"""The density of word vectors against the plain sums, in float64."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lorasmith.concepts import Vocabulary, density
from lorasmith.concepts.density import Density
from lorasmith.families.load import load
from lorasmith.training.step.objectives.terms.kde import KernelDensity


def plain(x: np.ndarray, table: np.ndarray, bandwidth: float) -> np.ndarray:
    """(n, width): the mean over rows of the normal density, written out."""
    u = (x[:, None] - table[None]) / bandwidth
    return (np.exp(-0.5 * u**2) / (np.sqrt(2 * np.pi) * bandwidth)).mean(1)


@pytest.mark.parametrize("bandwidth", [0.5, 0.08, 0.01])
@pytest.mark.parametrize("spread", [0.02, 0.3])
@pytest.mark.parametrize("piece", [1 << 22, 100])
def test_it_is_the_mean_of_the_kernels(
    bandwidth: float, spread: float, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(density, "CHUNK_SIZE", piece)
    torch.manual_seed(0)
    table = 0.02 * torch.randn(300, 7, dtype=torch.float64) + 0.01 * torch.arange(7)
    x = (spread * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    found = Density(table, bandwidth)
    assert found.wide is (bandwidth > 0.05)
    with torch.no_grad():
        x.clamp_(-found.limit, found.limit)
    logs = found.log(x)
    reference = x.detach().clone().requires_grad_()
    away = -(reference[:, None] - table).square() / (2 * bandwidth**2)
    wanted = away.logsumexp(1) - np.log(300)
    assert torch.allclose(logs, wanted, rtol=1e-8, atol=1e-8)
    if spread < 3 * bandwidth:
        normal = logs.detach().exp() / (bandwidth * np.sqrt(2 * np.pi))
        assert np.allclose(normal, plain(x.detach().numpy(), table.numpy(), bandwidth), rtol=1e-8)
    logs.sin().sum().backward()
    wanted.sin().sum().backward()
    assert torch.allclose(x.grad, reference.grad, rtol=1e-6, atol=1e-6)


def test_far_away_it_stays_finite_and_pulls_back() -> None:
    table = 0.02 * torch.randn(50, 4)
    for bandwidth in (0.5, 0.01):
        x = torch.tensor([[1e3, -1e3, 30.0, 0.0]]).requires_grad_()
        logs = Density(table, bandwidth).log(x)
        assert logs.isfinite().all()
        (-logs.sum()).backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad[0, 0] > 0 > x.grad[0, 1]


def model(table: torch.Tensor, *shapes: tuple[int, ...]) -> Any:
    vectors = [{"te": 0.05 * torch.randn(shape)} for shape in shapes]
    layers = max(shape[1] for shape in shapes)
    words = Vocabulary([f"<{i}>" for i in range(len(shapes))], vectors, len(table), layers)
    return SimpleNamespace(vocabulary=words, embedding_tables=lambda: {"te": table})


@pytest.mark.parametrize("dimensions", ["sum", "product"])
def test_the_term_is_that_of_the_research_branch(dimensions: Any) -> None:
    """One row after the other, as there: kernel, mean over rows, sum over dimensions, -log, sum over rows."""
    torch.manual_seed(1)
    table = 0.015 * torch.randn(400, 12)
    family = model(table, (2, 4, 12), (1, 1, 12))  # one word a vector for each layer, one of one for all
    part = KernelDensity(dimensions=dimensions)
    found = part(None, None, family)  # type: ignore[arg-type]
    wanted = 0.0
    for word in family.vocabulary.values:
        for row in word["te"].detach().double().numpy().reshape(-1, 12):
            means = plain(row[None], table.double().numpy(), 0.5)[0]
            highest = 1 / (np.sqrt(2 * np.pi) * 0.5)  # of a kernel: a constant that we leave out
            original = -np.log(means.sum()) if dimensions == "sum" else -np.log(means).sum()
            wanted += original + (np.log(12 * highest) if dimensions == "sum" else 12 * np.log(highest))
    assert float(found.detach()) == pytest.approx(0.002 * wanted, rel=1e-6)
    assert float(found.detach()) > 0
    found.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in family.vocabulary.parameters())


def test_it_is_fast_and_lean_enough_for_each_step() -> None:
    """A quarter of SD 1.x's rows, two words with 16 layers: all of it takes less than the plain sum of one vector."""
    torch.manual_seed(0)
    table = 0.014 * torch.randn(12_352, 768)
    family = model(table, (1, 16, 768), (1, 16, 768))
    part = KernelDensity()
    part(None, None, family)  # type: ignore[arg-type]
    started = time.perf_counter()
    part(None, None, family).backward()  # type: ignore[arg-type]
    term = time.perf_counter() - started
    row = next(iter(family.vocabulary.parameters()))[0, 0].detach()
    started = time.perf_counter()
    torch.exp(-0.5 * ((row - table) / 0.5).square()).mean(0)
    assert term < time.perf_counter() - started


def test_a_base_gives_its_table() -> None:
    family = load("tiny-sd", dtype=torch.float32)
    own = family.embedding_tables()
    width = own["te"].shape[1]
    learned = Vocabulary(["<a>"], [{"te": torch.full((1, width), 0.3)}], len(own["te"]))
    family.learn(learned)
    part = KernelDensity(bandwidth=0.01, dimensions="product")
    before = part(None, None, family)  # type: ignore[arg-type]
    before.backward()
    (vector,) = learned.parameters()
    assert vector.grad is not None
    with torch.no_grad():
        vector -= 0.05 * vector.grad.sign()
    assert float(part(None, None, family).detach()) < float(before.detach())  # type: ignore[arg-type]
    family.learn(None)
