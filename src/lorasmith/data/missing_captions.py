"""Images without a caption: the trigger is their caption, unless the empty text is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from lorasmith.core.errors import Problem
from lorasmith.data.config import DataConfig, SubsetConfig
from lorasmith.data.records import ImageRecord
from lorasmith.data.remarks import Remark, count_of, list_names
from lorasmith.data.scan import ScanResult
from lorasmith.data.transforms import CaptionTransform

CAPTION_DRAWS = 8
"""How often the random transforms of a caption are drawn, to see what they can make of it."""


def fill_missing_captions(
    scanned: ScanResult, subset: SubsetConfig, key: str, config: DataConfig, default_caption: str
) -> None:
    """Give images without a caption the default one, and say so; without a default, that is a problem.

    An empty caption file is a caption, and so is what the transforms make of nothing, for example a template. Images
    that teach the model what it knows already (`preserve`, or `hold_out = false`) never get the default caption: it
    names what is new. `key`: the subset's key in the config.
    """
    missing = [record for record in scanned.records if not record.captions and not has_template(record, config)]
    if not missing or trains_on_empty_text(subset, config):
        return

    shows_known_things = subset.preserve or not subset.may_be_held_out
    if default_caption and not shows_known_things:
        text = f'{how_many(missing, scanned)} no caption; "{default_caption}" is used'
        scanned.remarks.append(Remark(subset.images, "no_caption", text, "warning"))
        without_caption = {record.path for record in missing}
        for index, record in enumerate(scanned.records):
            if record.path in without_caption:
                scanned.records[index] = replace(record, captions=(default_caption,))
    else:
        scanned.problems.append(missing_captions_problem(missing, scanned, key, shows_known_things))


def trains_on_empty_text(subset: SubsetConfig, config: DataConfig) -> bool:
    """Whether images without a caption are trained on the empty text on purpose."""
    return config.empty_captions if subset.empty_captions is None else subset.empty_captions


def how_many(missing: Sequence[ImageRecord], scanned: ScanResult) -> str:
    """`4 of 12 images have`."""
    return f"{len(missing)} of {count_of(len(scanned.records), 'image')} {'has' if len(missing) == 1 else 'have'}"


def missing_captions_problem(
    missing: Sequence[ImageRecord], scanned: ScanResult, key: str, shows_known_things: bool
) -> Problem:
    """The error for images without a caption. `key`: the subset's key in the config."""
    remedy = f'write captions into text files ({missing[0].path.stem}.txt), or set {key}.caption = "..."'
    if not shows_known_things:
        remedy += ', or trigger = ["..."], which is then their caption'
    remedy += f"; {key}.empty_captions = true trains them on the empty text"
    names = list_names([record.path for record in missing])
    # What is wrong with the folder may be the reason, such as captions under names that are not read.
    reasons = [remark.text for remark in scanned.remarks if remark.severity == "serious"]
    found = "; ".join([f"{how_many(missing, scanned)} no caption: {names}", *reasons])
    return Problem(f"{key}.images", found, remedy=remedy)


def has_template(record: ImageRecord, config: DataConfig) -> bool:
    """Whether the transforms make a caption for an image that has none."""
    transforms = (*config.transforms, *record.transforms)
    forms = caption_forms("", [transform for transform in transforms if isinstance(transform, CaptionTransform)])
    return any(form.strip() for form in forms)


def caption_forms(caption: str, transforms: Sequence[CaptionTransform]) -> list[str]:
    """What the transforms make of a caption, in several draws if they are random."""
    draws = CAPTION_DRAWS if any(transform.random for transform in transforms) else 1
    forms: list[str] = []
    for seed in range(draws):
        random = Random(seed)
        text = caption
        for transform in transforms:
            text = transform(text, random)
        forms.append(text)
    return list(dict.fromkeys(forms))
