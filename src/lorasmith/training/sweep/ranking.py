"""Which run of a sweep is the best, by how far the others are behind, and what of that is noise.

Runs are ranked by the held-out loss of their best weights, or by one of the four numbers that the hook `scores`
measured of them; never by the last validation loss, which is that of weights that may be overfitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.intervals import Interval
from lorasmith.core.quality import ENOUGH_IMAGES, NUMBERS, Numbers, Values, advantage, rank, values_from_json
from lorasmith.training.config import HOOK_SCORES, TrainConfig, has_scores
from lorasmith.training.output.best import HeldOutLoss, choose, losses_by_step
from lorasmith.training.output.best_likeness import NUMBER as LIKENESS
from lorasmith.training.output.report.record import Event, Record
from lorasmith.training.output.report.scores import numbers_in
from lorasmith.training.sweep.jobs import Job

LOSS = "loss"
"""Rank by the held-out loss of the best weights."""


@dataclass(frozen=True)
class RunRanking:
    """The best run and how far the others are behind it."""

    by: str
    """`loss`, or one of the four numbers."""
    best: str | None = None
    """None if no finished run was measured."""
    ties: list[str] = field(default_factory=list[str])
    """Runs that are not distinguishable from the best one."""
    behind: dict[str, Interval] = field(default_factory=dict[str, Interval])
    """How far other runs are behind, by paired differences; only those that were measured on the same images, or
    prompts and seeds."""
    weak: bool = False
    """Whether too few images are held out, or pictures drawn, for a ranking that one can rely on."""


def check_rank_by(by: str, config: TrainConfig) -> None:
    """Raises LorasmithError if runs of a config cannot be ranked so."""
    if by == LOSS:
        return
    if by not in NUMBERS:
        allowed = [LOSS, *NUMBERS]
        hint = did_you_mean(by, allowed)
        raise LorasmithError(f"--rank-by {by}: rank by {', '.join(allowed)}" + (f"; {hint}" if hint else ""))
    if not has_scores([hook.model_dump() for hook in config.hooks]):
        raise LorasmithError(f"--rank-by {by}: the runs do not measure it. Add to the config: {HOOK_SCORES}")


def rank_runs(jobs: Sequence[Job], by: str = LOSS) -> RunRanking:
    """The ranking of the finished runs."""
    finished = [job for job in jobs if job.state == "finished"]
    return rank_by_loss(finished) if by == LOSS else rank_by_number(finished, by)


def rank_by_loss(jobs: Sequence[Job]) -> RunRanking:
    """The run whose best weights have the lowest held-out loss. Training losses are not compared, since each is
    measured on other images."""
    means = {job.name: best_mean(job.record())[0] for job in jobs}
    known = {name: mean for name, mean in means.items() if mean is not None}
    if not known:
        return RunRanking(LOSS)
    best = min(known, key=lambda name: known[name])
    best_job = next(job for job in jobs if job.name == best)
    lowest = best_losses(best_job.record())
    if lowest is None:
        return RunRanking(LOSS, best)
    behind = behind_the_best(jobs, best_job, lowest)
    ties = [name for name, difference in behind.items() if difference.low <= 0]
    return RunRanking(LOSS, best, ties, behind, weak=len(lowest.by_image) < ENOUGH_IMAGES)


def behind_the_best(jobs: Sequence[Job], best_job: Job, lowest: HeldOutLoss) -> dict[str, Interval]:
    """How much higher the losses of other runs are than those of the best one, as far as they can be compared."""
    behind: dict[str, Interval] = {}
    for job in jobs:
        losses = best_losses(job.record())
        if job is not best_job and losses is not None and are_comparable(job, best_job, losses, lowest):
            behind[job.name] = losses.minus(lowest)
    return behind


def are_comparable(first: Job, second: Job, losses: HeldOutLoss, other_losses: HeldOutLoss) -> bool:
    """Whether the losses of two runs are those of the same images and noise: the seed decides both."""
    same_images = first.config.seed == second.config.seed and first.config.data == second.config.data
    return same_images and len(losses.by_image) == len(other_losses.by_image)


def rank_by_number(jobs: Sequence[Job], by: str) -> RunRanking:
    """The run that is best by one of the four numbers, at its best weights where these were measured."""
    values = {job.name: measured for job in jobs if (measured := values_of(job.record(), by)) is not None}
    ranking = rank(by, values)
    if ranking is None:
        return RunRanking(by)
    behind = {name: advantage(by, values[ranking.best], values[name]) for name in ranking.order[1:]}
    known = {name: interval for name, interval in behind.items() if interval is not None}
    return RunRanking(by, ranking.best, list(ranking.ties), known, weak=ranking.weak)


def best_mean(record: Record | None) -> tuple[float | None, int | None]:
    """The held-out loss of a run's best weights, and their step; None if nothing is held out.

    The runs of older versions did not judge their weights, and some choose them by likeness: of those, the rule of
    held-out losses is applied to what was measured, or the lowest loss is taken.
    """
    judged = record.best if record is not None else None
    if judged is not None and judged.get("by") != LIKENESS:
        return judged.get("loss"), judged.get("best_step")
    losses = best_losses(record)
    if losses is not None:
        return losses.mean, losses.step
    points = [point for point in record.points("validation", "loss") if point[0] > 0] if record is not None else []
    if not points:
        return None, None
    step, loss = min(points, key=lambda point: point[1])
    return loss, int(step)


def best_losses(record: Record | None) -> HeldOutLoss | None:
    """The held-out losses of a run's best weights, image by image; None if they are not known."""
    if record is None:
        return None
    losses = {step: loss for step, loss in losses_by_step(record.of("validation")).items() if step > 0}
    judged = record.best or {}
    best = losses.get(judged.get("best_step", -1))
    # weights that were chosen by likeness may have no held-out loss
    if best is not None or (judged and judged.get("by") != LIKENESS):
        return best
    return choose(list(losses.values())).best if losses else None


def scores_of(record: Record | None) -> Event:
    """The event of the four numbers of a run's best weights or, where these were not measured, of its last ones."""
    events = record.of("scores") if record is not None else []
    best_step = (record.best or {}).get("best_step") if record is not None else None
    at_best = [event for event in events if event.get("step") == best_step]
    return (at_best or events or [{}])[-1]


def four_numbers(record: Record | None) -> Numbers:
    """The four numbers of a run; empty if they were not measured."""
    return numbers_in(scores_of(record))


def values_of(record: Record | None, number: str) -> Values | None:
    """The values of a number of a run; None if it was not measured."""
    content: Any = scores_of(record).get("values")
    return values_from_json(content.get(number)) if isinstance(content, dict) else None
