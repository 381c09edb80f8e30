"""A hook that writes how large the change of each component has become, as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class ChangeLog(Hook):
    """Appends a line to `changes.csv` in the folder of the run: step, component, Frobenius norm of the change.

    When it acts is decided by the settings that all hooks have (`every_steps`, `every_epochs`, `at_end` ...).
    """

    kind: Literal["change_log"] = "change_log"
    every_steps: int | None = Field(default=100, ge=1)

    def start(self, run: Run) -> None:
        """A new run begins a new table; a resumed one continues it."""
        if not run.resumed:
            (run.folder / "changes.csv").write_text("step,component,norm\n", encoding="utf-8")
        super().start(run)

    @torch.no_grad()
    def act(self, run: Run) -> None:
        """Write a line for each component."""
        squares: dict[str, float] = {}
        for name, adapter in run.adapters.adapters.items():
            change = adapter.delta(run.adapters.weight_of(name).float())
            component = adapter.layer.component
            squares[component] = squares.get(component, 0.0) + float(change.square().sum())
        with (run.folder / "changes.csv").open("a", encoding="utf-8") as table:
            for component, square in squares.items():
                table.write(f"{run.state.step},{component},{math.sqrt(square):.6g}\n")
