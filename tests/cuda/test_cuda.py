"""What only a GPU can show. Run with: pytest -m cuda"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lorasmith.adapters import AdapterConfig
from lorasmith.core.registry import registered
from lorasmith.training.config import load_config
from lorasmith.training.session import train

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def run(images: Path, output: Path, **changes: Any) -> list[float]:
    table: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "steps": 8,
        "data": {"images": str(images), "resolution": 128, "batch_size": 2},
        "adapter": {"rank": 4},
        "optimizer": {"lr": 1e-3},
        "log": {"tensorboard": False},
    }
    train(load_config(table | changes))
    return losses(output)


def test_losses_in_float32_equal_those_of_the_cpu(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(6, (150, 140))
    cpu = run(images, tmp_path / "cpu", device="cpu")
    for name, graph in (("eager", False), ("graph", True)):
        assert run(images, tmp_path / name, device="cuda", cuda_graph=graph) == pytest.approx(cpu, rel=2e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("graph", [False, True])
def test_low_precision_stays_finite_and_close(
    pictures: Callable[..., Path], tmp_path: Path, precision: str, graph: bool
) -> None:
    images = pictures(6, (150, 140))
    exact = run(images, tmp_path / "exact", device="cuda", cuda_graph=False)
    rounded = run(images, tmp_path / "rounded", device="cuda", precision=precision, cuda_graph=graph)
    assert len(rounded) == len(exact)
    assert rounded == pytest.approx(exact, rel=0.05)


def test_a_graph_trains_as_eager_steps_do(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """Also with several buckets, and with batches of different sizes at the end of an epoch."""
    images = pictures(5, (150, 140))
    pictures(3, (190, 100), "images/wide")
    changes: dict[str, Any] = {"device": "cuda", "steps": 24}
    table = {"data": {"images": str(images), "resolution": 128, "batch_size": 2, "recursive": True}}
    eager = run(images, tmp_path / "eager", cuda_graph=False, **changes, **table)
    graph = run(images, tmp_path / "graph", cuda_graph=True, **changes, **table)
    assert graph == pytest.approx(eager, rel=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("graph", [False, True])
def test_deterministic_runs_are_equal_to_the_bit(
    pictures: Callable[..., Path], tmp_path: Path, precision: str, graph: bool
) -> None:
    from lorasmith.files.compare import compare

    images = pictures(6, (150, 140))
    changes: dict[str, Any] = {"device": "cuda", "steps": 30, "precision": precision, "cuda_graph": graph}
    for name in ("one", "two"):
        data = {"images": str(images), "resolution": 128, "batch_size": 2, "cache_dir": str(tmp_path / f"{name}-cache")}
        run(images, tmp_path / name, deterministic=True, name="a", data=data, **changes)
    result = compare(tmp_path / "one" / "a.safetensors", tmp_path / "two" / "a.safetensors")
    assert result.identical, result


def test_resume_on_the_same_gpu(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(6, (150, 140))
    changes: dict[str, Any] = {"device": "cuda", "steps": 10, "checkpoint": {"every_steps": 5, "keep": 2}}
    whole = run(images, tmp_path / "whole", **changes)
    run(images, tmp_path / "parted", **changes)
    parted = tmp_path / "parted"
    (parted / "checkpoints" / "step-00000010" / "state.json").unlink()
    train(load_config(parted / "config.toml"), resume=parted)
    assert losses(parted) == pytest.approx(whole, rel=1e-3)


def test_adamw8bit(pictures: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    found = run(pictures(4, (150, 140)), tmp_path / "run", device="cuda", optimizer={"kind": "adamw8bit", "lr": 1e-3})
    assert len(found) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", [(2, 32, 16, 16), (1, 320, 64, 64), (3, 960, 9, 7), (2, 2560, 8, 8)])
def test_channels_last_group_norm(shape: tuple[int, ...], silu: bool, dtype: torch.dtype) -> None:
    from lorasmith.families.ops import group_norm

    torch.manual_seed(0)
    norm = nn.GroupNorm(8 if shape[1] == 32 else 32, shape[1]).cuda()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm = norm.to(dtype).requires_grad_(False)
    start = (torch.randn(shape, device="cuda") * 2 + 1).to(dtype)
    grad = torch.randn(shape, device="cuda").to(dtype)
    ours, theirs = start.clone().requires_grad_(), start.double().requires_grad_()
    assert group_norm.applies(norm, ours)
    out = group_norm.group_norm(norm, ours, silu)
    expected = group_norm.plain(norm.double(), theirs, silu)
    out.backward(grad)
    expected.backward(grad.double())
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert ours.grad is not None
    assert theirs.grad is not None
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=tolerance, atol=tolerance)


def test_adamw_in_8_bits_follows_adamw_and_resumes(pictures: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    images = pictures(6, (150, 140))
    changes: dict[str, Any] = {"device": "cuda", "steps": 12, "cuda_graph": False, "adapter": {"rank": 64}}
    exact = run(images, tmp_path / "exact", **changes)
    changes |= {"optimizer": {"kind": "adamw8bit", "lr": 1e-3}, "checkpoint": {"every_steps": 6, "keep": 2}}
    small = run(images, tmp_path / "small", **changes)
    assert small == pytest.approx(exact, rel=0.05)
    (tmp_path / "small" / "checkpoints" / "step-00000012" / "state.json").unlink()
    train(load_config(tmp_path / "small" / "config.toml"), resume=tmp_path / "small")
    assert losses(tmp_path / "small") == pytest.approx(small, rel=1e-3)


@pytest.mark.parametrize("kind", sorted(registered(AdapterConfig).keys() - {"full"}))
def test_each_kind_trains_in_graphs(pictures: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    images = pictures(6, (150, 140))
    changes: dict[str, Any] = {"device": "cuda", "steps": 8, "adapter": {"kind": kind}}
    eager = run(images, tmp_path / "eager", cuda_graph=False, **changes)
    graph = run(images, tmp_path / "graph", cuda_graph=True, **changes)
    assert graph == pytest.approx(eager, rel=2e-3)
