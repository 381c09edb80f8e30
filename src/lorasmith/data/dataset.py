"""From image records to batches: exact epochs, cached latents and cached captions.

An epoch shows each image exactly `repeats` times, in batches of one bucket. The order of the batches, the variant of an
image and the form of its caption follow from the seed and the position alone, so nothing needs to be stored to resume.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lorasmith.core.errors import Problem
from lorasmith.core.progress import Progress
from lorasmith.core.rng import python_random
from lorasmith.data.batch import Batch, BatchPlan, PlannedView, collate
from lorasmith.data.buckets import Buckets
from lorasmith.data.cache import default_folder
from lorasmith.data.condition_images import ConditionInput
from lorasmith.data.config import BucketConfig, DataConfig
from lorasmith.data.folder_contents import FolderContents
from lorasmith.data.latents import CacheRanks, LatentCache
from lorasmith.data.placement import Placement, Size
from lorasmith.data.prefetch import Prefetcher
from lorasmith.data.records import ImageRecord
from lorasmith.data.remarks import Remark
from lorasmith.data.split import read_and_split
from lorasmith.data.texts import TextCache, TextSettings, possible_captions
from lorasmith.data.transforms import CaptionTransform, ImageTransform, TrainingProgress, Transform
from lorasmith.data.views import View, all_variants
from lorasmith.families.base import Family

__all__ = ["Batch", "BatchPlan", "Dataset", "PlannedView", "TextSettings"]

SEEDS = 2**62
"""Range of the variant number of a transform that has no finite number of variants: the number is a seed."""


@dataclass
class Dataset:
    """The images of a run: those that are trained on (`records`) and those held out (`validation`).

    `skipped`: images that could not be read and are left out, if `skip_bad_images` is set.
    """

    config: DataConfig
    seed: int
    records: list[ImageRecord]
    validation: list[ImageRecord]
    skipped: list[Problem] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    """What is probably not meant about the folders; remarks on single images are found by `lint`."""
    contents: list[FolderContents] = field(default_factory=list)
    """What became of the files of each folder."""
    conditions: tuple[ConditionInput, ...] = ()
    """The conditions whose pictures are read with the images."""
    text_cached: bool = False
    """Whether `prepare` has encoded all captions."""
    steps: int = 1
    """Length of the run, for captions that change in its course."""

    def __post_init__(self) -> None:
        folder = self.config.cache_dir or default_folder()
        self._latent_cache = LatentCache(folder)
        self._text_cache = TextCache(folder)
        self._prefetcher = Prefetcher(self.config.workers)
        self._resolution = self.config.size
        self.concept_names = tuple(dict.fromkeys(w for subset in self.config.sources for w in subset.concept_masks))
        """The words of the concepts for which any subset has masks."""
        self._buckets: dict[tuple[Size, BucketConfig], Buckets] = {}
        self._placements: dict[tuple[Size, BucketConfig, Size], Placement] = {}
        # Two epochs are kept: batches are read ahead across the end of an epoch.
        self.epoch = lru_cache(2)(self._plan_epoch)
        self._position_in_epoch = lru_cache(2)(self._plan_positions)

    @classmethod
    def build(
        cls,
        config: DataConfig,
        *,
        seed: int,
        default_caption: str | None = None,
        conditions: tuple[ConditionInput, ...] = (),
    ) -> Dataset:
        """Find, read and split the images. Raises ConfigError with every problem of every file.

        `default_caption`: of images without a caption. If it is empty they are a problem; if it is None they keep the
        empty text.
        """
        data = read_and_split(config, seed, default_caption)
        return cls(config, seed, data.trained, data.held_out, data.skipped, data.remarks, data.contents, conditions)

    # From records to epochs of planned batches.

    def placement(self, record: ImageRecord) -> Placement:
        """Bucket and size of an image."""
        resolution = record.resolution or self._resolution
        bucket_config = record.buckets or self.config.buckets
        rule = (resolution, bucket_config)
        if rule not in self._buckets:
            self._buckets[rule] = Buckets.of(resolution, bucket_config)
        key = (*rule, record.size)
        if key not in self._placements:
            self._placements[key] = self._buckets[rule].place(record.size)
        return self._placements[key]

    def samples_per_epoch(self) -> int:
        """How many views an epoch has: the sum of all repeats."""
        return sum(record.repeats for record in self.records)

    def steps_per_epoch(self, accumulation: int) -> int:
        """Optimizer steps in an epoch; the last may have fewer micro-batches."""
        return -(-len(self.epoch(0)) // accumulation)

    def _plan_epoch(self, number: int) -> list[BatchPlan]:
        """The batches of epoch `number`, in order: each image exactly `repeats` times."""
        random = python_random(self.seed, "order", number)
        groups: dict[tuple[Size, int], list[PlannedView]] = {}
        for index, record in enumerate(self.records):
            views = groups.setdefault(self._batch_group(record), [])
            views += [PlannedView(index, number, occurrence) for occurrence in range(record.repeats)]

        # Shuffled twice: which images share a batch, and then the order of the batches.
        plans: list[BatchPlan] = []
        for (bucket, batch_size), views in sorted(groups.items()):
            random.shuffle(views)
            plans += cut_into_batches(views, bucket, batch_size)
        random.shuffle(plans)
        return plans

    def validation_plans(self) -> list[BatchPlan]:
        """The held-out images in batches, the same each time."""
        groups: dict[tuple[Size, int], list[PlannedView]] = {}
        for index, record in enumerate(self.validation):
            groups.setdefault(self._batch_group(record), []).append(PlannedView(index, 0, 0))
        plans: list[BatchPlan] = []
        for (bucket, batch_size), views in sorted(groups.items()):
            plans += cut_into_batches(views, bucket, batch_size, held_out=True)
        return plans

    def _batch_group(self, record: ImageRecord) -> tuple[Size, int]:
        """Bucket and batch size: what the images of a batch have in common."""
        return self.placement(record).bucket, record.batch_size or self.config.batch_size

    # From a planned batch to tensors.

    def load(self, plan: BatchPlan, step: int = 0) -> Batch:
        """The batch of a plan at a step of the run: from the caches if they hold it, else read from the files."""
        source = self.validation if plan.held_out else self.records
        records = [source[planned.record] for planned in plan.views]
        captions = [
            self.caption(record, planned, plan.held_out, step)
            for record, planned in zip(records, plan.views, strict=True)
        ]
        views = self._views_of(plan)

        # Latents from the cache, or pixels from the files, which the prefetcher may have read already.
        if self.latents_cached:
            samples = [self._latent_cache.load(view) for view in views]
        else:
            coming = {other: self._views_of(other) for other in self._coming_plans(plan)}
            samples = self._prefetcher.take(plan, views, coming)

        conditioning = self._text_cache.load(captions) if self.text_cached else None
        return collate(samples, views, captions, conditioning, self.concept_names, self.conditions)

    def caption(self, record: ImageRecord, planned: PlannedView, held_out: bool = False, step: int = 0) -> str:
        """The caption of a view after all caption transforms. A held-out image gets its first caption, and only the
        transforms that do not draw random numbers."""
        random = python_random(self.seed, "caption", planned.epoch, record.digest, planned.occurrence)
        captions = record.captions or ("",)
        caption = captions[0]
        if len(captions) > 1 and not held_out:
            caption = random.choice(captions)
        progress = TrainingProgress(planned.epoch, step, self.steps)
        for transform in self.caption_transforms(record):
            if not (held_out and transform.random):
                caption = transform.at(progress)(caption, random)
        return caption

    def view(self, record: ImageRecord, planned: PlannedView, held_out: bool = False) -> View:
        """The image of a view: its placement, and a variant of each image transform."""
        # Named by content: adding an image to the data set does not change the variants of the others.
        random = python_random(self.seed, "variant", planned.epoch, record.digest, planned.occurrence)
        transforms = self.image_transforms(record, held_out)
        variant = tuple(random.randrange(transform.variants or SEEDS) for transform in transforms)
        return View(record, self.placement(record), transforms, variant, self.conditions)

    def _views_of(self, plan: BatchPlan) -> list[View]:
        source = self.validation if plan.held_out else self.records
        return [self.view(source[planned.record], planned, plan.held_out) for planned in plan.views]

    def _coming_plans(self, plan: BatchPlan) -> list[BatchPlan]:
        """The batches after a plan that are worth reading ahead."""
        if plan.held_out or not self._prefetcher.workers:
            return []
        epoch = plan.views[0].epoch
        position = self._position_in_epoch(epoch).get(plan)
        if position is None:  # a part of a batch, or one that was made by hand
            return []
        depth = self._prefetcher.depth
        coming = self.epoch(epoch)[position + 1 : position + 1 + depth]
        if len(coming) < depth:
            coming = coming + self.epoch(epoch + 1)[: depth - len(coming)]
        return coming

    def _plan_positions(self, number: int) -> dict[BatchPlan, int]:
        return {plan: position for position, plan in enumerate(self.epoch(number))}

    # Transforms.

    def transforms(self, record: ImageRecord) -> tuple[Transform, ...]:
        """All transforms of an image, in order."""
        return (*self.config.transforms, *record.transforms)

    def caption_transforms(self, record: ImageRecord) -> list[CaptionTransform]:
        """The caption transforms of an image, in order."""
        return [transform for transform in self.transforms(record) if isinstance(transform, CaptionTransform)]

    def image_transforms(self, record: ImageRecord, held_out: bool = False) -> tuple[ImageTransform, ...]:
        """The image transforms of an image, in order; of a held-out one those that are the same for every view."""
        transforms = [transform for transform in self.transforms(record) if isinstance(transform, ImageTransform)]
        return tuple(transform for transform in transforms if not (held_out and transform.random))

    # Caches.

    def prepare(
        self, family: Family, *, text: TextSettings | None, progress: Progress, ranks: CacheRanks | None = None
    ) -> None:
        """Fill the caches. Models are used only for what is missing, and each image is encoded by one of the `ranks`.

        `text` is None if the text encoder is trained: captions are then encoded anew in each step, as they are if they
        change in more ways than can be cached. Raises LorasmithError if latents are not finite.
        """
        for problem in self.skipped:
            progress.say(f"left out: {problem.where}: {problem.found}")

        if self.config.cache_latents and self.live:
            progress.say(
                f"latents are not cached but made anew in each step: {self.live} changes images in too many ways"
            )
        elif self.config.cache_latents:
            self._latent_cache.fill(self.cacheable_views(), family, progress, ranks)

        captions = None if text is None else self.cacheable_captions()
        if text is not None and captions is not None:
            self._text_cache.fill(captions, family, text, progress)
            self.text_cached = True

        for cache in (self._latent_cache, self._text_cache):
            if cache.unwritable:
                progress.say(f"the cache cannot be written for the next run: {cache.unwritable}")

    @property
    def live(self) -> str:
        """The kind of the first image transform that changes every view in a new way, so that latents cannot be cached;
        or an empty text."""
        for record in self.records:
            for transform in self.image_transforms(record):
                if transform.variants is None:
                    return str(transform.kind)  # type: ignore[attr-defined]
        return ""

    @property
    def latents_cached(self) -> bool:
        """Whether `prepare` has put all latents into the cache."""
        return self._latent_cache.encoder is not None

    def cacheable_views(self) -> list[View]:
        """Every image with every combination of variants that a batch can contain."""
        # Held-out images have no random transforms, so any view of them is the only one.
        views = [self.view(record, PlannedView(0, 0, 0), held_out=True) for record in self.validation]
        for record in self.records:
            transforms = self.image_transforms(record)
            placement = self.placement(record)
            views += [
                View(record, placement, transforms, variant, self.conditions) for variant in all_variants(transforms)
            ]
        return views

    def cacheable_captions(self) -> set[str] | None:
        """Every caption that a batch can contain; None if they are too many to cache."""
        captions = {self.caption(record, PlannedView(0, 0, 0), held_out=True) for record in self.validation}
        for record in self.records:
            possible = possible_captions(record.captions, self.caption_transforms(record))
            if possible is None:
                return None
            captions |= possible
        return captions

    # Facts for checkpoints and reports.

    def fingerprint(self) -> str:
        """A hash of everything that decides the order and the content of the batches; not of where files lie."""
        excluded = ("cache_dir", "workers", "cache_latents", "images", "subsets", "skip_bad_images", "empty_captions")
        settings = self.config.model_dump(
            mode="json", exclude={**dict.fromkeys(excluded, True), "validation": {"images"}}
        )
        trained = [record.training_content() for record in self.records]
        held_out = [record.training_content() for record in self.validation]
        text = json.dumps([trained, held_out, settings, self.seed], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def summary(self) -> dict[str, Any]:
        """JSON data for reports: counts, buckets, captions, cache use."""
        images_by_bucket = Counter(self.placement(record).bucket for record in self.records)
        buckets = [{"size": list(size), "images": count} for size, count in sorted(images_by_bucket.items())]
        word_counts = [len(record.caption.split()) for record in self.records]
        return {
            "images": len(self.records),
            "repeats": self.samples_per_epoch(),
            "validation": len(self.validation),
            "skipped": len(self.skipped),
            "live": self.live,
            "batch_size": self.config.batch_size,
            "buckets": buckets,
            "captions": {
                "with": sum(1 for record in self.records if record.caption),
                "mean_words": round(sum(word_counts) / max(1, len(word_counts)), 1),
            },
            "cache": {"latents": self._latent_cache.counts(), "texts": self._text_cache.counts()},
        }


def cut_into_batches(
    views: list[PlannedView], bucket: Size, batch_size: int, held_out: bool = False
) -> list[BatchPlan]:
    """Consecutive batches of at most `batch_size` views."""
    starts = range(0, len(views), batch_size)
    return [BatchPlan(tuple(views[start : start + batch_size]), bucket, held_out) for start in starts]
