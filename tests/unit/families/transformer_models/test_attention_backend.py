"""Flux never takes cuDNN's attention, whose backward pass reads outside of its memory in Flux's blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lorasmith.families.load import load
from tests.transformer_bases import write_flux


def test_flux_leaves_out_cudnn_also_where_blocks_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[bool] = []
    plain = F.scaled_dot_product_attention

    def recorded(*inputs: Any, **named: Any) -> Any:
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return plain(*inputs, **named)

    family = load(write_flux(tmp_path / "flux"))
    with torch.no_grad():
        conditioning = family.encode_text(["a cat"])
    family.denoiser.train()
    family.checkpoint_gradients(True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    x = torch.randn(1, 16, 4, 4, requires_grad=True)
    family.predict(x, torch.tensor([0.5]), conditioning).sum().backward()
    blocks = sum(len(family.denoiser.get_submodule(name)) for name in type(family).block_lists)  # type: ignore[arg-type,attr-defined]
    assert len(allowed) == 2 * blocks
    assert not any(allowed)
    assert torch.backends.cuda.cudnn_sdp_enabled()
