"""The training loop: optimizer steps, and hooks after each of them.

Everything that a step draws, and its place in the data, follows from the number of the step. To continue after a stop,
a run needs that number, the weights and the state of the optimizer, nothing else.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasmith.core.errors import WriteError
from lorasmith.core.out_of_memory import is_out_of_memory
from lorasmith.core.rng import StepRng, restored_global_generators
from lorasmith.data.dataset import Batch, BatchPlan
from lorasmith.training.step.batches import cut_to_size, micro_batches, one_batch_each, rank_share
from lorasmith.training.step.gradients import all_finite, clear_untrained, step_if_finite, unscale_and_clip
from lorasmith.training.step.metrics import StepOutcome, StepRecord

if TYPE_CHECKING:
    from lorasmith.training.run import Run


def fit(run: Run) -> None:
    """Train from the run's position to its end, or until `run.stopping` is set."""
    run.adapters.train()

    # All hooks open before the first one starts, so that none misses an event that another one writes at its start.
    for hook in run.hooks:
        hook.open(run)
    for hook in run.hooks:
        hook.start(run)

    with run.progress.track_timed("training", run.length.steps) as advance:
        reported = run.state.seconds
        advance(run.state.step, 0.0, "")
        for epoch, plans in remaining_steps(run):
            # Only steps count as training time, not what the hooks do between them.
            started = time.monotonic()
            record = train_step(run, epoch, plans)
            run.state.seconds += time.monotonic() - started
            run.metrics.add(record)

            for hook in run.hooks:
                hook.after_step(run)
            # Hooks add the time that a GPU takes for steps that were launched before.
            advance(1, run.state.seconds - reported, progress_note(run))
            reported = run.state.seconds

            # A signal may reach one rank only, but all ranks must leave after the same step. After the last step there
            # is nothing left to stop: the run writes its files.
            stopping = run.ranks.any(run.stopping)
            if stopping and run.state.step < run.length.steps:
                run.stopping = True
                return

    finish_hooks(run)


def finish_hooks(run: Run) -> None:
    """Let all hooks do their work of the end, also if one of them cannot write its file.

    Raises WriteError with all files that could not be written.
    """
    failures: list[str] = []
    for hook in run.hooks:
        try:
            hook.finish(run)
        except Exception as error:
            if not (isinstance(error, WriteError | OSError) or is_out_of_memory(error)):
                raise
            failures.append(str(error) or type(error).__name__)
    if failures:
        raise WriteError(
            "\n".join(["all steps are made, but not every file could be written:", *failures])
            + "\nRemove the cause; a resumed run writes them."
        )


def remaining_steps(run: Run) -> Iterator[tuple[int, list[BatchPlan]]]:
    """The steps from the run's position to its end: for each its epoch and its micro-batches."""
    while run.state.step < run.length.steps:
        # The place in the epoch follows from the number of steps made; a resumed run enters in the middle.
        epoch, steps_made = divmod(run.state.step, run.length.steps_per_epoch)
        plans = run.dataset.epoch(epoch)
        for start in range(steps_made * run.accumulation, len(plans), run.accumulation):
            if run.state.step >= run.length.steps:
                return
            yield epoch, plans[start : start + run.accumulation]


def train_step(run: Run, epoch: int, plans: list[BatchPlan]) -> StepRecord:
    """Make one optimizer step; returns its record. `plans`: the micro-batches of the global batch."""
    number = run.state.step

    # What depends on the number of the step alone.
    freeze_inactive_groups(run)
    learning_rates = set_learning_rates(run)
    run.adapters.begin_step(run.seed, number)

    # Dropout draws from torch's global generators. Nobody else's draws may move because of that.
    with restored_global_generators(run.device):
        outcome = optimizer_step(run, plans, number)

    images = tuple(str(run.dataset.records[view.record].path) for plan in plans for view in plan.views)
    run.state.step += 1
    run.state.samples += len(images)
    if run.ema is not None:
        run.ema.update(run.state.step)

    return StepRecord(
        number=number + 1,
        epoch=epoch,
        outcome=outcome,
        images=images,
        learning_rates=learning_rates,
        seconds=run.state.seconds,
        samples=run.state.samples,
        scaled=run.loss_scale.active,
    )


def freeze_inactive_groups(run: Run) -> None:
    """Turn gradients off for parameter groups outside their phase: they do not move, nor count in the gradient norm."""
    if not run.phases:
        return
    progress = run.state.step / run.length.steps
    for group in run.optimizer.param_groups:
        start, end = run.phases.get(group.get("part", ""), (0.0, 1.0))
        for parameter in group["params"]:
            parameter.requires_grad_(start <= progress < end)


