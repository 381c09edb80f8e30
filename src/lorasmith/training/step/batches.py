"""The micro-batches of a step: loaded, on the device, encoded where no cache holds them, with their random draws."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from lorasmith.core.rng import StepRng, derive
from lorasmith.data.dataset import Batch, BatchPlan

if TYPE_CHECKING:
    from lorasmith.training.run import Run


def rank_share(plans: Sequence[BatchPlan], rank: int = 0, ranks: int = 1) -> list[tuple[int, BatchPlan]]:
    """The part of a step's batches that one of several ranks computes: for each, the index of its first sample in the
    global batch, and its plan.

    The parts of the ranks are consecutive and differ by one sample at most; the first rank's is never empty.
    """
    samples = sum(len(plan.views) for plan in plans)
    # Rounded up, so that the first ranks get what is left over.
    share_start = -(-samples * rank // ranks)
    share_end = -(-samples * (rank + 1) // ranks)

    share: list[tuple[int, BatchPlan]] = []
    plan_start = 0
    for plan in plans:
        start = max(share_start - plan_start, 0)
        end = min(share_end - plan_start, len(plan.views))
        if start < end:
            share.append((plan_start + start, replace(plan, views=plan.views[start:end])))
        plan_start += len(plan.views)
    return share


def one_batch_each(plans: Sequence[BatchPlan], ranks: int = 1) -> bool:
    """Whether each rank computes exactly one batch of a step, so that the step may be a CUDA graph on all of them."""
    if len(plans) == ranks == 1:
        return True
    return all(len(rank_share(plans, rank, ranks)) == 1 for rank in range(ranks))


def cut_to_size(share: Sequence[tuple[int, BatchPlan]], largest: int | None) -> list[tuple[int, BatchPlan]]:
    """A share of a step in micro-batches of at most `largest` samples; None: as it is."""
    if largest is None:
        return list(share)
    parts: list[tuple[int, BatchPlan]] = []
    for first_sample, plan in share:
        for start in range(0, len(plan.views), largest):
            parts.append((first_sample + start, replace(plan, views=plan.views[start : start + largest])))
    return parts


def micro_batches(run: Run, share: Sequence[tuple[int, BatchPlan]], number: int) -> Iterator[tuple[Batch, StepRng]]:
    """The micro-batches of step `number` with their draws.

    `share`: for each micro-batch, the index of its first sample in the global batch, and its plan (see `rank_share`).
    Each micro-batch seeds torch's global generators before it is loaded, because dropout draws from them; use inside
    `restored_global_generators`.
    """
    for first_sample, plan in share:
        # The seed is derived from the position, so that dropout, too, is the same after a resume.
        torch.manual_seed(derive(run.seed, "dropout", number, first_sample))
        batch = prepare_batch(run, run.dataset.load(plan, number))
        samples = list(range(first_sample, first_sample + len(plan.views)))
        yield batch, StepRng(run.seed, number, samples, run.device)


def prepare_batch(run: Run, batch: Batch) -> Batch:
    """A loaded batch as the objective needs it: on the device, with latents and conditioning.

    A text encoder that is trained runs here, with gradients.
    """
    batch = batch.to(run.device)

    # Pixels to latents, where no cache holds them.
    if batch.latents is None and batch.pixels is not None:
        batch = replace(batch, latents=run.family.encode_image(batch.pixels))

    # Captions to conditioning, where no cache holds it.
    if batch.conditioning is None:
        options = run.caption_encoding
        conditioning = run.family.encode_text(
            batch.captions,
            max_tokens=options.max_tokens,
            clip_skip=options.clip_skip,
            weighted=options.weighted,
        )
        batch = replace(batch, conditioning=conditioning)

    # Sizes differ from view to view, so they are not in the caches.
    assert batch.conditioning is not None
    conditioning = run.family.add_sizes(batch.conditioning, batch.original, batch.crop, batch.target)
    if batch.conditions:
        conditioning = conditioning.with_tensors(**batch.conditions)
    return replace(batch, conditioning=conditioning)
