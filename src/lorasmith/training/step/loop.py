"""The loop: epochs of steps, hooks after each step.

Everything a step draws follows from its number, and the place in the data too, so going on after a stop needs the
number, the weights and the optimizer, nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import accumulate

import torch

from lorasmith.core.rng import StepRng, derive
from lorasmith.data.dataset import Batch, BatchPlan
from lorasmith.training.run import Run
from lorasmith.training.step.batches import prepare_batch
from lorasmith.training.step.gradients import unscale_and_clip
from lorasmith.training.step.metrics import StepOutcome, StepRecord
from lorasmith.training.step.optimizers import step_if_finite


def fit(run: Run) -> None:
    """Train from the run's position to its end, or until it is told to stop."""
    run.adapters.train()
    for hook in run.hooks:
        hook.open(run)
    for hook in run.hooks:
        hook.start(run)
    with run.progress.track("training", run.length.steps) as advance:
        advance(run.state.step, "")
        for epoch, plans in remaining_steps(run):
            started = time.monotonic()
            train_step(run, epoch, plans)
            run.state.seconds += time.monotonic() - started
            for hook in run.hooks:
                hook.after_step(run)
            advance(1, note(run))
            if run.ranks.any(run.stopping):
                run.stopping = True
                return
    for hook in run.hooks:
        hook.finish(run)


def note(run: Run) -> str:
    """For the progress line: the mean loss, and how often an image has been seen on average."""
    loss = "" if run.metrics.smooth is None else f"loss {run.metrics.smooth:.4f}, "
    return f"{loss}{run.state.samples / len(run.dataset.records):.1f} views per image"


def remaining_steps(run: Run) -> Iterator[tuple[int, list[BatchPlan]]]:
    """The remaining steps: epoch number and the micro-batches of each."""
    per_epoch, accumulation = run.length.steps_per_epoch, run.config.accumulation
    while run.state.step < run.length.steps:
        epoch, position = divmod(run.state.step, per_epoch)
        plans = run.dataset.epoch(epoch)
        for start in range(position * accumulation, len(plans), accumulation):
            if run.state.step >= run.length.steps:
                return
            yield epoch, plans[start : start + accumulation]


def train_step(run: Run, epoch: int, plans: list[BatchPlan]) -> None:
    """One optimizer step over micro-batches that together are the global batch."""
    number = run.state.step
    rates = set_learning_rates(run)
    run.adapters.begin_step(run.config.seed, number)
    outcome = replace(optimizer_step(run, plans, number), names=image_names(run, plans))
    run.state.step += 1
    run.state.samples += len(outcome.names)
    if run.ema is not None:
        run.ema.update(run.state.step)
    run.metrics.add(
        StepRecord(
            number + 1, epoch, outcome, rates, run.state.seconds, run.state.samples, scaled=run.loss_scale.active
        )
    )


def optimizer_step(run: Run, plans: list[BatchPlan], number: int) -> StepOutcome:
    """Step `number`: the loss, the mean over the micro-batches' samples together, and one step down its gradient."""
    total = sum(len(plan.views) for plan in plans)
    shared = run.ranks.share(plans)
    batches = micro_batches(run, [plan for _, plan in shared], number, [first for first, _ in shared])
    if run.cuda_graphs is not None and len(plans) == len(shared) == 1:
        batch, rng = next(batches)
        return run.cuda_graphs(batch, rng, lambda held, rng: update_on(run, [(held, rng)], total))
    return update_on(run, batches, total)


def image_names(run: Run, plans: list[BatchPlan]) -> tuple[str, ...]:
    """The images of a step, those of all ranks."""
    return tuple(str(run.dataset.records[item.record].path) for plan in plans for item in plan.views)


def micro_batches(
    run: Run, plans: list[BatchPlan], number: int, firsts: list[int] | None = None
) -> Iterator[tuple[Batch, StepRng]]:
    """The micro-batches of a step with their draws. Dropout, too, follows from the position.

    `firsts`: the place of each one's first sample in the global batch, where `plans` are not all of it.
    """
    sizes = [len(plan.views) for plan in plans]
    places = accumulate([0, *sizes[:-1]]) if firsts is None else firsts
    for plan, size, first in zip(plans, sizes, places, strict=True):
        torch.manual_seed(derive(run.config.seed, "dropout", number, first))
        samples = list(range(first, first + size))
        yield prepare_batch(run, run.dataset.load(plan, number)), StepRng(run.config.seed, number, samples, run.device)


def update_on(run: Run, batches: Iterable[tuple[Batch, StepRng]], total: int) -> StepOutcome:
    """Gradients, loss and its parts of all micro-batches and ranks, clipped, and one optimizer step. No host
    synchronisation on a GPU."""
    run.optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=run.device)
    parts = {name: torch.zeros((), device=run.device) for name in run.config.objective.terms}
    names: list[str] = []
    for batch, rng in batches:
        result = run.config.objective(run.family, batch, rng)
        (result.loss / total * run.loss_scale.value).backward()
        loss += result.loss.detach() / total
        for name, value in result.parts.items():
            parts[name] = parts[name] + value * (len(batch.names) / total)
        names += batch.names

    loss, *rest = run.ranks.sum_gradients(
        run.parameters, torch.stack([loss, *parts.values()]), steady=run.cuda_graphs is not None
    ).unbind()
    parts = dict(zip(parts, rest, strict=True))
    norm = unscale_and_clip(run.parameters, run.loss_scale.value, run.config.optimizer.clip)
    finite = torch.isfinite(loss) & torch.isfinite(norm)
    step_if_finite(run.optimizer, finite)
    run.adapters.limit_norms()
    if run.token_trainer is not None:
        run.token_trainer.after_step()
    run.loss_scale.update(finite)
    return StepOutcome(loss, norm, finite, tuple(names), parts)


def freeze_inactive_groups(run: Run) -> None:
    """Parts outside their phase get no gradient: they neither move nor count in its norm."""
    share = run.state.step / run.length.steps
    for group in run.optimizer.param_groups if run.config.phases else ():
        start, end = run.config.phases.get(group.get("part", ""), (0.0, 1.0))
        for parameter in group["params"]:
            parameter.requires_grad_(start <= share < end)


def set_learning_rates(run: Run) -> dict[str, float]:
    """Give each parameter group its learning rate of this step; returns them by name.

    A rate that is a tensor is written in place, so that a captured graph sees it.
    """
    factor = run.config.lr_schedule.factor(run.state.step, run.length.steps)
    freeze_inactive_groups(run)
    rates = {group["name"]: group["base_lr"] * factor for group in run.optimizer.param_groups}
    for group in run.optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rates[group["name"]])
        else:
            group["lr"] = rates[group["name"]]
    return rates
