"""The settings of the data: where images are, how they are read, grouped and changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lorasmith.core.registry import Config
from lorasmith.data.transforms import Transform


class BucketConfig(Config):
    """Sizes to group images by. Automatic sizes follow the resolution: a half to twice of it."""

    enabled: bool = True
    """If off, every image is cropped to the resolution."""
    min: int | None = Field(default=None, ge=8)
    max: int | None = Field(default=None, ge=8)
    step: int | None = Field(default=None, ge=8, multiple_of=8)
    """Sides are multiples of it. Automatic: 64, or 16 for resolutions below 256."""
    upscale: bool = True
    """If off, an image smaller than the resolution keeps its size and gets a bucket of its own."""

    @model_validator(mode="after")
    def _in_order(self) -> BucketConfig:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is larger than max ({self.max})")
        return self


class SubsetConfig(Config):
    """One source of images."""

    images: Path
    """A folder, a `metadata.jsonl`, or one image."""
    metadata: Path | None = None
    """A file with the captions of images in the folder: `.json` of `{image: {caption, tags}}`, or `.jsonl`. Only
    images that it names are read."""
    part: tuple[int, int] | None = None
    """Only these images, in the order of their names: `[0, 20]` are the first 20."""
    repeats: int = Field(default=1, ge=1)
    """How often an epoch sees each image."""
    caption: str | None = None
    """For images that have no caption of their own."""
    caption_column: str | None = None
    """Of `metadata.jsonl` and `metadata.csv`; default: `text`, `caption` or `prompt`."""
    caption_lines: Literal["any", "first"] = "any"
    """Of captions with several lines: one by chance for each view, or always the first."""
    captions: Path | None = None
    """The folder of caption files; default: beside the images."""
    caption_extension: tuple[str, ...] = (".txt", ".caption")
    """A caption file has the image's name with one of these; the first that exists counts."""
    recursive: bool = False
    """Look into sub-folders too."""
    class_folders: bool | Literal["auto"] = "auto"
    """Sub-folders named `10_cat dog` hold images to be repeated 10 times, with `cat dog` as fallback caption. `auto`:
    if there are such sub-folders and no images beside them."""
    resolution: int | tuple[int, int] | None = None
    """Of these images, if not the data's. One folder in two subsets is trained at two resolutions."""
    batch_size: int | None = Field(default=None, ge=1)
    """Of these images, if not the data's; larger resolutions may need smaller batches."""
    buckets: BucketConfig | None = None
    """Of these images, if not the data's."""
    resize: Literal["auto", "area", "nearest", "bilinear", "bicubic", "lanczos"] = "auto"
    """How images are brought to size; `auto`: by area when they shrink, else Lanczos."""
    preserve: bool = False
    """Train these images to what the base gives for them, so that the adapter leaves such images alone."""
    hold_out: bool = True
    """Whether some may be held out for `validation.split`; off for regularisation images."""
    loss_weight: float = Field(default=1.0, ge=0)
    """Factor of these images' loss; below 1 for regularisation images."""
    masks: Path | Literal["alpha"] | None = None
    """Where the loss counts: a folder with masks of the same names, or the images' alpha channels."""
    masks_for_all: bool = True
    """If off, an image without a mask in the folder is trained whole; else it is an error."""
    masks_weigh: bool = True
    """If off, the loss counts everywhere, and masks only tell attention regularisation where the subject is."""
    concept_masks: dict[str, Path] = Field(default_factory=dict)
    """For pictures with several concepts: by a word of a concept the folder of masks of where it is. They only tell
    attention regularisation; for an image that has none in the folder, its own mask does."""
    transforms: tuple[Transform, ...] = ()
    """After those of the whole data set."""

    @field_validator("resolution")
    @classmethod
    def _sides(cls, resolution: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        return None if resolution is None else checked(resolution)

    @field_validator("caption_extension")
    @classmethod
    def _dots(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        """`txt` means `.txt`."""
        return tuple(e if e.startswith(".") else f".{e}" for e in extensions)


class ValidationConfig(Config):
    """Images that are never trained on."""

    split: float = Field(default=0.0, ge=0, lt=1)
    """The share of images held out; chosen by content, so that copies of an image stay together."""
    seed: int | None = Field(default=None, ge=0)
    """Which ones; default: the run's seed. Runs with the same one hold out the same images."""
    images: Path | None = None
    """Or a folder of them."""


class DataConfig(Config):
    """The data of a run."""

    images: Path | None = None
    """A folder, `metadata.jsonl` or image, for data of one source; else give `subsets`."""
    subsets: tuple[SubsetConfig, ...] = ()
    resolution: int | tuple[int, int] = 512
    """Side of a square, or (width, height): the area that all buckets have about."""
    batch_size: int = Field(default=1, ge=1)
    buckets: BucketConfig = BucketConfig()
    validation: ValidationConfig = ValidationConfig()
    transforms: tuple[Transform, ...] = ()
    """For all subsets, in order."""
    cache_dir: Path | None = None
    """Of latents and texts; default: LORASMITH_CACHE, else ~/.cache/lorasmith. Safe to share and to delete."""
    cache_latents: bool = True
    workers: int = Field(default=0, ge=0)
    """Threads that read images ahead when latents are not cached. Results are the same for any number."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, in place of refusing to train."""

    @model_validator(mode="before")
    @classmethod
    def _single_source(cls, value: Any) -> Any:
        """Settings of a subset may stand beside `images`."""
        if not isinstance(value, dict) or "images" not in value or value.get("subsets"):
            return value
        both = ("images", "transforms", "resolution", "batch_size", "buckets")
        own = {k: value[k] for k in SubsetConfig.model_fields if k in value and k not in both}
        if not own:
            return value
        rest = {k: v for k, v in value.items() if k not in own and k != "images"}
        return rest | {"subsets": [{"images": value["images"], **own}]}

    @model_validator(mode="after")
    def _one_way(self) -> DataConfig:
        if (self.images is None) == (not self.subsets):
            raise ValueError('give either images = "folder" or subsets, one table for each source')
        checked(self.resolution)
        return self

    @property
    def sources(self) -> tuple[SubsetConfig, ...]:
        """The subsets, whichever way they were given."""
        return self.subsets if self.images is None else (SubsetConfig(images=self.images),)

    @property
    def size(self) -> tuple[int, int]:
        """Resolution as (width, height)."""
        return sides_of(self.resolution)


def sides_of(resolution: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height)."""
    return resolution if isinstance(resolution, tuple) else (resolution, resolution)


def checked(resolution: int | tuple[int, int]) -> int | tuple[int, int]:
    """The same. Raises ValueError if latents cannot have such a size."""
    sides = sides_of(resolution)
    if min(sides) < 16 or any(side % 8 for side in sides):
        raise ValueError("resolution must be a multiple of 8, at least 16")
    return resolution
