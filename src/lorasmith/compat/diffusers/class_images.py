"""Class images, drawn by the base model, for prior preservation (arXiv 2208.12242)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lorasmith.core.progress import Progress
from lorasmith.data.image_suffixes import SUFFIXES

if TYPE_CHECKING:
    from lorasmith.sampling.settings import SampleSettings

UNFINISHED = ".drawing"
"""The folder below the class folder in which images are drawn."""


def class_image_job(
    base: str, prompt: str, folder: Path, count: int, settings: SampleSettings
) -> Callable[[Progress | None], None]:
    """A function that draws class images into `folder` until there are `count`.

    No image is drawn twice: the function continues after the images that are there, also after an interruption.
    """

    def draw(progress: Progress | None) -> None:
        from lorasmith.sampling.run import sample_to_folder

        # Finished images of an interrupted run are still in the folder of unfinished ones.
        folder.mkdir(parents=True, exist_ok=True)
        collect_images(folder)
        existing = count_class_images(folder)
        if existing >= count:
            return
        missing = count - existing
        if progress is not None:
            progress.say(f'drawing {missing} class images of "{prompt}" into {folder}')

        # Seeds count up over all class images, so that a continued series has no image twice.
        remaining = settings.model_copy(update={"count": missing, "seed": settings.seed + existing})
        sample_to_folder(base, [prompt], folder / UNFINISHED, settings=remaining, progress=progress)
        collect_images(folder)

    return draw


def collect_images(folder: Path) -> None:
    """Move finished images into the class folder, numbered after those that are there."""
    unfinished = folder / UNFINISHED
    if not unfinished.is_dir():
        return
    start = count_class_images(folder)
    for index, file in enumerate(sorted(unfinished.glob("[0-9]*.png"))):
        file.rename(folder / f"class-{start + index:05d}.png")
    shutil.rmtree(unfinished)


def count_class_images(folder: Path) -> int:
    """The number of images directly in a folder."""
    return sum(1 for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
