"""AdamW without torch's compiler."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from lorasmith.training.step.eager_adamw import EagerAdamW


def trained(kind: type[torch.optim.Optimizer], **settings: Any) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """A weight after five steps, and the optimizer."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator).requires_grad_()
    optimizer = kind([{"params": [weight], "lr": 0.1, "name": "a"}], **settings)
    for _ in range(5):
        optimizer.zero_grad()
        (weight - 1).square().sum().backward()
        optimizer.step()
    return weight.detach(), optimizer


@pytest.mark.parametrize("fused", [True, False])
def test_it_is_torchs_adamw(fused: bool) -> None:
    expected, theirs = trained(torch.optim.AdamW, fused=fused)
    weight, ours = trained(EagerAdamW, fused=fused)
    assert torch.equal(weight, expected)
    state, other = ours.state_dict(), theirs.state_dict()
    assert state["param_groups"] == other["param_groups"]
    assert torch.equal(state["state"][0]["exp_avg_sq"], other["state"][0]["exp_avg_sq"])
    ours.load_state_dict(other)
    theirs.load_state_dict(state)


def test_it_does_not_import_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    original = builtins.__import__

    def noting(name: str, *args: Any, **kwargs: Any) -> Any:
        imported.append(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", noting)
    trained(EagerAdamW, fused=True)
    assert not [name for name in imported if name.startswith("torch._dynamo")]


def test_hooks_of_optimizers_are_called() -> None:
    _, optimizer = trained(EagerAdamW)
    calls: list[int] = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    optimizer.step()
    assert calls == [1]
