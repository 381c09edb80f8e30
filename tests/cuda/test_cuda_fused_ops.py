"""The fused operations on a GPU against the plain ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.unit.families.fused_ops import LAYERS, Example, largest_error

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """float32 products in float32, not in TF32."""
    # not by monkeypatch, which cannot restore attributes that torch computes
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("linear_projection", [False, True])
def test_outputs_and_gradients_equal_those_of_the_plain_operations(layers: str, linear_projection: bool) -> None:
    example = Example("cuda", torch.float32, layers, linear_projection=linear_projection)
    expected = example.results(fused=False)
    assert largest_error(example.results(fused=True), expected) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_near_to_float32_as_the_plain_operations_are(dtype: torch.dtype) -> None:
    exact = Example("cuda", torch.float32, "all linear", linear_projection=False).results(fused=False)
    plain = Example("cuda", dtype, "all linear", linear_projection=False).results(fused=False)
    fused = Example("cuda", dtype, "all linear", linear_projection=False).results(fused=True)
    assert largest_error(fused, exact) < 1.2 * largest_error(plain, exact)