def set_learning_rates(run: Run) -> dict[str, float]:
    """Give each parameter group its learning rate of this step; returns the rates by the names of the groups."""
    factor = run.lr_schedule.factor(run.state.step, run.length.steps)
    learning_rates: dict[str, float] = {}
    for group in run.optimizer.param_groups:
        learning_rate = group["base_lr"] * factor
        learning_rates[group["name"]] = learning_rate
        if isinstance(group["lr"], torch.Tensor):
            # A captured CUDA graph reads the rate from this tensor, so it is written in place.
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
    return learning_rates


def optimizer_step(run: Run, plans: list[BatchPlan], number: int) -> StepOutcome:
    """Step `number`: the gradient of the mean loss over all samples of `plans`, and one update of the weights.

    If memory does not suffice, the step begins again in a way that needs less. Raises OutOfMemoryError if there is no
    such way left.
    """
    samples_in_step = sum(len(plan.views) for plan in plans)
    share = rank_share(plans, run.ranks.index, run.ranks.count)
    # A graph holds exactly one micro-batch. All ranks capture a step or none does, so all must have one.
    graphs = run.cuda_graphs if run.cuda_graphs and one_batch_each(plans, run.ranks.count) else None
    while True:
        parts = cut_to_size(share, run.memory.largest)
        captured = graphs if len(parts) == 1 else None
        try:
            batches = micro_batches(run, parts, number)
            if captured is not None:
                batch, rng = next(batches)
                return captured(batch, rng, partial(whole_step, run, samples_in_step), plans)
            return update_weights(run, *sum_over_batches(run, batches, samples_in_step))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        # Outside of the handler, because the error holds the tensors of the failed pass.
        run.memory.save(run, parts, reason)


def whole_step(run: Run, samples_in_step: int, batch: Batch, rng: StepRng) -> StepOutcome:
    """A step of one micro-batch, which may be captured in a CUDA graph."""
    return update_weights(run, *sum_over_batches(run, [(batch, rng)], samples_in_step))


def sum_over_batches(
    run: Run, batches: Iterable[tuple[Batch, StepRng]], samples_in_step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradients of all micro-batches of this rank; returns the loss and its terms.

    `samples_in_step`: samples in the global batch, those of other ranks included. Does not wait for a GPU.
    """
    run.optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=run.device)
    loss_terms = {name: torch.zeros((), device=run.device) for name in run.objective.terms}

    # Gradients add up over the micro-batches. Objectives give sums over samples, so dividing by the number of samples
    # of the whole step makes the total a mean, however the samples are spread over micro-batches and ranks.
    for batch, rng in batches:
        result = run.objective(run.family, batch, rng)
        (result.loss / samples_in_step * run.loss_scale.value).backward()
        loss += result.loss.detach() / samples_in_step
        for name, mean in result.parts.items():
            loss_terms[name] = loss_terms[name] + mean * (len(batch.names) / samples_in_step)
    return loss, loss_terms


def update_weights(run: Run, loss: Tensor, loss_terms: dict[str, Tensor]) -> StepOutcome:
    """Sum the gradients over the ranks, clip them, and make one step of the optimizer. Does not wait for a GPU."""
    # Of several ranks, gradients, losses and loss terms in one sum.
    if run.ranks.count > 1:
        scalars = torch.stack([loss, *loss_terms.values()])
        scalars = run.ranks.sum_gradients(run.parameters, scalars, steady=run.cuda_graphs is not None)
        loss, *means = scalars.unbind()
        loss_terms = dict(zip(loss_terms, means, strict=True))

    # A step with a loss or gradient that is not finite is left out. The device decides that, so nothing is read back.
    clear_untrained(run.adapters.stepped_parts)
    grad_norm = unscale_and_clip(run.parameters, run.loss_scale.value, run.gradient_clip)
    finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
    run.memory.updating = True
    step_if_finite(run.optimizer, finite, run.adapters.stepped_parts)

    # Constraints on the weights that hold after each step.
    run.adapters.limit_norms()
    if run.token_trainer is not None:
        run.token_trainer.after_step()

    run.loss_scale.update(finite)
    run.memory.updating = False

    # A finite gradient can still make a step that is too large. The log reads this flag with the others.
    weights_finite = all_finite(run.parameters)
    return StepOutcome(loss, grad_norm, finite, weights_finite, loss_terms)


def progress_note(run: Run) -> str:
    """The text beside the progress bar: the smoothed loss, and how often an image has been seen on average."""
    views = f"{run.state.samples / len(run.dataset.records):.1f} views per image"
    if run.metrics.smooth_loss is None:
        return views
    return f"loss {run.metrics.smooth_loss:.4f}, {views}"
