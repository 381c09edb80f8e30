"""Keyword arguments of `lorasmith.sweep`, as a type for editors and type checkers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from lorasmith.training.executors import Executor


class SweepOptions(TypedDict, total=False):
    """How the runs are compared, and where they are."""

    rank_by: str
    """`loss` (default), the held-out loss of each run's best weights, or one of the four numbers, such as `likeness`,
    that the hook `scores` measures."""
    on: str
    """`local` (default): processes of this machine; or an engine: `ray`, `slurm`."""
    on_options: Sequence[str]
    """`key=value` for the engine, such as `partition=gpu`."""
    gpus_per_run: float | None
    """GPUs of each run on a cluster: 0, 1, or a fraction (Ray) where several runs share one."""
    cpus_per_run: int | None
    """CPU cores of each run on a cluster."""


def take_executor(options: SweepOptions, devices: Sequence[str] = ()) -> Executor:
    """The executor that `options` name. Raises LorasmithError if they do not fit each other."""
    from lorasmith.training.executors import make_executor

    resources = {"gpus_per_run": options.get("gpus_per_run"), "cpus_per_run": options.get("cpus_per_run")}
    return make_executor(options.get("on", "local"), list(options.get("on_options", ())), devices, **resources)
