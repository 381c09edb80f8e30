"""What a graph needs of a batch (all of its tensors by name, and a copy that shares none of them), and which steps have
one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lorasmith.data.batch import Batch, BatchPlan, PlannedView
from lorasmith.families.base import LatentDistribution
from lorasmith.families.conditioning import Conditioning
from lorasmith.training.config import load_config
from lorasmith.training.setup.build import can_capture_steps
from lorasmith.training.step import cuda_graph
from lorasmith.training.step.batches import one_batch_each
from lorasmith.training.step.cuda_graph import CudaGraphs, clone_tensors, tensors_of
from lorasmith.training.step.metrics import StepOutcome


def make_batch() -> Batch:
    sizes = torch.zeros(2, 2)
    return Batch(
        latents=LatentDistribution(torch.randn(2, 4, 8, 8), torch.rand(2, 4, 8, 8)),
        pixels=None,
        captions=["a", "b"],
        conditioning=Conditioning({"context": torch.randn(2, 77, 16), "pooled": torch.randn(2, 16)}),
        loss_weight=torch.ones(2),
        mask=None,
        original=sizes,
        crop=sizes,
        target=sizes,
        names=["a.png", "b.png"],
    )


def test_every_tensor_of_a_batch_has_a_path() -> None:
    batch = make_batch()
    tensors = tensors_of(batch)
    assert set(tensors) == {
        "latents/mean",
        "latents/std",
        "conditioning/tensors/context",
        "conditioning/tensors/pooled",
        "loss_weight",
        "original",
        "crop",
        "target",
    }
    assert batch.conditioning is not None
    assert tensors["conditioning/tensors/pooled"] is batch.conditioning["pooled"]


def test_a_copy_shares_no_tensor() -> None:
    batch = make_batch()
    copy = tensors_of(clone_tensors(batch))
    for path, tensor in tensors_of(batch).items():
        assert torch.equal(copy[path], tensor), path
        assert copy[path].data_ptr() != tensor.data_ptr(), path


def plan(count: int, bucket: tuple[int, int] = (64, 64)) -> BatchPlan:
    return BatchPlan(tuple(PlannedView(i, 0, 0) for i in range(count)), bucket)


@pytest.mark.parametrize(
    ("sizes", "ranks", "expected"),
    [
        ([4], 1, True),
        ([4, 4], 1, False),
        ([4], 2, True),
        ([1], 2, False),
        ([4, 4], 2, True),
        ([4, 1], 2, False),
        ([4], 3, True),
        ([4, 4, 4], 2, False),
    ],
)
def test_steps_with_one_batch_on_each_rank(sizes: list[int], ranks: int, expected: bool) -> None:
    """All ranks come to the same answer, since all know the whole step."""
    assert one_batch_each([plan(size) for size in sizes], ranks) is expected


def test_a_graph_is_of_one_form_of_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss is divided by the samples of all ranks, which a graph holds as a constant: this rank has one sample in a
    step of three and in one of two."""
    replayed: list[int] = []
    captured: list[int] = []
    zero = torch.zeros(())
    outcome = StepOutcome(zero, zero, zero, zero, {})
    graphs = CudaGraphs(cast(Any, SimpleNamespace()))
    current = [0]

    def capture(batch: Any, rng: Any, step: Any) -> Any:
        samples = current[0]
        captured.append(samples)
        graph = SimpleNamespace(replay=lambda: replayed.append(samples))
        return SimpleNamespace(graph=graph, batch=batch, rng=rng, outcome=outcome)

    monkeypatch.setattr(graphs, "capture", capture)
    rng = cast(Any, SimpleNamespace(step=0, samples=[0], refill=lambda step, samples: None))

    def make_steps(*sizes: int) -> None:
        for size in sizes:
            current[0] = size
            graphs(cast(Any, {"latents": torch.zeros(1, 4)}), rng, lambda batch, rng: outcome, [plan(size)])

    make_steps(3, 2, 3, 2, 3, 2)
    assert captured == [3, 2]
    assert replayed == [3, 2, 3, 2]
    # Beyond the limit steps run as usual, and those that are captured stay.
    monkeypatch.setattr(cuda_graph, "MAX_GRAPHS", 2)
    make_steps(4, 4, 4, 3)
    assert captured == [3, 2]
    assert replayed == [3, 2, 3, 2, 3]


@pytest.mark.parametrize(
    ("accumulation", "ranks", "expected"), [(1, 1, True), (2, 1, False), (2, 2, True), (4, 2, False)]
)
def test_accumulation_over_the_ranks_needs_no_second_batch(accumulation: int, ranks: int, expected: bool) -> None:
    """Scripts of other trainers have a batch on each rank, which our config calls accumulation."""
    table = {"base": "x", "output": "x", "data": {"images": "x"}, "accumulation": accumulation}
    family = cast(Any, SimpleNamespace(device=torch.device("cuda")))
    dataset = cast(Any, SimpleNamespace(text_cached=True, latents_cached=True))
    assert can_capture_steps(load_config(table), family, dataset, ranks) is expected
