"""LoRA that starts from what its layers see."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.dora import DoRA
from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run
from lorasmith.training.setup.eva import MAX_ROWS, MAX_STEPS, Sketch, down_factor, weight_inputs
from lorasmith.training.step.batches import micro_batches, rank_share
from lorasmith.training.step.loop import remaining_steps


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


def keeping(rows: list[torch.Tensor]) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
    return lambda _, arguments: rows.append(arguments[0].detach().flatten(0, -2))


def test_a_stream_of_inputs_gives_the_directions_of_all_together() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(20, 20))[0]
    sizes = torch.tensor([9.0, 6.0, 4.0] + [0.1] * 17)
    parts = [torch.randn(MAX_ROWS // 2, 20) * sizes @ basis.T for _ in range(6)]
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
    assert torch.allclose(weight_inputs(spec, x) @ weight.flatten(1).T, wanted, atol=1e-4)


@pytest.mark.slow_except("lora")
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_it_starts_as_the_base_with_orthonormal_rows_and_the_same_each_time(
    kind: str, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    images = pictures(4)
    first, again = (run_of(images, tmp_path / name, kind=kind) for name in ("a", "b"))
    plain = run_of(images, tmp_path / "c", kind=kind, init="kaiming")
    assert any(name.startswith("te.") for name in first.adapters.adapters)
    for name, adapter in first.adapters.adapters.items():
        down = down_factor(adapter).detach().flatten(1)
        assert torch.allclose(down @ down.T, torch.eye(2), atol=1e-4), name
        assert torch.equal(down, down_factor(again.adapters.adapters[name]).flatten(1)), name
        assert not torch.allclose(down, down_factor(plain.adapters.adapters[name]).flatten(1)), name
        base = first.adapters.module_of(name).weight
        assert torch.allclose(adapter.delta(base), torch.zeros(()), atol=1e-6), name
    assert all(torch.equal(a, w) for a, w in zip(first.ema.average, first.ema.weights, strict=True))


def test_too_few_inputs_are_said(pictures: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="lower the rank"):
        run_of(pictures(1), tmp_path / "x", layers=["unet.time_embedding.*"], rank=64)


def test_it_spans_the_leading_inputs_that_the_base_sees(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """Against torch's SVD of all inputs of a layer, collected apart."""
    run = run_of(pictures(4), tmp_path / "x", rank=4)
    names = [n for n in run.adapters.adapters if n.endswith("to_q")][:2]
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for name in names:
        run.adapters.module_of(name).register_forward_pre_hook(keeping(seen[name]))
    with torch.no_grad():
        for number, (_, plans) in enumerate(islice(remaining_steps(run), min(MAX_STEPS, run.length.steps_per_epoch))):
            for batch, rng in micro_batches(run, rank_share(plans), number):
                run.objective(run.family, batch, rng)
    for name in names:
        inputs = torch.cat(seen[name])
        _, sizes, directions = torch.linalg.svd(inputs, full_matrices=False)
        down = down_factor(run.adapters.adapters[name]).detach()
        assert (inputs @ down.T).square().sum() >= 0.99 * sizes[:4].square().sum(), name
        assert (down[0] @ directions[0]).abs() >= 0.99, name


@pytest.mark.slow
def test_a_resumed_run_keeps_its_start(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """Bit for bit; the directions are looked for at step 0 only."""
    table: dict[str, Any] = {
        "base": "tiny-sd",
        "name": "garp",
        "steps": 4,
        "ema": 0.9,
        "data": {"images": str(pictures(4)), "resolution": 64, "batch_size": 2},
        "adapter": {"kind": "lora", "rank": 2, "init": "eva", "layers": "unet.mid_block.*", "dropout": 0.1},
        "optimizer": {"lr": 1e-3},
        "checkpoint": {"every_steps": 2, "keep": 3},
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        train(load_config(table | {"output": str(folder)}))
    (stopped / "garp.safetensors").unlink()
    last = stopped / "checkpoints" / "step-00000004" / "adapter.safetensors"
    last.write_bytes(last.read_bytes()[:-8])
    assert train(load_config(stopped / "config.toml"), resume=stopped).steps == 4
    first, second = (load_file(folder / "garp.safetensors") for folder in (whole, stopped))
    assert first.keys() == second.keys()
    assert all(torch.equal(t, second[name]) for name, t in first.items())


@pytest.mark.parametrize("over", ["loha", "lokr"])
def test_kinds_without_a_down_are_refused(over: str) -> None:
    with pytest.raises(ValueError, match=r'init "eva" .* over "lora"'):
        DoRA(over=over, init="eva")  # type: ignore[arg-type]
