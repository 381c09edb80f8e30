"""Class pictures: what the base draws of the class, to be kept as it is (prior preservation, arXiv 2208.12242)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from lorasmith.core.progress import Progress
from lorasmith.data.images import SUFFIXES
from lorasmith.sampling.run import sample_to_folder
from lorasmith.sampling.settings import SampleSettings

NEW = ".drawing"


def drawing(
    base: str, prompt: str, folder: Path, count: int, settings: SampleSettings
) -> Callable[[Progress | None], None]:
    """What fills a folder up to `count` pictures when it is called; nothing is drawn twice, also after a stop."""

    def draw(progress: Progress | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        keep(folder)
        have = sum(1 for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
        if have >= count:
            return
        if progress is not None:
            progress.say(f'drawing {count - have} class pictures of "{prompt}" into {folder}')
        chosen = settings.model_copy(update={"count": count - have, "seed": settings.seed + have})
        sample_to_folder(base, [prompt], folder / NEW, settings=chosen, progress=progress)
        keep(folder)

    return draw


def keep(folder: Path) -> None:
    """Move finished pictures to their place, with numbers after those that are there."""
    new = folder / NEW
    if not new.is_dir():
        return
    start = sum(1 for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    for index, file in enumerate(sorted(new.glob("[0-9]*.png"))):
        file.rename(folder / f"class-{start + index:05d}.png")
    shutil.rmtree(new)
