"""A step for which memory does not suffice is computed in smaller parts, and is the same step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file

from lorasmith.core.errors import LorasmithError
from lorasmith.core.out_of_memory import is_out_of_memory
from lorasmith.core.progress import Lines
from lorasmith.core.rng import StepRng
from lorasmith.data.batch import Batch
from lorasmith.families.base import Family
from lorasmith.training.config import load_config
from lorasmith.training.hooks import Hook
from lorasmith.training.run import Run
from lorasmith.training.session import train
from lorasmith.training.step.objectives.base import StepResult
from lorasmith.training.step.objectives.denoising import Denoising


class Limited(Denoising):
    """Needs more memory than there is for more than `limit` images, and when blocks are not recomputed if `limit` is 0.
    It runs out after the forward pass, when the gradients of earlier micro-batches are there already."""

    kind: Literal["limited"] = "limited"
    limit: int = 2
    sizes: ClassVar[list[int]] = []

    def __call__(self, family: Family, batch: Batch, rng: StepRng) -> StepResult:
        result = super().__call__(family, batch, rng)
        if len(batch.names) > max(1, self.limit) or (self.limit == 0 and not family.denoiser.checkpointing):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.sizes.append(len(batch.names))
        return result


def train_on(
    images: Path, output: Path, **changes: Any
) -> tuple[list[dict[str, Any]], list[str], dict[str, torch.Tensor]]:
    """The events of the steps, what was said, and the LoRA."""
    table: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "name": "lora",
        "steps": 3,
        "seed": 3,
        "data": {"images": str(images), "resolution": 64, "batch_size": 5},
        "adapter": {"rank": 2, "layers": ["unet.up_blocks.3*"]},
        "optimizer": {"kind": "class", "name": "SGD", "lr": 1.0},
        "log": {"tensorboard": False},
    }
    said: list[str] = []
    Limited.sizes.clear()
    train(load_config(table | changes), Lines(said.append))
    lines = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "step"], said, load_file(output / "lora.safetensors")


def assert_same_training(
    first: tuple[list[dict[str, Any]], list[str], dict[str, torch.Tensor]],
    second: tuple[list[dict[str, Any]], list[str], dict[str, torch.Tensor]],
) -> None:
    """The same views in the same steps, and the same losses and weights up to rounding."""
    for name in ("loss", "grad_norm"):
        assert [e[name] for e in second[0]] == pytest.approx([e[name] for e in first[0]], rel=1e-4), name
    assert [e["samples"] for e in first[0]] == [e["samples"] for e in second[0]]
    for name, tensor in first[2].items():
        torch.testing.assert_close(second[2][name], tensor, rtol=1e-3, atol=1e-6)


def test_a_step_is_made_in_smaller_parts_and_is_the_same_step(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(7)
    whole = train_on(images, tmp_path / "whole")
    parted = train_on(images, tmp_path / "parted", objective={"kind": "limited", "limit": 2})
    assert_same_training(whole, parted)
    # 5 does not fit, nor does 3; then each batch of 5 is 2 + 2 + 1
    assert Limited.sizes == [2, 2, 1, 2, 2]
    notes = [line for line in parted[1] if "memory" in line]
    assert len(notes) == 2
    assert "at most 2 images at a time" in notes[-1]
    assert "batch stays 5" in notes[-1]


@pytest.mark.slow
def test_accumulated_micro_batches_are_not_counted_twice(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(7)
    data = {"images": str(images), "resolution": 64, "batch_size": 3}
    changes: dict[str, Any] = {"accumulation": 2, "data": data}
    whole = train_on(images, tmp_path / "whole", **changes)
    parted = train_on(images, tmp_path / "parted", objective={"kind": "limited", "limit": 1}, **changes)
    assert_same_training(whole, parted)


@pytest.mark.slow
def test_with_one_image_blocks_are_recomputed(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(4)
    whole = train_on(images, tmp_path / "whole")
    lean = train_on(images, tmp_path / "lean", objective={"kind": "limited", "limit": 0})
    assert_same_training(whole, lean)
    assert any("gradient checkpointing" in line for line in lean[1])


class Hopeless(Denoising):
    """Runs out of memory in the third step, whatever is done."""

    kind: Literal["hopeless"] = "hopeless"

    def __call__(self, family: Family, batch: Batch, rng: StepRng) -> StepResult:
        if rng.step == 2:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return super().__call__(family, batch, rng)


@pytest.mark.slow
def test_when_nothing_helps_the_weights_are_kept(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(4)
    with pytest.raises(LorasmithError, match="memory does not suffice for step 3") as caught:
        train_on(images, tmp_path / "run", objective={"kind": "hopeless"})
    text = str(caught.value)
    assert "data.resolution" in text
    assert "train --resume" in text
    assert (tmp_path / "run/checkpoints/step-00000002/state.json").is_file()
    config = load_config(tmp_path / "run/config.toml", ["objective.kind=denoising"])
    resumed = train(config, resume=tmp_path / "run")
    assert resumed.finished


class Forgetful(Hook):
    """A hook for which there is no memory."""

    kind: Literal["forgetful"] = "forgetful"

    def act(self, run: Run) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_hook_without_memory_does_not_end_the_run(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """A preview needs the VAE and the text encoders, for which there may be no room beside the training."""
    hooks = [{"kind": "forgetful", "every_steps": 1, "at_start": True, "at_end": False}]
    steps, said, _ = train_on(pictures(3), tmp_path / "run", hooks=hooks)
    assert len(steps) == 3
    assert sum("forgetful failed" in line and "memory" in line for line in said) == 4


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_every_way_to_say_it_is_known() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        RuntimeError("std::bad_alloc"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ):
        assert is_out_of_memory(error), error

    # ending the capture of a graph fails too, and hides the first error
    hiding = RuntimeError("operation failed due to a previous error during capture")
    hiding.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(hiding)
