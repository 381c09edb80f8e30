"""Our step, built as `lorasmith train` builds it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from lorasmith.training.bench.contenders import Step
from lorasmith.training.bench.workload import LEARNING_RATE, Workload
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.loop import remaining_steps, train_step

TITLE = "Lorasmith"
MANY_STEPS = 1_000_000
"""More than any measurement makes."""


def config_of(workload: Workload, output: Path) -> TrainConfig:
    """The config of a run that computes the workload."""
    return load_config(
        {
            "base": workload.base,
            "output": str(output),
            "steps": MANY_STEPS,
            "device": workload.device,
            "precision": workload.precision,
            "memory": workload.memory,
            "cuda_graph": workload.cuda_graph,
            "data": {
                "images": workload.images,
                "resolution": workload.resolution,
                "batch_size": workload.batch,
                "cache_dir": workload.cache,
            },
            "adapter": workload.adapter,
            "optimizer": {"lr": LEARNING_RATE},
            "log": {"tensorboard": False},
            "validation": None,
        }
    )


def check(workload: Workload) -> None:
    """Raises ConfigError for settings that no run can have."""
    config_of(workload, Path("bench"))


def build(workload: Workload) -> Step:
    """A run whose latents and texts are cached, in a temporary folder."""
    folder = tempfile.TemporaryDirectory(prefix="lorasmith-bench-")
    run = build_run(config_of(workload, Path(folder.name) / "run"))
    if run.device.type != "cpu":
        torch.set_num_threads(1)  # as in a run (`training.session.few_cpu_threads`)
    run.adapters.train()
    steps = remaining_steps(run)

    def step(keep: object = folder) -> object:
        return train_step(run, *next(steps))

    return step
