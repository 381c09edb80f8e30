"""OFT and BOFT compute what their papers write, in fewer operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.boft import BOFT
from lorasmith.adapters.oft import OFT, RotationAdapter


def cayley(adapter: RotationAdapter) -> Tensor:
    """(I + Q)(I - Q)^-1 of each block, as the papers write it."""
    q = adapter.skew()
    one = torch.eye(q.shape[-1])
    return (one + q) @ torch.linalg.inv(one - q)


def butterfly(adapter: RotationAdapter, weight: Tensor) -> Tensor:
    """BOFT stage by stage: permute the outputs, rotate blocks of neighbours, permute back (arXiv 2311.06243)."""
    outputs, size = len(weight), adapter.blocks.shape[-1]
    for stage, rotations in enumerate(cayley(adapter)):
        stride = 2**stage * size // 2
        order = torch.arange(outputs).view(-1, 2, stride).transpose(1, 2).flatten()
        rotated = torch.block_diag(*rotations) @ weight[order]
        weight = torch.empty_like(weight)
        weight[order] = rotated
    return weight


def random_adapter(kind: type[OFT] | type[BOFT], shape: tuple[int, ...]) -> tuple[RotationAdapter, Tensor]:
    """An adapter that has learned something, and a weight."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    adapter = kind().build(LayerSpec("layer", "conv" if len(shape) == 4 else "linear", shape), weight, generator)
    assert isinstance(adapter, RotationAdapter)
    with torch.no_grad():
        adapter.blocks.normal_(0, 0.2, generator=generator)
    return adapter, weight


@pytest.mark.parametrize("outputs", [32, 48, 64, 320, 640])
def test_boft_is_its_stages(outputs: int) -> None:
    adapter, weight = random_adapter(BOFT, (outputs, 12))
    torch.testing.assert_close(adapter.rotate(weight), butterfly(adapter, weight), rtol=1e-4, atol=1e-5)


def test_boft_on_a_convolution_is_boft_on_its_matrix() -> None:
    adapter, weight = random_adapter(BOFT, (32, 4, 3, 3))
    expected = butterfly(adapter, weight.flatten(1)).view_as(weight)
    torch.testing.assert_close(adapter.rotate(weight), expected, rtol=1e-4, atol=1e-5)


def test_oft_is_a_block_diagonal_rotation() -> None:
    adapter, weight = random_adapter(OFT, (64, 12))
    expected = torch.block_diag(*cayley(adapter)).T @ weight
    torch.testing.assert_close(adapter.rotate(weight), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [OFT, BOFT])
def test_a_new_rotation_changes_nothing(kind: type[OFT] | type[BOFT]) -> None:
    adapter, weight = random_adapter(kind, (64, 12))
    with torch.no_grad():
        adapter.blocks.zero_()
    assert torch.equal(adapter.rotate(weight), weight)
