"""From settings to batches: exact epochs, cached latents and texts.

An epoch shows each image exactly `repeats` times, in batches of one bucket. Which batch comes when, which variant of an
image and which form of a caption, follows from the seed and the position alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.errors import ConfigError, Problem
from lorasmith.core.progress import Progress
from lorasmith.core.rng import derive, python_random
from lorasmith.data.batch import Batch, BatchPlan, PlannedView
from lorasmith.data.buckets import Buckets, Placement, Size
from lorasmith.data.cache import TensorCache, default_folder
from lorasmith.data.config import BucketConfig, DataConfig, SubsetConfig
from lorasmith.data.latents import CacheRanks, LatentCache
from lorasmith.data.masks import concept_masks_of, masks_of
from lorasmith.data.pixels import DOWNSCALE
from lorasmith.data.prefetch import Prefetcher
from lorasmith.data.scan import ImageRecord, Scan, scan
from lorasmith.data.texts import TextCache, TextSettings, outcomes
from lorasmith.data.transforms import CaptionTransform, ImageTransform, TrainingProgress, Transform
from lorasmith.data.views import View, variants
from lorasmith.families.base import Family, LatentDistribution

__all__ = ["Batch", "BatchPlan", "Dataset", "PlannedView", "TextSettings"]

Rule = tuple[Size, BucketConfig]
"""Resolution and buckets: how images are placed."""
SEEDS = 2**62
"""Of transforms that make an image of its own for each view."""


@dataclass
class Dataset:
    """Images of a run: those that are trained on (`records`) and those held out (`validation`).

    `skipped`: images that could not be read and are left out, as `skip_bad_images` asks.
    """

    config: DataConfig
    seed: int
    records: list[ImageRecord]
    validation: list[ImageRecord]
    buckets: Buckets
    skipped: list[Problem] = field(default_factory=list)
    text_cached: bool = False
    steps: int = 1
    """Of the run, where captions change in its course."""

    def __post_init__(self) -> None:
        folder = self.config.cache_dir or default_folder()
        self._latents, self._texts = LatentCache(folder), TextCache(folder)
        self._ahead = Prefetcher(self.config.workers)
        self._places: dict[tuple[Size, Rule], Placement] = {}
        self._rules: dict[Rule, Buckets] = {(self.config.size, self.config.buckets): self.buckets}
        self.epoch = lru_cache(2)(self._epoch)
        self._order = lru_cache(2)(lambda number: {plan: i for i, plan in enumerate(self.epoch(number))})

    @classmethod
    def build(cls, config: DataConfig, *, seed: int) -> Dataset:
        """Find, read and split. Raises ConfigError with every problem of every file."""
        found, apart = Scan(), Scan()
        for i, subset in enumerate(config.sources):
            key = f"data.subsets.{i}" if len(config.sources) > 1 else "data"
            part = scan(subset, key, config.skip_bad_images)
            found.records += part.records
            found.skipped += part.skipped
            found.problems += part.problems
        held: list[ImageRecord] = []
        if config.validation.images is not None:
            apart = scan(validation_subset(config), "data.validation", config.skip_bad_images)
            held = unique(apart.records)
        elif config.validation.split:
            own = config.validation.seed
            held = held_out(found.records, seed if own is None else own, config.validation.split)
        taken = {r.digest for r in held}
        kept = [r for r in found.records if r.digest not in taken]
        problems = found.problems + apart.problems
        if found.records and not kept and not problems:
            what = "it takes all images, none is left to train on"
            problems.append(Problem("data.validation", what, remedy="add images, or hold none out"))
        if problems:
            raise ConfigError(problems, "the data")
        return cls(config, seed, kept, held, Buckets.of(config), found.skipped + apart.skipped)

    def placement(self, record: ImageRecord) -> Placement:
        """Bucket and size of an image."""
        rule = (record.resolution or self.config.size, record.buckets or self.config.buckets)
        if rule not in self._rules:
            own = {"resolution": rule[0], "buckets": rule[1]}
            self._rules[rule] = Buckets.of(self.config.model_copy(update=own))
        key = (record.size, rule)
        if key not in self._places:
            self._places[key] = self._rules[rule].place(record.size)
        return self._places[key]

    def transforms(self, record: ImageRecord) -> tuple[Transform, ...]:
        """All transforms of an image, in order."""
        return (*self.config.transforms, *record.transforms)

    @property
    def concept_names(self) -> tuple[str, ...]:
        """The words of the concepts that have masks of their own anywhere."""
        return tuple(dict.fromkeys(name for source in self.config.sources for name in source.concept_masks))

    def samples_per_epoch(self) -> int:
        """How many views an epoch has: the sum of all repeats."""
        return sum(record.repeats for record in self.records)

    def steps_per_epoch(self, accumulation: int) -> int:
        """Optimizer steps in an epoch; the last may have fewer micro-batches."""
        return -(-len(self.epoch(0)) // accumulation)

    def _epoch(self, number: int) -> list[BatchPlan]:
        """The batches of epoch `number`, in order: each image exactly `repeats` times."""
        random = python_random(self.seed, "order", number)
        members: dict[tuple[Size, int], list[PlannedView]] = {}
        for i, record in enumerate(self.records):
            group = members.setdefault(self._group(record), [])
            group += [PlannedView(i, number, occurrence) for occurrence in range(record.repeats)]
        plans = []
        for (bucket, size), items in sorted(members.items()):
            random.shuffle(items)
            plans += [BatchPlan(tuple(part), bucket) for part in parts(items, size)]
        random.shuffle(plans)
        return plans

    def _group(self, record: ImageRecord) -> tuple[Size, int]:
        """Bucket and batch size: what images of one batch have in common."""
        return self.placement(record).bucket, record.batch_size or self.config.batch_size

    def validation_plans(self) -> list[BatchPlan]:
        """The held-out images in batches, the same each time."""
        members: dict[tuple[Size, int], list[PlannedView]] = {}
        for i, record in enumerate(self.validation):
            members.setdefault(self._group(record), []).append(PlannedView(i, 0, 0))
        return [
            BatchPlan(tuple(p), b, True) for (b, size), items in sorted(members.items()) for p in parts(items, size)
        ]

    def prepare(
        self, family: Family, *, text: TextSettings | None, progress: Progress, ranks: CacheRanks | None = None
    ) -> None:
        """Fill the caches; models are used only for what is missing, and each image by one of the `ranks`.

        `text` None: the text encoder is trained, so texts are encoded anew in each step; so they are if captions change
        in more ways than can be kept. Raises LorasmithError if latents come out that are not finite.
        """
        for problem in self.skipped:
            progress.say(f"left out: {problem.where}: {problem.found}")
        live = self.live
        if live and self.config.cache_latents:
            progress.say(f"latents are made anew in each step: {live} changes images in too many ways to keep them")
        elif self.config.cache_latents:
            self._latents.fill(self._views(), family, progress, ranks)
        captions = None if text is None else self._captions()
        if text is not None and captions is not None:
            self._texts.fill(captions, family, text, progress)
            self.text_cached = True
        for cache in (self._latents, self._texts):
            if cache.unwritable:
                progress.say(f"nothing is kept for the next run: {cache.unwritable}")

    def load(self, plan: BatchPlan, step: int = 0) -> Batch:
        """A planned batch, for a step of the run: from the caches where they hold it, else read anew."""
        chosen = self._chosen(plan)
        captions = [self.caption(record, item, plan.held_out, step) for record, item in chosen]
        views = self._views_of(plan)
        tensors = self._tensors(plan, views)
        records = [record for record, _ in chosen]
        width, height = plan.bucket
        grid = (height // DOWNSCALE, width // DOWNSCALE)
        return Batch(
            latents=latents_of(tensors),
            pixels=stacked(tensors, "pixels"),
            captions=captions,
            conditioning=self._texts.of(captions) if self.text_cached else None,
            loss_weight=torch.tensor([record.loss_weight for record in records]),
            **masks_of(tensors, [r.masks_weigh for r in records], grid),
            **concept_masks_of(tensors, [r.concepts for r in records], self.concept_names, grid),
            preserve=torch.tensor([float(r.preserve) for r in records]) if any(r.preserve for r in records) else None,
            original=torch.tensor([[record.size[1], record.size[0]] for record in records]),
            crop=torch.tensor([[max(0, view.cut.box[1]), max(0, view.cut.box[0])] for view in views]),
            target=torch.tensor([[height, width]] * len(records)),
            names=[str(record.path) for record in records],
        )

    def caption(self, record: ImageRecord, item: PlannedView, held_out: bool = False, step: int = 0) -> str:
        """The caption of a view, with all caption transforms; of a held-out one, with those that leave nothing to
        chance."""
        random = python_random(self.seed, "caption", item.epoch, record.digest, item.occurrence)
        several = len(record.captions) > 1 and not held_out
        caption = random.choice(record.captions) if several else record.caption
        moment = TrainingProgress(item.epoch, step, self.steps)
        for transform in self._caption_transforms(record):
            if not (held_out and transform.random):
                caption = transform.at(moment)(caption, random)
        return caption

    def view(self, record: ImageRecord, item: PlannedView, held_out: bool = False) -> View:
        """The image of a view: which variant of each image transform it has."""
        random = python_random(self.seed, "variant", item.epoch, record.digest, item.occurrence)
        image = self._image_transforms(record, held_out)
        return View(record, self.placement(record), image, tuple(random.randrange(t.variants or SEEDS) for t in image))

    def fingerprint(self) -> str:
        """A hash of everything that decides which batches come, and what is in them; not of where files lie."""
        outside = ("cache_dir", "workers", "cache_latents", "images", "subsets", "skip_bad_images")
        settings = self.config.model_dump(
            mode="json", exclude={**dict.fromkeys(outside, True), "validation": {"images"}}
        )
        everything = [[row_of(r) for r in self.records], [row_of(r) for r in self.validation], settings, self.seed]
        return hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()

    def summary(self) -> dict[str, Any]:
        """Plain data for reports: counts, buckets, captions, cache use."""
        sizes = Counter(self.placement(record).bucket for record in self.records)
        words = [len(record.caption.split()) for record in self.records]
        return {
            "images": len(self.records),
            "repeats": self.samples_per_epoch(),
            "validation": len(self.validation),
            "skipped": len(self.skipped),
            "live": self.live,
            "batch_size": self.config.batch_size,
            "buckets": [{"size": list(size), "images": n} for size, n in sorted(sizes.items())],
            "captions": {
                "with": sum(1 for r in self.records if r.caption),
                "mean_words": round(sum(words) / max(1, len(words)), 1),
            },
            "cache": {"latents": counts(self._latents), "texts": counts(self._texts)},
        }

    def _chosen(self, plan: BatchPlan) -> list[tuple[ImageRecord, PlannedView]]:
        source = self.validation if plan.held_out else self.records
        return [(source[item.record], item) for item in plan.views]

    def _views_of(self, plan: BatchPlan) -> tuple[View, ...]:
        return tuple(self.view(record, item, plan.held_out) for record, item in self._chosen(plan))

    def _tensors(self, plan: BatchPlan, views: tuple[View, ...]) -> list[dict[str, Tensor]]:
        if self.latents_cached:
            return [self._latents.of(view) for view in views]
        return self._ahead.take(plan, views, [(other, self._views_of(other)) for other in self._coming(plan)])

    def _coming(self, plan: BatchPlan) -> list[BatchPlan]:
        """The batches after a plan that are worth reading ahead."""
        if plan.held_out or not self._ahead.workers:
            return []
        number, depth = plan.views[0].epoch, self._ahead.depth
        place = self._order(number).get(plan)
        if place is None:
            return []
        following = self.epoch(number)[place + 1 : place + 1 + depth]
        return following if len(following) == depth else following + self.epoch(number + 1)[: depth - len(following)]

    def _caption_transforms(self, record: ImageRecord) -> list[CaptionTransform]:
        return [t for t in self.transforms(record) if isinstance(t, CaptionTransform)]

    def _image_transforms(self, record: ImageRecord, held_out: bool) -> tuple[ImageTransform, ...]:
        image = [t for t in self.transforms(record) if isinstance(t, ImageTransform)]
        return tuple(t for t in image if not (held_out and t.random))

    @property
    def live(self) -> str:
        """A kind of transform that makes an image of its own for each view, so that no latents can be kept, or ""."""
        kinds = (t for r in self.records for t in self._image_transforms(r, held_out=False) if t.variants is None)
        return next((str(t.kind) for t in kinds), "")  # type: ignore[attr-defined]

    @property
    def latents_cached(self) -> bool:
        """Whether `prepare` has put all latents into the cache."""
        return self._latents.encoder is not None

    def _captions(self) -> set[str] | None:
        """Every text that may be asked for; None if they are too many to keep."""
        texts = {self.caption(r, PlannedView(0, 0, 0), held_out=True) for r in self.validation}
        for record in self.records:
            own = outcomes(record.captions, self._caption_transforms(record))
            if own is None:
                return None
            texts |= own
        return texts

    def _views(self) -> list[View]:
        """Every image with every variant that may be asked for."""
        views = [self.view(r, PlannedView(0, 0, 0), held_out=True) for r in self.validation]
        for record in self.records:
            image = self._image_transforms(record, held_out=False)
            views += [View(record, self.placement(record), image, variant) for variant in variants(image)]
        return views


def latents_of(tensors: Sequence[dict[str, Tensor]]) -> LatentDistribution | None:
    """The latents of a batch, if they are what was read."""
    mean = stacked(tensors, "mean")
    return None if mean is None else LatentDistribution(mean, stacked(tensors, "std"))


def stacked(tensors: Sequence[dict[str, Tensor]], name: str) -> Tensor | None:
    """One tensor of each sample as a batch; None if none has it."""
    return torch.stack([t[name] for t in tensors]) if any(name in t for t in tensors) else None


def row_of(record: ImageRecord) -> list[Any]:
    """Everything about an image that decides what is trained."""
    changes = [t.model_dump(mode="json") for t in record.transforms]
    mask = record.mask_digest or record.mask
    row = [record.digest, record.captions, record.repeats, record.loss_weight, mask, changes]
    own = {
        "masks_weigh": None if record.masks_weigh else False,
        "preserve": record.preserve or None,
        "concept_masks": [[name, digest] for name, _, digest in record.concept_masks] or None,
        "resize": None if record.resize == "auto" else record.resize,
        "resolution": record.resolution,
        "batch_size": record.batch_size,
        "buckets": record.buckets and record.buckets.model_dump(mode="json"),
    }
    return [*row, *([key, value] for key, value in own.items() if value is not None)]


def counts(cache: TensorCache) -> dict[str, int]:
    """How much of a cache was found and how much was made."""
    return {"found": cache.hits, "made": cache.misses}


def parts(items: Sequence[PlannedView], size: int) -> list[Sequence[PlannedView]]:
    """Consecutive parts of at most `size`."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def validation_subset(config: DataConfig) -> SubsetConfig:
    """The held-out folder, read as the first source is, so that a common fallback caption holds for both."""
    first = config.sources[0]
    same = {"caption": first.caption, "caption_extension": first.caption_extension}
    assert config.validation.images is not None
    return SubsetConfig(images=config.validation.images, **same)


def unique(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The first record of each image; copies left out."""
    return list({r.digest: r for r in reversed(records)}.values())[::-1]


def held_out(records: Sequence[ImageRecord], seed: int, share: float) -> list[ImageRecord]:
    """A share of the images that may be held out, at least one, chosen by content; copies of an image count once."""
    images = unique([r for r in records if r.hold_out])
    if not images:
        return []
    ranked = sorted(images, key=lambda r: derive(seed, "validation", r.digest))
    chosen = {r.digest for r in ranked[: max(1, round(share * len(images)))]}
    return [r for r in images if r.digest in chosen]
