"""`lorasmith evaluate`: draw, measure, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.core.store import write_text
from lorasmith.evaluation.base import Eyes
from lorasmith.evaluation.candidates import Contestant, EvaluateSettings
from lorasmith.evaluation.measure import Measured, likeness, mean, measure, text_alignment
from lorasmith.evaluation.page import page
from lorasmith.evaluation.pictures import Shown, draw, given, pictures_in, planned
from lorasmith.evaluation.score_cache import ScoreCache
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.sampling.loras import Loras
from lorasmith.sampling.run import apply_prediction_settings
from lorasmith.sampling.settings import pick_device


@dataclass(frozen=True)
class Row:
    """One contestant, measured: the pictures in order, and what was found of each."""

    name: str
    shown: list[Shown]
    measured: Measured

    def by_prompt(self) -> dict[str, list[int]]:
        """Places of the pictures of each prompt."""
        found: dict[str, list[int]] = {}
        for place, shown in enumerate(self.shown):
            found.setdefault(shown.prompt, []).append(place)
        return found

    def numbers(self, places: list[int] | None = None) -> dict[str, Any]:
        """The means over all pictures, or those at `places`; `text_*` are None where no text could be judged."""
        return {
            "text_alignment": rounded(mean(text_alignment(self.measured.text), places)),
            "text_cosine": rounded(mean(self.measured.text, places)),
            "image_alignment": rounded(mean(self.measured.image, places)),
            "pictures": len(self.shown) if places is None else len(places),
        }


@dataclass
class Evaluation:
    """What `evaluate` found: a row for each contestant, and the files that tell of it."""

    folder: Path
    scorer: str
    training: list[Path]
    likeness: float | None
    """The highest cosine between two training images."""
    rows: list[Row] = field(default_factory=list)

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    @property
    def file(self) -> Path:
        """The numbers."""
        return self.folder / "evaluation.json"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = []
        for row in self.rows:
            near = [
                {"picture": str(row.shown[n.picture].path), "training": str(self.training[n.training]),
                 "cosine": round(n.cosine, 4)}
                for n in row.measured.nearest
            ]  # fmt: skip
            prompts = [{"prompt": p, **row.numbers(places)} for p, places in row.by_prompt().items()]
            rows.append({"name": row.name, **row.numbers(), "nearest": near, "prompts": prompts})
        return {
            "scorer": self.scorer,
            "training_images": len(self.training),
            "highest_among_training_images": rounded(self.likeness),
            "rows": rows,
        }


def evaluate(
    images: Path,
    who: Sequence[Contestant],
    prompts: Sequence[str],
    folder: Path,
    *,
    settings: EvaluateSettings,
    progress: Progress | None = None,
) -> Evaluation:
    """Draw what is missing, measure everything against the training images in `images`, and write `evaluation.json`
    and `report.html` into `folder`; pictures stay in `folder/pictures` for the next call, and what the scorer saw in
    them in `folder/seen`.

    Raises LorasmithError for what the user can repair, as far as possible before anything is drawn.
    """
    progress = progress or Progress()
    training = pictures_in(images)
    check(who, settings)
    device = pick_device(settings.device)
    eyes = settings.scorer.load(device)  # before hours of drawing: it may not be there
    shown = drawn(who, prompts, folder, settings, progress)
    memory = ScoreCache(folder / "seen", settings.scorer, eyes)
    known = memory.look(training, "looking at the training images", progress)
    found = Evaluation(folder, settings.scorer.name, training, likeness(known))
    for contestant in who:
        own = shown[contestant.name]
        seen = memory.look([s.path for s in own], f"looking at {contestant.name}", progress)
        found.rows.append(Row(contestant.name, own, measure(seen, texts(eyes, own), known)))
    write_text(found.file, json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n")
    write_text(found.report, page(found))
    return found


def check(who: Sequence[Contestant], settings: EvaluateSettings) -> None:
    """Raises LorasmithError if something is missing that drawing needs."""
    drawing = [c for c in who if c.folder is None]
    if drawing and not settings.base:
        raise LorasmithError("pictures are to be drawn, and there is no base model for it: give --base")
    if any(c.uses for c in drawing) and not settings.trigger:
        raise LorasmithError("give --trigger: the words that call the concept, which stand for <TOK> in the prompts")
    if drawing and not settings.class_word:
        raise LorasmithError(
            "give --class: the plain word of what the concept is, such as dog; they are measured with it, since the "
            "scorer does not know the trigger"
        )


def drawn(
    who: Sequence[Contestant], prompts: Sequence[str], folder: Path, settings: EvaluateSettings, progress: Progress
) -> dict[str, list[Shown]]:
    """The pictures of each contestant; the base is loaded only if one of them is missing."""
    found = {c.name: given(c.folder, settings) for c in who if c.folder is not None}
    drawing = [c for c in who if c.folder is None]
    base = settings.base
    if not drawing or base is None:
        return found
    side = int(find(base).config("unet").get("sample_size", 64)) * 8
    plans = {c.name: planned(c, prompts, settings, folder / "pictures", side) for c in drawing}
    missing = [c for c in drawing if not all(shown.path.is_file() for _, shown in plans[c.name])]
    if missing:
        progress.say(f"loading {base}")
        family = load(base, dtype=settings.dtype, device=pick_device(settings.device), vae=settings.vae)
        apply_prediction_settings(family, settings)
        loras = Loras(family, progress, settings.embeddings)
        for use in (use for c in missing for use in c.uses):
            loras.get(use.path)  # a file that does not fit is found before the first picture
        for contestant in missing:
            draw(family, contestant, plans[contestant.name], loras, settings, progress)
    return found | {name: [shown for _, shown in plan] for name, plan in plans.items()}


def texts(eyes: Eyes, shown: Sequence[Shown]) -> torch.Tensor:
    """The vector of each picture's text; NaN where there is none."""
    different = list(dict.fromkeys(s.text for s in shown))
    vectors = eyes.texts(different)
    vectors[[i for i, text in enumerate(different) if not text]] = float("nan")
    return vectors[[different.index(s.text) for s in shown]]


def rounded(value: float | None) -> float | None:
    """Four digits."""
    return None if value is None else round(value, 4)
