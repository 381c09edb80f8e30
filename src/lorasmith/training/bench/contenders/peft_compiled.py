"""What a determined user of PEFT can build: one dtype, channels-last, compiled with inductor, the whole step as one
CUDA graph. No trainer ships it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorasmith.training.bench.contenders import Step
from lorasmith.training.bench.contenders._peft_step import PeftStep, check
from lorasmith.training.bench.contenders._peft_step import build as build_step
from lorasmith.training.bench.workload import Workload

__all__ = ["TITLE", "build", "check"]

TITLE = "PEFT on diffusers' UNet, one dtype, channels-last, inductor, one CUDA graph"
WARM_UP = 3


def build(workload: Workload) -> Step:
    """The compiled step; compiling takes minutes. On a CPU there is no graph."""
    on_gpu = torch.device(workload.device).type == "cuda"
    step = build_step(workload, workload.dtype, **({"capturable": True} if on_gpu else {}))
    if not on_gpu:
        step.unet = torch.compile(step.unet)
        return step
    step.unet = torch.compile(step.unet.to(memory_format=torch.channels_last))
    return captured(step)


@dataclass
class Replay:
    """A captured step. The graph works on the memory of `step`, which must therefore live as long as the graph."""

    graph: torch.cuda.CUDAGraph
    step: PeftStep
    loss: torch.Tensor

    def __call__(self) -> torch.Tensor:
        """One step; returns its loss without waiting for it."""
        self.graph.replay()
        return self.loss


def captured(step: PeftStep) -> Step:
    """The step as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    return Replay(graph, step, loss)
