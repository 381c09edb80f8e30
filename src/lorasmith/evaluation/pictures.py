"""The pictures that are measured: drawn now, drawn by an earlier call, or somebody else's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.core.store import sha256_of, write_text
from lorasmith.data.images import decode
from lorasmith.data.scan import images_in
from lorasmith.evaluation.candidates import Contestant, EvaluateSettings, plain, with_word
from lorasmith.families.base import Family
from lorasmith.sampling.loras import Loras
from lorasmith.sampling.png_metadata import save_picture
from lorasmith.sampling.prompts import split_loras
from lorasmith.sampling.request import Request
from lorasmith.sampling.run import PlannedPicture, add_metadata
from lorasmith.sampling.sample import Picture, sample

DRAWN_BY = {"negative", "steps", "cfg", "sampler", "clip_skip", "rescale"}
ON = {"precision", "prediction", "zero_terminal_snr"}


@dataclass(frozen=True)
class Shown:
    """A picture's file, the prompt it is listed under, and the text it is measured with (empty: there is none)."""

    path: Path
    prompt: str
    text: str


def opened(path: Path) -> Image.Image:
    """A picture, upright, RGB. Raises LorasmithError if it cannot be read."""
    try:
        return decode(path.read_bytes())[0]
    except (LorasmithError, ValueError, OSError) as error:
        raise LorasmithError(f"{path}: it cannot be read as a picture ({error})") from error


def pictures_in(folder: Path) -> list[Path]:
    """The images of a folder. Raises LorasmithError if there are none."""
    if not folder.is_dir():
        raise LorasmithError(f"{folder}: no such folder of images")
    found = images_in(folder, recursive=False)
    if not found:
        raise LorasmithError(f"{folder}: there are no images in it")
    return found


def given(folder: Path, settings: EvaluateSettings) -> list[Shown]:
    """Pictures that are there; the prompt of each is in its `parameters`, as programs that draw write it, or in a text
    file beside it."""
    found = []
    for path in [p for p in pictures_in(folder) if p.name != "grid.png"]:
        prompt = prompt_of(path)
        found.append(Shown(path, prompt, plain(prompt, settings) if prompt else ""))
    if not found:
        raise LorasmithError(f"{folder}: there is only a grid in it")
    return found


def prompt_of(path: Path) -> str:
    """What a picture's file says that it shows; empty if it says nothing."""
    beside = path.with_suffix(".txt")
    if beside.is_file():
        return beside.read_text(encoding="utf-8-sig").strip()
    try:
        with Image.open(path) as image:
            told = str(image.info.get("parameters") or "")
    except (OSError, ValueError):
        return ""
    lines = told.split("\n")
    end = next((i for i, line in enumerate(lines) if line.startswith(("Negative prompt:", "Steps:"))), len(lines))
    return split_loras("\n".join(lines[:end]))[0].strip()


def planned(
    who: Contestant, prompts: Sequence[str], settings: EvaluateSettings, folder: Path, side: int
) -> list[tuple[Request, Shown]]:
    """What a contestant is to draw. The folder's name tells how it is drawn, and a file's name what it shows, so that
    more prompts or seeds add to what is there and other settings do not mix with it."""
    width, height = settings.width or side, settings.height or side
    word = settings.trigger if who.uses else settings.class_word
    how = {
        **settings.model_dump(mode="json", include=DRAWN_BY | ON),
        "base": settings.base, "word": word, "size": [width, height],
        "loras": [[use.path.name, sha256_of(use.path), use.strength, use.text] for use in who.uses],
        "embeddings": [[path.stem, sha256_of(path)] for path in settings.embeddings],
    }  # fmt: skip
    own = folder / f"{who.uses[0].path.stem if who.uses else 'base'}-{digest(json.dumps(how))}"
    shared = settings.model_dump(include=DRAWN_BY)
    found = []
    for prompt in prompts:
        for seed in range(settings.seed, settings.seed + settings.count):
            request = Request(with_word(prompt, word), seed=seed, width=width, height=height, **shared)
            path = own / f"{digest(prompt)}-{seed:05d}.png"
            found.append((request, Shown(path, prompt, plain(prompt, settings))))
    write_text(own / "how.json", json.dumps(how, indent=1))
    return found


def draw(
    family: Family, who: Contestant, asked: Sequence[tuple[Request, Shown]], loras: Loras, settings: EvaluateSettings,
    progress: Progress,
) -> None:  # fmt: skip
    """Draw what is missing; each file is there as soon as its picture is."""
    missing = [(request, shown) for request, shown in asked if not shown.path.is_file()]

    def keep(place: int, picture: Picture) -> None:
        request, shown = missing[place]
        save_picture(add_metadata(picture, PlannedPicture(request, who.uses, 1.0), family.source), shown.path)

    progress.say(f"{who.name}: {len(missing)} of {len(asked)} pictures to draw")
    with loras.attached(who.uses):
        sample(
            family,
            [request for request, _ in missing],
            batch_size=settings.batch_size,
            progress=progress,
            on_picture=keep,
        )


def digest(text: str) -> str:
    """Ten digits that stand for a text in names of files."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]
