"""OFT and BOFT compute what their papers write, in fewer operations."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.boft import BOFT, rotated_by_halves, rotated_in_stages
from lorasmith.adapters.cayley import inverse, rotation_change
from lorasmith.adapters.layer import Adapted, spec_of
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


def random_skew(size: int, norm: float, count: int = 3) -> Tensor:
    """Skew-symmetric matrices in float64."""
    b = torch.randn(count, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    q = b - b.mT
    return norm * q / torch.linalg.matrix_norm(q, keepdim=True)


@pytest.mark.parametrize("size", [2, 5, 16, 17, 31, 32, 64])
@pytest.mark.parametrize("norm", [1e-4, 1.0, 50.0])
def test_the_cayley_transform_and_its_gradient_are_those_of_the_formula(size: int, norm: float) -> None:
    q = random_skew(size, norm).requires_grad_(True)
    one = torch.eye(size, dtype=torch.float64)
    expected = (one + q) @ torch.linalg.inv(one - q) - one
    found = rotation_change(q)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    towards = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(found, q, towards)[0], torch.autograd.grad(expected, q, towards)[0], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("norm", [1e-6, 0.1, 10.0])
def test_rotations_in_float32_are_exact_to_rounding(norm: float) -> None:
    """Of small rotations, too, whose change is a small part of the identity that it is added to."""
    q = random_skew(32, norm)
    exact, found = rotation_change(q), rotation_change(q.float()).double()
    assert (found - exact).norm() < 1e-6 * exact.norm()


def test_a_matrix_with_a_positive_symmetric_part_has_its_inverse() -> None:
    a = torch.eye(40, dtype=torch.float64) - random_skew(40, 30.0)
    torch.testing.assert_close(inverse(a) @ a, torch.eye(40, dtype=torch.float64).expand(3, -1, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [OFT, BOFT])
@pytest.mark.parametrize("layer", [nn.Linear(12, 64), nn.Linear(12, 64, bias=False), nn.Conv2d(12, 64, 3, padding=1)])
def test_outputs_are_turned_as_the_weight_is(kind: type[OFT] | type[BOFT], layer: nn.Module) -> None:
    """Also with the `rescale` that files of other trainers have, and beside a second adapter."""
    spec = spec_of("unet.x", layer.requires_grad_(False))
    assert spec is not None
    rotation, weight = random_adapter(kind, spec.shape)
    rescaled = kind().restore(spec, weight, {**rotation.tensors(), "rescale": 1 + 0.1 * torch.randn(64)})
    few = torch.randn(2, 12, 5, 6) if spec.kind == "conv" else torch.randn(2, 4, 12)
    many = torch.randn(4, 12, 10, 9) if spec.kind == "conv" else torch.randn(2, 50, 12)
    for adapters, x in itertools.product(([rotation], [rescaled], [rotation, rescaled]), (few, many)):
        adapted = Adapted(layer, spec)
        for adapter in adapters:
            adapted.add(adapter)
        expected = torch.func.functional_call(layer, {"weight": adapted.changed_weight()}, (x,))
        torch.testing.assert_close(adapted(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("outputs", "size", "stages"), [(80, 10, 4), (80, 10, 3), (48, 6, 2), (16, 16, 1), (64, 4, 5)])
def test_stages_in_two_halves_are_the_stages_one_after_the_other(outputs: int, size: int, stages: int) -> None:
    """Also where a file has fewer stages than could mix all outputs."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, outputs, 7, generator=generator, dtype=torch.float64)
    blocks = torch.randn(3, stages, outputs // size, size, size, generator=generator, dtype=torch.float64)
    changes = rotation_change(blocks - blocks.mT)
    torch.testing.assert_close(rotated_by_halves(weights, changes), rotated_in_stages(weights, changes))
