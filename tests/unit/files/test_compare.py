"""The distance of two LoRA files is that of the changes of the weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.files.compare import compare, compare_tensors


def lora(seed: int, rank: int = 2, alpha: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, up, down in (("lora_unet_a", (5, rank), (rank, 4)), ("lora_unet_b", (3, rank, 1, 1), (rank, 2, 3, 3))):
        tensors[f"{layer}.lora_up.weight"] = torch.randn(up, generator=generator)
        tensors[f"{layer}.lora_down.weight"] = torch.randn(down, generator=generator)
        tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    return tensors


def dense(tensors: dict[str, Tensor]) -> Tensor:
    """All changes as one vector."""
    parts = []
    for layer in ("lora_unet_a", "lora_unet_b"):
        up, down = (tensors[f"{layer}.{name}.weight"].double().flatten(1) for name in ("lora_up", "lora_down"))
        parts.append((float(tensors[f"{layer}.alpha"]) / down.shape[0] * up @ down).flatten())
    return torch.cat(parts)


def test_equal_files_are_equal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file(lora(0), tmp_path / f"{name}.safetensors", {"name": name})
    result = compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (result.identical, result.cosine, result.relative, result.max_difference) == (True, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("other", [lora(1), lora(0, alpha=2.0), {k: v * 1.01 for k, v in lora(0).items()}])
def test_the_distance_of_changes(other: dict[str, Tensor]) -> None:
    first, a, b = lora(0), dense(lora(0)), dense(other)
    result = compare_tensors(first, other)
    assert not result.identical
    assert result.cosine == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-9)
    assert result.relative == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-6)
    assert result.max_difference == max(float((first[key].double() - other[key].double()).abs().max()) for key in first)


def test_other_factors_of_the_same_change_are_not_identical_but_have_the_cosine_one() -> None:
    first = lora(0)
    other = {key: 2 * value if "up" in key else value / 2 if "down" in key else value for key, value in first.items()}
    result = compare_tensors(first, other)
    assert (result.identical, result.cosine) == (False, pytest.approx(1))
    assert result.relative < 1e-6


def test_tensors_of_other_kinds_and_missing_ones() -> None:
    first = {"x.hada_w1_a": torch.tensor([1.0, 0.0]), "y": torch.zeros(2), "z": torch.ones(1)}
    second = {"x.hada_w1_a": torch.tensor([1.0, 1.0]), "y": torch.zeros(3), "w": torch.ones(1)}
    result = compare_tensors(first, second)
    assert result.missing == ["w", "y", "z"]
    assert result.cosine == pytest.approx(1 / math.sqrt(2))
    assert compare_tensors({"a": torch.zeros(2)}, {"a": torch.zeros(2).half()}).plain()["cosine"] is None
