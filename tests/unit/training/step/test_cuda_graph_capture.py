"""What surrounds the capture of a CUDA graph, with stand-ins for what needs a GPU: nothing of earlier steps is alive,
and a capture that fails leaves the allocator free."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorasmith.training.session import prepared_run
from lorasmith.training.step.batches import micro_batches, rank_share
from lorasmith.training.step.cuda_graph import CudaGraphs
from lorasmith.training.step.loop import remaining_steps, train_step


@contextmanager
def eager_graph(_graph: Any, **_settings: Any) -> Iterator[None]:
    yield


@contextmanager
def graph_that_cannot_end(_graph: Any, **_settings: Any) -> Iterator[None]:
    yield
    raise RuntimeError("operation failed due to a previous error during capture")


@pytest.fixture
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.CUDAGraph", SimpleNamespace)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.graph", eager_graph)


@pytest.fixture
def no_automatic_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_gpu_needed", "no_automatic_collection")
@pytest.mark.parametrize("memory", [0, 2])
def test_a_capture_sums_gradients_in_nodes_of_its_own(
    memory: int, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    """A node that an earlier step left behind belongs to that step's stream, which a capture may not wait for. With
    gradient checkpointing (level 2) steps leave such nodes."""
    table = {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 4,
        "memory": memory,
        "device": "cpu",
        "data": {"images": str(pictures(2)), "resolution": 64, "batch_size": 2},
        "adapter": {"rank": 4},
        "log": {"tensorboard": False},
    }
    with prepared_run(table) as run:
        parameter = run.parameters[0]
        epoch, plans = next(remaining_steps(run))
        node = torch.autograd.graph.get_gradient_edge(parameter).node
        node.metadata["step"] = 1
        train_step(run, epoch, plans)
        del node

        def nodes_of_the_capture(_batch: Any, _rng: Any) -> Any:
            return torch.autograd.graph.get_gradient_edge(parameter).node.metadata.get("step")

        batch, rng = next(micro_batches(run, rank_share(plans, 0, 1), 1))
        captured = CudaGraphs(run).capture(batch, rng, nodes_of_the_capture)
    assert captured.outcome is None


@pytest.mark.usefixtures("no_gpu_needed")
def test_a_capture_that_fails_lets_the_allocator_free_memory_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int, Any]] = []
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(f"torch._C.{name}", lambda *given, name=name: calls.append((name, *given)), raising=False)
    monkeypatch.setattr("torch.cuda.graph", graph_that_cannot_end)
    run: Any = SimpleNamespace(
        objective=lambda *_: None,
        family=None,
        optimizer=SimpleNamespace(zero_grad=lambda **_: None),
        ranks=SimpleNamespace(count=1),
    )
    graphs = CudaGraphs(run)
    rng: Any = SimpleNamespace(freeze=lambda: None)
    with pytest.raises(RuntimeError, match="previous error"):
        graphs.capture(SimpleNamespace(), rng, lambda *_: None)  # pyright: ignore[reportArgumentType]
    assert calls == [("_cuda_endAllocateToPool", 0, (0, 1)), ("_cuda_releasePool", 0, (0, 1))]
    assert graphs.pool is None
