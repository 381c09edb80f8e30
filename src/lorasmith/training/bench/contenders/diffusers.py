"""As the training scripts of diffusers do it: autocast where the base is not float32, float32 adapters, eager."""

from __future__ import annotations

from functools import partial

import torch

from lorasmith.training.bench.contenders import Step
from lorasmith.training.bench.contenders._peft_step import build as build_step
from lorasmith.training.bench.contenders._peft_step import check
from lorasmith.training.bench.workload import Workload

__all__ = ["TITLE", "build", "check"]

TITLE = "PEFT on diffusers' UNet, autocast, float32 adapters"


def build(workload: Workload) -> Step:
    """The step of train_text_to_image_lora.py with latents and texts at hand."""
    step = build_step(workload, torch.float32)
    if workload.dtype != torch.float32:
        step.context = partial(torch.autocast, torch.device(workload.device).type, workload.dtype)
    return step
