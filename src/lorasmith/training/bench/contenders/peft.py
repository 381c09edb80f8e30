"""Base and adapters in one dtype without autocast, images in channels-last memory, eager."""

from __future__ import annotations

import torch

from lorasmith.training.bench.contenders import Step
from lorasmith.training.bench.contenders._peft_step import build as build_step
from lorasmith.training.bench.contenders._peft_step import check
from lorasmith.training.bench.workload import Workload

__all__ = ["TITLE", "build", "check"]

TITLE = "PEFT on diffusers' UNet, one dtype, channels-last"


def build(workload: Workload) -> Step:
    """The step without autocast. On a CPU images stay as they are, which is faster there."""
    step = build_step(workload, workload.dtype)
    if torch.device(workload.device).type == "cuda":
        step.unet.to(memory_format=torch.channels_last)
    return step
