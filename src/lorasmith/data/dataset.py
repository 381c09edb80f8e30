"""From settings to batches: exact epochs, cached latents and texts.

An epoch shows each image exactly `repeats` times, in batches of one bucket. Which batch comes when, which variant of an
image and which form of a caption, follows from the seed and the position alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.progress import Progress
from lorasmith.core.rng import derive, python_random
from lorasmith.data.buckets import Buckets, Placement, Size
from lorasmith.data.cache import TensorCache, default_folder
from lorasmith.data.config import DataConfig, SubsetConfig
from lorasmith.data.pixels import read_sample
from lorasmith.data.scan import ImageRecord, scan
from lorasmith.data.transforms import CaptionTransform, ImageTransform, Transform
from lorasmith.families.base import Cond, Family, Moments


@dataclass(frozen=True)
class TextPlan:
    """How captions are encoded."""

    max_tokens: int = 75
    clip_skip: int = 1


@dataclass(frozen=True)
class Item:
    """One view of an image: `epoch` and `occurrence` (of its repeats) say which."""

    record: int
    epoch: int
    occurrence: int


@dataclass(frozen=True)
class Plan:
    """One batch: its views, all of one bucket."""

    items: tuple[Item, ...]
    bucket: Size
    held_out: bool = False


@dataclass(frozen=True)
class Batch:
    """Tensors of one batch. `pixels` (B, 3, H, W) stand in for `moments` where latents are not cached, `cond` is None
    where texts are not. `original`, `crop`, `target`: (B, 2) height and width (top and left), for SDXL."""

    moments: Moments | None
    pixels: Tensor | None
    captions: list[str]
    cond: Cond | None
    loss_weight: Tensor
    mask: Tensor | None
    original: Tensor
    crop: Tensor
    target: Tensor
    names: list[str]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        moments = self.moments and Moments(move(self.moments.mean), move(self.moments.std))  # type: ignore[arg-type]
        moved = {n: move(getattr(self, n)) for n in ("pixels", "loss_weight", "mask", "original", "crop", "target")}
        return replace(self, moments=moments, cond=self.cond and self.cond.to(device), **moved)


@dataclass
class Dataset:
    """Images of a run: those that are trained on (`records`) and those held out (`validation`)."""

    config: DataConfig
    seed: int
    records: list[ImageRecord]
    validation: list[ImageRecord]
    buckets: Buckets
    text_cached: bool = False
    _latents: TensorCache = field(init=False)
    _texts: TensorCache = field(init=False)
    _vae: str | None = None
    _text: tuple[str, TextPlan] | None = None
    _kind: str = ""

    def __post_init__(self) -> None:
        folder = self.config.cache_dir or default_folder()
        self._latents, self._texts = TensorCache(folder, "latents"), TensorCache(folder, "texts")
        self.epoch = lru_cache(2)(self._epoch)

    @classmethod
    def build(cls, config: DataConfig, *, seed: int) -> Dataset:
        """Find, read and split. Raises ConfigError with every problem of every file."""
        records: list[ImageRecord] = []
        problems: list[Problem] = []
        for i, subset in enumerate(config.sources):
            key = f"data.subsets.{i}" if config.subsets else "data"
            found, wrong = scan(subset, key, config.skip_bad_images)
            records, problems = records + found, problems + wrong
        held: list[ImageRecord] = []
        if config.validation.images is not None:
            own = SubsetConfig(images=config.validation.images)
            held, wrong = scan(own, "data.validation", config.skip_bad_images)
            problems += wrong
        elif config.validation.split:
            held = [r for r in records if is_held_out(r.digest, seed, config.validation.split)]
        taken = {r.digest for r in held}
        kept = [r for r in records if r.digest not in taken]
        if records and not kept and not problems:
            problems.append(Problem("data.validation", "it takes all images, none is left to train on"))
        if problems:
            raise ConfigError(problems, "the data")
        return cls(config, seed, kept, held, Buckets.of(config))

    def placement(self, record: ImageRecord) -> Placement:
        """Bucket and size of an image."""
        return self.buckets.place(record.size)

    def transforms(self, record: ImageRecord) -> tuple[Transform, ...]:
        """All transforms of an image, in order."""
        return (*self.config.transforms, *record.transforms)

    def samples_per_epoch(self) -> int:
        return sum(record.repeats for record in self.records)

    def steps_per_epoch(self, accumulation: int) -> int:
        """Optimizer steps in an epoch; the last may have fewer micro-batches."""
        return -(-len(self.epoch(0)) // accumulation)

    def _epoch(self, number: int) -> list[Plan]:
        """The batches of epoch `number`, in order: each image exactly `repeats` times."""
        random = python_random(self.seed, "order", number)
        members: dict[Size, list[Item]] = {}
        for i, record in enumerate(self.records):
            bucket = members.setdefault(self.placement(record).bucket, [])
            bucket += [Item(i, number, occurrence) for occurrence in range(record.repeats)]
        plans = []
        for bucket, items in sorted(members.items()):
            random.shuffle(items)
            plans += [Plan(tuple(part), bucket) for part in parts(items, self.config.batch_size)]
        random.shuffle(plans)
        return plans

    def validation_plans(self) -> list[Plan]:
        """The held-out images in batches, the same each time."""
        members: dict[Size, list[Item]] = {}
        for i, record in enumerate(self.validation):
            members.setdefault(self.placement(record).bucket, []).append(Item(i, 0, 0))
        size = self.config.batch_size
        return [Plan(tuple(p), b, True) for b, items in sorted(members.items()) for p in parts(items, size)]

    def prepare(self, family: Family, *, text: TextPlan | None, progress: Progress) -> None:
        """Fill the caches; models are used only for what is missing.

        `text` None: the text encoder is trained, so texts are encoded anew in each step. Raises LorasmithError if
        latents come out that are not finite.
        """
        self._kind = family.kind
        if self.config.cache_latents:
            self._vae = family.fingerprint("vae")
            self._fill_latents(family, progress)
        if text is not None and not self._captions_change():
            self._text = (family.fingerprint("text"), text)
            self._fill_texts(family, progress)
            self.text_cached = True

    def load(self, plan: Plan) -> Batch:
        """A planned batch: from the caches where they hold it, else read anew."""
        source = self.validation if plan.held_out else self.records
        chosen = [(source[item.record], item) for item in plan.items]
        captions = [self.caption(record, item, plan.held_out) for record, item in chosen]
        variants = [self.variant(record, item, plan.held_out) for record, item in chosen]
        tensors = [self._image(record, variant) for (record, _), variant in zip(chosen, variants, strict=True)]
        cached = "mean" in tensors[0]
        std = torch.stack([t["std"] for t in tensors]) if "std" in tensors[0] else None
        mask = None
        if any("mask" in t for t in tensors):
            width, height = plan.bucket
            whole = torch.ones(1, height // 8, width // 8)
            mask = torch.stack([t.get("mask", whole) for t in tensors])
        boxes = [self._box(record, variant) for (record, _), variant in zip(chosen, variants, strict=True)]
        return Batch(
            moments=Moments(torch.stack([t["mean"] for t in tensors]), std) if cached else None,
            pixels=None if cached else torch.stack([t["pixels"] for t in tensors]),
            captions=captions,
            cond=Cond.concat([self._cond(c) for c in captions]) if self.text_cached else None,
            loss_weight=torch.tensor([record.loss_weight for record, _ in chosen]),
            mask=mask,
            original=torch.tensor([[record.size[1], record.size[0]] for record, _ in chosen]),
            crop=torch.tensor([[box[1], box[0]] for box in boxes]),
            target=torch.tensor([[plan.bucket[1], plan.bucket[0]]] * len(chosen)),
            names=[str(record.path) for record, _ in chosen],
        )

    def caption(self, record: ImageRecord, item: Item, held_out: bool = False) -> str:
        """The caption of a view, with all caption transforms; held-out images keep theirs as it is."""
        random = python_random(self.seed, "caption", item.epoch, record.digest, item.occurrence)
        if held_out:
            return record.caption
        caption = record.caption if len(record.captions) < 2 else random.choice(record.captions)
        for transform in self.transforms(record):
            if isinstance(transform, CaptionTransform):
                caption = transform(caption, random)
        return caption

    def variant(self, record: ImageRecord, item: Item, held_out: bool = False) -> tuple[int, ...]:
        """Which variant of each image transform a view has."""
        random = python_random(self.seed, "variant", item.epoch, record.digest, item.occurrence)
        image = [t for t in self.transforms(record) if isinstance(t, ImageTransform)]
        return tuple(0 if held_out else random.randrange(t.variants) for t in image)

    def fingerprint(self) -> str:
        """A hash of everything that decides which batches come, and what is in them."""
        rows = [[r.digest, r.captions, r.repeats, r.loss_weight, self._mask_word(r)] for r in self.records]
        held = [[r.digest, r.captions] for r in self.validation]
        outside = {"cache_dir", "workers", "cache_latents", "images", "subsets", "skip_bad_images"}
        settings = self.config.model_dump(mode="json", exclude=outside)
        subset = [[t.model_dump(mode="json") for t in r.transforms] for r in self.records]
        text = json.dumps([rows, held, settings, subset, self.seed], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def summary(self) -> dict[str, Any]:
        """Plain data for reports: counts, buckets, captions, cache use."""
        sizes = Counter(self.placement(record).bucket for record in self.records)
        words = [len(record.caption.split()) for record in self.records]
        return {
            "images": len(self.records),
            "repeats": self.samples_per_epoch(),
            "validation": len(self.validation),
            "batch_size": self.config.batch_size,
            "buckets": [{"size": list(size), "images": n} for size, n in sorted(sizes.items())],
            "captions": {
                "with": sum(1 for r in self.records if r.caption),
                "mean_words": round(sum(words) / max(1, len(words)), 1),
            },
            "cache": {
                "latents": {"found": self._latents.hits, "made": self._latents.misses},
                "texts": {"found": self._texts.hits, "made": self._texts.misses},
            },
        }

    def _captions_change(self) -> bool:
        records = self.records
        changing = (t.random for r in records for t in self.transforms(r) if isinstance(t, CaptionTransform))
        return any(changing) or any(len(r.captions) > 1 for r in records)

    def _views(self) -> list[tuple[ImageRecord, tuple[int, ...]]]:
        """Every image with every variant that may be asked for."""
        views = [(r, (0,) * len(self._images_of(r))) for r in self.validation]
        for record in self.records:
            combined: list[tuple[int, ...]] = [()]
            for transform in self._images_of(record):
                combined = [(*c, v) for c in combined for v in range(transform.variants)]
            views += [(record, variant) for variant in combined]
        return views

    def _images_of(self, record: ImageRecord) -> list[ImageTransform]:
        return [t for t in self.transforms(record) if isinstance(t, ImageTransform)]

    def _fill_latents(self, family: Family, progress: Progress) -> None:
        missing = {self._latent_key(r, v): (r, v) for r, v in self._views()}
        missing = {key: view for key, view in missing.items() if self._latents.get(key) is None}
        if not missing:
            return
        with progress.track("encoding images", len(missing)) as advance:
            for key, (record, variant) in missing.items():
                tensors = read_sample(record, self.placement(record), self._images_of(record), variant)
                moments = family.encode_image(tensors.pop("pixels")[None].to(family.device))
                tensors["mean"] = moments.mean[0].float()
                if moments.std is not None:
                    tensors["std"] = moments.std[0].float()
                if not torch.isfinite(tensors["mean"]).all():
                    raise LorasmithError(f"{record.path}: the VAE gives numbers that are not finite; use bf16 or fp32")
                self._latents.put(key, tensors)
                advance(1, record.path.name)

    def _fill_texts(self, family: Family, progress: Progress) -> None:
        captions = {self.caption(r, Item(i, 0, 0)) for i, r in enumerate(self.records)}
        captions |= {r.caption for r in self.validation}
        missing = [c for c in sorted(captions) if self._texts.get(self._text_key(c)) is None]
        if not missing:
            return
        assert self._text is not None
        plan = self._text[1]
        with progress.track("encoding captions", len(missing)) as advance, torch.no_grad():
            for caption in missing:
                cond = family.encode_text([caption], max_tokens=plan.max_tokens, clip_skip=plan.clip_skip)
                self._texts.put(self._text_key(caption), cond.tensors())
                advance(1, "")

    def _image(self, record: ImageRecord, variant: tuple[int, ...]) -> dict[str, Tensor]:
        if self._vae is not None:
            found = self._latents.get(self._latent_key(record, variant))
            if found is None:
                raise LorasmithError(f"{record.path}: its latent left the cache while training; start again")
            return found
        return read_sample(record, self.placement(record), self._images_of(record), variant)

    def _cond(self, caption: str) -> Cond:
        found = self._texts.get(self._text_key(caption))
        if found is None:
            raise LorasmithError(f'the text "{caption}" left the cache while training; start again')
        return Cond(**found)

    def _box(self, record: ImageRecord, variant: tuple[int, ...]) -> tuple[int, int, int, int]:
        from lorasmith.data.pixels import crop_share

        return self.placement(record).box(crop_share(self._images_of(record), variant))

    def _latent_key(self, record: ImageRecord, variant: tuple[int, ...]) -> str:
        place = self.placement(record)
        changes = [[t.model_dump(mode="json"), v] for t, v in zip(self._images_of(record), variant, strict=True)]
        return self._latents.key(
            image=record.digest,
            place=[place.bucket, place.resized],
            changes=changes,
            mask=self._mask_word(record),
            kind=self._kind,
            vae=self._vae,
        )

    def _mask_word(self, record: ImageRecord) -> str:
        if record.mask is None or record.mask == "alpha":
            return str(record.mask)
        return hashlib.sha256(record.mask.read_bytes()).hexdigest()

    def _text_key(self, caption: str) -> str:
        assert self._text is not None
        fingerprint, plan = self._text
        return self._texts.key(caption=caption, text=fingerprint, plan=vars(plan), kind=self._kind)


def parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Consecutive parts of at most `size`."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def is_held_out(digest: str, seed: int, share: float) -> bool:
    """Whether an image belongs to the held-out share; decided by its content."""
    return derive(seed, "validation", digest) / 2**63 < share
