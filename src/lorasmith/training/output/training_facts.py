"""Did a run train at all? Which of its adapters move, how far, and which timesteps it has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from lorasmith.adapters.rounding import STORED, RoundingLoss
from lorasmith.core.rng import StepRng
from lorasmith.formats.survey import block_of

if TYPE_CHECKING:
    from lorasmith.training.run import Run

PARTS = 20
"""The path from data to noise is cut into so many parts, which a run has seen or not."""
MOST_STEPS = 1000
"""Of longer runs the timesteps of so many steps are drawn again, spread evenly."""
MOST_NAMES = 8


def adapters_with_gradient(run: Run) -> set[str]:
    """The layers whose adapters got a gradient other than 0 in the step just made. Reads from the device once."""
    names: list[str] = []
    largest: list[torch.Tensor] = []
    for name, adapter in run.adapters.adapters.items():
        gradients = [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None]
        names += [name] * len(gradients)
        largest += [gradient.abs().max().float() for gradient in gradients]
    if not largest:
        return set()
    return {name for name, value in zip(names, torch.stack(largest).tolist(), strict=True) if value > 0}


@torch.no_grad()
def relative_changes(
    run: Run, losses: Mapping[str, RoundingLoss]
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """|dW| / |W| of each block and of each component, as exported, and the layers that are not changed at all.

    `losses`: by name in `STORED`; the layers are added to them.
    """
    change: dict[str, float] = {}
    weight: dict[str, float] = {}
    unchanged: list[str] = []
    with run.as_exported():
        for name, adapter in run.adapters.adapters.items():
            base = run.adapters.weight_beside(name).float()
            moved = adapter.weight(base) - base
            difference = float(moved.square().sum())
            for kind, loss in losses.items():
                loss.add(base, moved, STORED[kind])
            if difference == 0:
                unchanged.append(name)
            for group in (block_of("lora_" + name.replace(".", "_")), adapter.layer.component):
                change[group] = change.get(group, 0.0) + difference
                weight[group] = weight.get(group, 0.0) + float(base.square().sum())
    ratios = {group: (change[group] / max(weight[group], 1e-30)) ** 0.5 for group in change}
    components = run.adapters.components()
    blocks = {group: ratio for group, ratio in ratios.items() if group not in components}
    return blocks, {component: ratios[component] for component in components}, unchanged


def samples_of_steps(run: Run) -> Iterator[tuple[int, int]]:
    """The steps made so far, at most `MOST_STEPS` of them, each with the number of its samples."""
    every = max(1, run.state.step // MOST_STEPS)
    for number in range(0, run.state.step, every):
        epoch, position = divmod(number, run.length.steps_per_epoch)
        plans = run.dataset.epoch(epoch)[position * run.accumulation : (position + 1) * run.accumulation]
        yield number, sum(len(plan.views) for plan in plans)


def timesteps_seen(run: Run) -> list[int] | None:
    """How many samples were trained in each part of the path, from data to noise; None if the objective draws no
    timesteps. Draws follow from the position in the run, so that they need not be recorded in the steps."""
    sampler = getattr(run.objective, "timesteps", None)
    if sampler is None:
        return None
    path = run.family.path.to("cpu")
    counts = [0] * PARTS
    for number, samples in samples_of_steps(run):
        t = sampler(StepRng(run.seed, number, list(range(samples))), path)
        for fraction in path.fraction(t).tolist():
            counts[min(PARTS - 1, int(fraction * PARTS))] += 1
    return counts


def training_facts(run: Run, with_gradient: set[str]) -> dict[str, Any]:
    """The fields of the event `facts`. `with_gradient`: layers whose adapters got a gradient in any step looked at."""
    losses = {kind: RoundingLoss() for kind in STORED}
    blocks, components, unchanged = relative_changes(run, losses)
    # a change that began at 0 is proof of a gradient; one that came from a file is not
    started_from_file = run.started_from_file
    moved = set(run.adapters.adapters) - set(unchanged)
    trained = with_gradient if started_from_file else with_gradient | moved
    untrained = [name for name in run.adapters.adapters if name not in trained]
    scales = {
        float(adapter.alpha) / adapter.rank
        for adapter in run.adapters.adapters.values()
        if adapter.alpha is not None and adapter.rank
    }
    return {
        "adapters": len(run.adapters),
        "trained": len(trained & set(run.adapters.adapters)),
        "untrained": untrained[:MOST_NAMES],
        "change": components,
        "change_by_block": blocks,
        "scale": sorted(scales)[0] if len(scales) == 1 else None,
        "rounding": {kind: loss.to_json() for kind, loss in losses.items()},
        "clip": run.gradient_clip,
        "timesteps": timesteps_seen(run),
    }
