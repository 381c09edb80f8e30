"""Captions of all images of a folder, written as files beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.progress import Progress
from lorasmith.core.registry import registered
from lorasmith.core.store import write_text
from lorasmith.data.captioners.base import Captioner
from lorasmith.data.captions import find_caption_file
from lorasmith.data.config import SubsetConfig
from lorasmith.data.images import decode
from lorasmith.data.listing import images_in


@dataclass
class CaptionReport:
    """The result of `write_captions`: captions by the name of the image, and images whose caption was kept."""

    folder: Path
    written: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {"folder": str(self.folder), "written": self.written, "kept": self.kept}


def captioner_of(model: Path, settings: dict[str, Any]) -> Captioner:
    """The captioner for the model in a folder. Raises LorasmithError if no kind recognises it."""
    if not model.is_dir():
        raise LorasmithError(f"--model {model}: is not a folder; name the folder of a captioning or tagging model")
    for kind in registered(Captioner).values():
        if kind.recognises(model):
            return kind.model_validate({"model": model.resolve(), **settings})
    raise LorasmithError(
        f"--model {model}: holds no model that is known. A captioning model of transformers has config.json and "
        "preprocessor_config.json; a tagging model has model.onnx and selected_tags.csv."
    )


def write_captions(
    images: Path, captioner: Captioner, *, prefix: str = "", overwrite: bool = False, progress: Progress
) -> CaptionReport:
    """Write a caption file for each image directly in a folder, with `prefix` before each caption.

    Captions that exist are kept, unless `overwrite`. Raises LorasmithError if there are no images; ConfigError with
    every image that cannot be read, after the captions of the others were written.
    """
    if not images.is_dir():
        raise LorasmithError(f"{images}: is not a folder")
    files = images_in(images, recursive=False)
    if not files:
        raise LorasmithError(f"{images}: there are no images in it")

    subset = SubsetConfig(images=images)
    report = CaptionReport(images)
    problems: list[Problem] = []
    with progress.track("writing captions", len(files)) as advance:
        for path in files:
            file = find_caption_file(path, subset)
            if file is not None and not overwrite:
                report.kept.append(path.name)
                advance(1, path.name)
                continue
            try:
                picture, _ = decode(path.read_bytes())
            except (ValueError, OSError) as error:
                problems.append(Problem(str(path), str(error)))
            else:
                caption = prefix + captioner(picture)
                write_text(file or path.with_suffix(".txt"), caption.strip() + "\n")
                report.written[path.name] = caption
            advance(1, path.name)
    if problems:
        raise ConfigError(problems, "the images")
    return report
