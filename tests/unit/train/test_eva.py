"""LoRA that starts from what its layers see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lorasmith.adapters.attach import current
from lorasmith.adapters.base import LayerSpec
from lorasmith.core.errors import LorasmithError
from lorasmith.train.build import build_run
from lorasmith.train.config import load_config
from lorasmith.train.eva import ROWS, Sketch, factor_of, inputs_of


def run_of(images: Path, output: Path, **adapter: Any) -> Any:
    table = {
        "base": "tiny-sd",
        "output": str(output),
        "steps": 4,
        "ema": 0.9,
        "data": {"images": str(images), "resolution": 64, "batch_size": 2},
        "adapter": {"kind": "lora", "rank": 2, "init": "eva", "layers": ["unet.mid_block.*", "te*.q_proj"]} | adapter,
        "optimizer": {"lr": 1e-3, "text_lr": 1e-3},
    }
    run = build_run(load_config(table), overwrite=True)
    run.events.close()
    run.adapters.detach()
    return run


def test_a_stream_of_inputs_gives_the_directions_of_all_together() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(20, 20))[0]
    sizes = torch.tensor([9.0, 6.0, 4.0] + [0.1] * 17)
    parts = [torch.randn(ROWS // 2, 20) * sizes @ basis.T for _ in range(6)]
    sketch = Sketch(6)
    for part in parts:
        sketch.add(part)
    whole = torch.linalg.svd(torch.cat(parts), full_matrices=False).Vh[:3]
    found = sketch.directions(3)
    assert torch.allclose((found @ whole.T).abs(), torch.eye(3), atol=1e-2)
    assert torch.allclose(found @ found.T, torch.eye(3), atol=1e-5)


def test_patches_are_what_a_convolution_multiplies() -> None:
    spec = LayerSpec("unet.x", "conv", (5, 3, 3, 3), (2, 2), (1, 1), (1, 1), 1, False)
    x, weight = torch.randn(2, 3, 8, 6), torch.randn(5, 3, 3, 3)
    wanted = F.conv2d(x, weight, None, 2, 1).flatten(2).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(inputs_of(spec, x) @ weight.flatten(1).T, wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_it_starts_as_the_base_with_orthonormal_rows_and_the_same_each_time(
    kind: str, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    images = pictures(4)
    first, again = (run_of(images, tmp_path / name, kind=kind) for name in ("a", "b"))
    plain = run_of(images, tmp_path / "c", kind=kind, init="kaiming")
    assert any(name.startswith("te.") for name in first.adapters.adapters)
    for name, adapter in first.adapters.adapters.items():
        down = factor_of(adapter).detach().flatten(1)
        assert torch.allclose(down @ down.T, torch.eye(2), atol=1e-4), name
        assert torch.equal(down, factor_of(again.adapters.adapters[name]).flatten(1)), name
        assert not torch.allclose(down, factor_of(plain.adapters.adapters[name]).flatten(1)), name
        base = current(first.adapters._places[name]).weight
        assert torch.allclose(adapter.delta(base), torch.zeros(()), atol=1e-6), name
    assert all(torch.equal(a, w) for a, w in zip(first.ema.average, first.ema.weights, strict=True))


def test_too_few_inputs_are_said(pictures: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="lower the rank"):
        run_of(pictures(1), tmp_path / "x", layers=["unet.time_embedding.*"], rank=64)
