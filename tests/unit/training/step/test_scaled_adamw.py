"""AdamW on gradients that are divided by the other factor (arXiv 2402.02347)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorasmith.training.step.optimizers import AdamW
from lorasmith.training.step.optimizers.scaled_adamw import ScaledAdamW
from lorasmith.training.step.preconditioned_adamw import PreconditionedAdamW, inverse

DAMPING = 1e-3


def pair(seed: int = 0, rank: int = 3) -> tuple[nn.Parameter, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(7, rank, generator=generator), torch.randn(rank, 5, generator=generator)
    return nn.Parameter(up), nn.Parameter(down)


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e4])
@pytest.mark.parametrize("rank", [1, 3, 16])
def test_the_inverse_is_torchs(rank: int, size: float) -> None:
    factors = torch.randn(4, 24, rank, generator=torch.Generator().manual_seed(rank))
    matrices = size * factors.transpose(1, 2) @ factors
    exact = torch.linalg.inv(matrices.double()).float()
    torch.testing.assert_close(inverse(matrices), exact, rtol=1e-3, atol=1e-5 / size)


def test_a_step_is_adamw_on_the_preconditioned_gradients() -> None:
    up, down = pair()
    expected = [nn.Parameter(p.detach().clone()) for p in (up, down)]
    optimizer = ScaledAdamW(lr=0.01, damping=DAMPING).build_for([group(up, down)], [(up, down)])
    reference = AdamW(lr=0.01).build([group(*expected)])
    for step in range(3):
        up.grad, down.grad = pair(step + 1)[0].detach(), pair(step + 1)[1].detach()
        eye = DAMPING * torch.eye(3)
        old_up, old_down = (p.detach() for p in expected)
        expected[0].grad = up.grad @ torch.linalg.inv(old_down @ old_down.T + eye)
        expected[1].grad = torch.linalg.inv(old_up.T @ old_up + eye) @ down.grad
        optimizer.step()
        reference.step()
    torch.testing.assert_close([up.data, down.data], [p.data for p in expected], rtol=1e-4, atol=1e-5)


def test_the_first_step_does_not_depend_on_how_the_factors_share_the_scale() -> None:
    """The same product as up / 10 and 10 down: the gradients differ, the preconditioned change of the product not."""
    changes = []
    for scale in (1.0, 10.0):
        up, down = pair()
        up, down = nn.Parameter(up.data / scale), nn.Parameter(down.data * scale)
        (up @ down).square().sum().backward()
        assert up.grad is not None and down.grad is not None  # noqa: PT018
        PreconditionedAdamW([group(up, down)], [(up, down)], 1e-9)._precondition(3, [(up, down)])
        changes.append(up.grad @ down.data + up.data @ down.grad)
    torch.testing.assert_close(changes[0], changes[1], rtol=1e-3, atol=1e-4)


def test_a_factor_that_is_zero_moves_the_other_one_by_nothing() -> None:
    up, down = pair()
    up.data.zero_()
    before = down.detach().clone()
    up.grad, down.grad = pair(1)[0].detach(), torch.zeros_like(down)
    optimizer = ScaledAdamW(lr=0.01, weight_decay=0.0).build_for([group(up, down)], [(up, down)])
    optimizer.step()
    assert torch.equal(down.data, before)
    assert bool(up.isfinite().all())
    assert up.abs().max() > 0


def test_parameters_without_a_partner_get_plain_adamw() -> None:
    alone, twin = (nn.Parameter(torch.ones(3)) for _ in range(2))
    alone.grad, twin.grad = torch.arange(3.0), torch.arange(3.0)
    ScaledAdamW(lr=0.01).build([group(alone)]).step()
    AdamW(lr=0.01).build([group(twin)]).step()
    assert torch.equal(alone.data, twin.data)


def group(*parameters: nn.Parameter) -> dict[str, object]:
    return {"params": list(parameters), "lr": 0.01, "name": "unet"}
