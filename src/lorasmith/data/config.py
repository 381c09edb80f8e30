"""The settings of the data: where images are, and how they are read, grouped and transformed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lorasmith.core.embedded_images import embedded_images, embedded_masks
from lorasmith.core.latent_grid import DOWNSCALE, MAX_SIDE
from lorasmith.core.registry import Config
from lorasmith.data.transforms import Transform

DEFAULT_RESOLUTION = 512
"""Where it is not known what the base was made for."""
ImagePath = Annotated[Path, BeforeValidator(embedded_images)]
"""A path, or the name of images that come with the package."""
MaskPath = Annotated[Path, BeforeValidator(embedded_masks)]
"""A path, or the name of masks that come with the package."""


class BucketConfig(Config):
    """Sizes by which images are grouped. Automatic sizes follow from the resolution: half to twice of it."""

    enabled: bool = True
    """If off, every image is cropped to the resolution."""
    min: int | None = Field(default=None, ge=8)
    max: int | None = Field(default=None, ge=8)
    step: int | None = Field(default=None, ge=8, multiple_of=8)
    """Sides are multiples of this. Automatic: 64, or 16 for resolutions below 256."""
    upscale: bool = True
    """If off, an image smaller than the resolution keeps its size and gets a bucket of its own."""

    @model_validator(mode="after")
    def _in_order(self) -> BucketConfig:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is larger than max ({self.max})")
        return self


NO_CAPTION_FILES = (".no-captions",)
"""A caption extension that no file has, for runs that read no caption files."""
IMAGES_ELSEWHERE = ("folder", "path", "dir", "directory", "image_dir", "image_folder", "image_path", "dataset")
"""What other trainers call the folder of the images."""


class SubsetConfig(Config):
    """One source of images."""

    other_names: ClassVar[Mapping[str, str]] = dict.fromkeys(IMAGES_ELSEWHERE, "images")

    images: ImagePath
    """A folder, a `metadata.jsonl`, or one image. `lorasmith:garp` and `lorasmith:others` come with the package."""
    metadata: Path | None = None
    """A file with the captions of the images in the folder: `.json` of `{image: {caption, tags}}`, or `.jsonl`. Only
    images that it names are read."""
    part: tuple[int, int] | None = None
    """Only these images, in the order of their names: `[0, 20]` is the first 20."""
    larger_than: int | tuple[int, int] | None = None
    """Only images with more pixels than a picture of this size (a side, or width and height) has; for a folder that is
    trained at several resolutions. The others are left out, before `part` counts, and `check` names them."""
    repeats: int = Field(default=1, ge=1)
    """How often each image appears in an epoch."""
    caption: str | None = None
    """Fallback caption, for images that have no caption of their own."""
    empty_captions: bool | None = None
    """Whether images without a caption are trained on the empty text; default: as for the whole data set."""
    caption_column: str | None = None
    """The column of a `metadata` table that has the captions; default: `text`, `caption` or `prompt`."""
    caption_lines: Literal["any", "first"] = "any"
    """For captions with several lines: `any` uses a random line for each view, `first` always the first."""
    captions: Path | None = None
    """The folder of caption files; default: beside the images."""
    caption_extension: tuple[str, ...] = (".txt", ".caption")
    """A caption file has the image's name with one of these extensions; the first that exists is used."""
    recursive: bool = False
    """Also read images in sub-folders."""
    class_folders: bool | Literal["auto"] = "auto"
    """Images in sub-folders named like `10_cat dog` are repeated 10 times, with `cat dog` as fallback caption. `auto`:
    only if there are such sub-folders and no images beside them."""
    resolution: int | tuple[int, int] | None = None
    """Of these images; default: that of the whole data set. A folder in two subsets is trained at two resolutions."""
    batch_size: int | None = Field(default=None, ge=1)
    """Of these images; default: that of the whole data set. Larger resolutions may need smaller batches."""
    buckets: BucketConfig | None = None
    """Of these images; default: those of the whole data set."""
    resize: Literal["auto", "area", "nearest", "bilinear", "bicubic", "lanczos"] = "auto"
    """The filter that resizes images; `auto`: by area when they shrink, else Lanczos."""
    preserve: bool = False
    """Train these images towards the output of the base model, so that the adapter does not change such images."""
    hold_out: bool | None = None
    """Whether `validation.split` may hold out some of these images; default: not with `preserve`. Switch it off for
    other regularisation images."""
    loss_weight: float = Field(default=1.0, ge=0)
    """Factor of the loss of these images; below 1 for regularisation images."""
    masks: MaskPath | Literal["alpha"] | None = None
    """Where the loss counts: a folder with masks that have the names of the images, or `alpha`, the alpha channels of
    the images. `lorasmith:garp/masks` come with the package."""
    masks_for_all: bool = True
    """If on, an image without a mask in the folder is an error; if off, it is trained whole."""
    masks_weigh: bool = True
    """If off, the loss counts everywhere, and masks only show attention regularisation where the subject is."""
    concept_masks: dict[str, Path] = Field(default_factory=dict)
    """For images with several concepts: a word of each concept, and the folder of the masks that show where it is. They
    are used by attention regularisation only; for an image without a mask in the folder, its own mask is used."""
    condition_images: dict[str, Path] = Field(default_factory=dict)
    """For each of the config's `conditions`: its name, and the folder of its pictures, which have the names of the
    images. An image without a picture in the folder gets the empty value of the condition."""
    transforms: tuple[Transform, ...] = ()
    """Applied after those of the whole data set."""

    @field_validator("resolution")
    @classmethod
    def _valid_resolution(cls, resolution: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if resolution is not None:
            check_resolution(resolution)
        return resolution

    @field_validator("larger_than")
    @classmethod
    def _positive(cls, size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if size is not None and min(sides_of(size)) < 1:
            raise ValueError("the sides of a picture are at least 1")
        return size

    @property
    def may_be_held_out(self) -> bool:
        """`hold_out`, or its default."""
        return not self.preserve if self.hold_out is None else self.hold_out

    @field_validator("caption_extension")
    @classmethod
    def _with_dot(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        """`txt` means `.txt`."""
        return tuple(extension if extension.startswith(".") else f".{extension}" for extension in extensions)


class ValidationConfig(Config):
    """Held-out images, which are never trained on."""

    split: float = Field(default=0.0, ge=0, lt=1)
    """The share of images that are held out. They are chosen by content, so that copies of an image stay together."""
    seed: int | None = Field(default=None, ge=0)
    """Decides which images; default: the run's seed. Runs with the same seed hold out the same images."""
    images: ImagePath | None = None
    """A folder of held-out images, in place of `split`."""


class DataConfig(Config):
    """The data of a run."""

    other_names: ClassVar[Mapping[str, str]] = dict.fromkeys(IMAGES_ELSEWHERE, "images")

    images: ImagePath | None = None
    """A folder, `metadata.jsonl` or image, for data from one source; for several sources, give `subsets`."""
    subsets: tuple[SubsetConfig, ...] = ()
    resolution: int | tuple[int, int] | None = None
    """The side of a square, or (width, height). All buckets have about this area. Default: what the base was made for,
    such as 512 for SD 1.x, 768 for SD 2.x with v-prediction, 1024 for SDXL."""
    batch_size: int = Field(default=1, ge=1)
    buckets: BucketConfig = BucketConfig()
    validation: ValidationConfig = ValidationConfig()
    transforms: tuple[Transform, ...] = ()
    """Applied to the images of all subsets, in order."""
    cache_dir: Path | None = None
    """For latents and encoded captions; default: LORASMITH_CACHE, else ~/.cache/lorasmith. Safe to share and to
    delete."""
    cache_latents: bool = True
    workers: int = Field(default=0, ge=0)
    """Threads that read images ahead when latents are not cached. The number does not change the results."""
    empty_captions: bool = False
    """Train images that have no caption on the empty text. If off, the words of `trigger` are their caption, and
    without a trigger they are an error. An empty caption file counts as a caption."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, instead of refusing to train."""

    @model_validator(mode="before")
    @classmethod
    def _move_subset_settings(cls, value: Any) -> Any:
        """Settings of a subset may be given beside `images`; they are moved into a subset."""
        if not isinstance(value, dict) or "images" not in value or value.get("subsets"):
            return value
        data: dict[str, Any] = dict(value)
        # Settings that both classes have stay those of the whole data set.
        of_subset = [key for key in data if key in SubsetConfig.model_fields and key not in DataConfig.model_fields]
        if not of_subset:
            return data
        subset = {"images": data.pop("images")}
        for key in of_subset:
            subset[key] = data.pop(key)
        data["subsets"] = [subset]
        return data

    @model_validator(mode="after")
    def _has_source(self) -> DataConfig:
        if (self.images is None) == (not self.subsets):
            raise ValueError('give either images = "folder", or subsets with one table for each source')
        if self.resolution is not None:
            check_resolution(self.resolution)
        return self

    @property
    def sources(self) -> tuple[SubsetConfig, ...]:
        """The subsets, also if there is only `images`."""
        return self.subsets if self.images is None else (SubsetConfig(images=self.images),)

    @property
    def size(self) -> tuple[int, int]:
        """The resolution as (width, height). Set-up has put the base's in where the config names none."""
        return sides_of(self.resolution or DEFAULT_RESOLUTION)


def sides_of(resolution: int | tuple[int, int]) -> tuple[int, int]:
    """A resolution as (width, height)."""
    return resolution if isinstance(resolution, tuple) else (resolution, resolution)


def check_resolution(resolution: int | tuple[int, int]) -> None:
    """Raises ValueError if latents cannot have this size."""
    sides = sides_of(resolution)
    if min(sides) < 2 * DOWNSCALE or any(side % DOWNSCALE for side in sides):
        raise ValueError(f"resolution must be a multiple of {DOWNSCALE}, at least {2 * DOWNSCALE}")
    if max(sides) > MAX_SIDE:
        raise ValueError(f"resolution must be at most {MAX_SIDE}")
