"""Warnings about a run, derived from its events."""

from __future__ import annotations

from typing import Any

from lorasmith.core.shell_words import shell_word
from lorasmith.training.output.report.record import Record

MOST_NAMES = 6
"""Image names that are listed in one warning."""
OVERFITTING = 1.03
"""Factor between the last and the lowest validation loss above which the run may be overfitted."""
RISE = 1.05
"""Factor between the last and the first losses above which the loss counts as risen."""
FEWEST_LOSSES = 20
"""Losses in the first and the last tenth of a run that are needed to compare their means."""


def warnings(record: Record) -> list[str]:
    """Sentences for the user, the most important first; empty if nothing is noteworthy."""
    return [*_not_finished(record), *_left_out_steps(record), *_overfitting(record), *_rising_loss(record)]


def _not_finished(record: Record) -> list[str]:
    if record.finished or record.under_way:
        return []
    return [f"The run is not finished. Continue it with: lorasmith train --resume {shell_word(record.folder)}"]


def _left_out_steps(record: Record) -> list[str]:
    """Steps whose update was skipped, by reason."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for event in record.of("skip"):
        reason = str(event.get("reason") or "unknown reason")
        by_reason.setdefault(reason, []).append(event)

    sentences = []
    for reason, events in by_reason.items():
        count = "1 step was" if len(events) == 1 else f"{len(events)} steps were"
        sentence = f"{count} left out: {reason}."
        # an image can be in several of these steps: it is named once
        images = [str(name) for event in events for name in event.get("images") or []]
        names = list(dict.fromkeys(images))
        if names:
            sentence += f" Images in them: {', '.join(names[:MOST_NAMES])}"
            sentence += f" and {len(names) - MOST_NAMES} more." if len(names) > MOST_NAMES else "."
        sentences.append(sentence)
    return sentences


def _overfitting(record: Record) -> list[str]:
    """Validation loss that has clearly risen since its lowest point."""
    judged = record.of("best")
    if judged:
        return _worse_than_best(judged[-1])
    # a run of an older version, or one with few validations
    points = record.points("validation", "loss")
    if len(points) < 3:
        return []
    # a rise of a few percent is noise
    best_step, best = min(points, key=lambda point: point[1])
    last_step, last = points[-1]
    if last <= best * OVERFITTING or best_step == last_step:
        return []
    return [
        f"Validation loss was lowest at step {best_step:,.0f} ({best:.4f}) and is {last:.4f} now. The run may be "
        "overfitted to its images since then. Compare the previews, or use an export from that time."
    ]


def _worse_than_best(judgement: dict[str, Any]) -> list[str]:
    """What the last judgement of the weights says: that they are no longer the best, or not clearly better than at the
    start. The events of a folder from somebody else may lack a field."""
    best_step, last_step = judgement.get("best_step"), judgement.get("last_step")
    if not isinstance(best_step, int) or not isinstance(last_step, int):
        return []
    reason = judgement.get("reason")
    if best_step < last_step and judgement.get("remark"):
        return [
            f"The loss on held-out images has risen since step {best_step:,} ({reason}). That alone does not make "
            "earlier weights better: compare the previews, or measure likeness with the hook scores. To keep the "
            'weights of the lowest loss: by = "loss" in [best].'
        ]
    if best_step < last_step and judgement.get("by") == "likeness":
        return [f"Pictures of earlier weights are more like the images: use those of step {best_step:,} ({reason})."]
    if best_step < last_step:
        return [f"The run is overfitted to its images: its best weights are those of step {best_step:,} ({reason})."]
    # of few images nothing is distinguishable, which does not mean that nothing was learned
    if judgement.get("no_better_than_start") and not judgement.get("weak"):
        return [f"The loss on held-out images is not clearly lower than before the training ({reason})."]
    return []


def _rising_loss(record: Record) -> list[str]:
    """A training loss that ends higher than it began."""
    losses = [loss for _, loss in record.points("step", "loss")]
    tenth = len(losses) // 10
    if tenth < FEWEST_LOSSES:
        return []
    # single losses vary with their timesteps, so only means of many are compared
    first = sum(losses[:tenth]) / tenth
    last = sum(losses[-tenth:]) / tenth
    if last <= first * RISE:
        return []
    return [f"The loss rose from {first:.4f} to {last:.4f}. The learning rate may be too high."]
