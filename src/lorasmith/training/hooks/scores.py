"""Measures the four numbers of a run's weights at exports: likeness, text, copying and drift."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from lorasmith.core.errors import LorasmithError
from lorasmith.core.quality import NUMBERS, numbers_of, to_json
from lorasmith.evaluation.base import Scorer
from lorasmith.evaluation.clip import Clip
from lorasmith.evaluation.feature_cache import FeatureCache
from lorasmith.evaluation.losses import LossImages, loss_images, read_records
from lorasmith.evaluation.numbers import has_trigger
from lorasmith.evaluation.pictures import EvaluatedPicture
from lorasmith.evaluation.prompts import PLACEHOLDER, fill_placeholder, load_prompts, reference_text
from lorasmith.evaluation.score import Seen, score_pictures
from lorasmith.evaluation.settings import EvaluateSettings
from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.data.records import ImageRecord
    from lorasmith.evaluation.base import Features
    from lorasmith.training.run import Run

FOLDER = "scores"


class Scores(Hook):
    """Draws pictures and measures the four numbers, as `lorasmith evaluate` does, after each export and at the end.

    Likeness and copying compare with the training images, drift with pictures of the base alone at the same seeds. The
    losses of held-out images (copying) and of class images (drift) are measured beside. The numbers are in the report;
    `[best]` keeps the weights of the highest likeness; `lorasmith sweep --rank-by likeness` ranks runs by one of them.
    """

    kind: Literal["scores"] = "scores"
    class_word: str = Field(min_length=1)
    """The plain word for what the concept is, such as dog: the scorer does not know the trigger."""
    scorer: Scorer = Field(default_factory=Clip)
    """What compares: `clip`, `dino`, or `judge` (tiny-sd only)."""
    prompts: str | tuple[str, ...] = "short"
    """A built-in set (`short`, `object`, `character`, `scene`), a file, or prompts, with `<TOK>` for the concept. Drift
    is measured on those without `<TOK>`."""
    count: int = Field(default=2, ge=1)
    """Pictures of each prompt."""
    seed: int = Field(default=1, ge=0)
    """Seed of the first picture of each prompt."""
    steps: int = Field(default=20, ge=1)
    """Sampling steps."""
    cfg: float | None = Field(default=None, ge=1)
    """Guidance scale. Default: 7.5, for SD3 4.5, for Flux 1."""
    guidance: float = Field(default=3.5, ge=0)
    """What Flux.1 dev gets as its guidance; other models ignore it."""
    sampler: str = "dpm++_2m"
    batch_size: int = Field(default=4, ge=1)
    """Pictures that are drawn at once."""
    class_images: Path | None = None
    """Images of other things with captions, for the drift of their loss. Default: the regularisation images of the data
    set (`hold_out = false`, or `preserve`), which the run is trained on."""
    _export_is_new: bool = PrivateAttr(False)
    _prompts: list[str] = PrivateAttr(default_factory=list[str])
    _cache: FeatureCache | None = PrivateAttr(None)
    _losses: LossImages | None = PrivateAttr(None)
    _base: Seen | None = PrivateAttr(None)

    def ready(self) -> None:
        """Raises LorasmithError if the prompts cannot be read, or the scorer's model is not there."""
        source = self.prompts if isinstance(self.prompts, str) else list(self.prompts)
        try:
            # read once, since a file that changes would make the numbers of two steps incomparable
            self._prompts = load_prompts(source)
            self.scorer.ready()
        except LorasmithError as error:
            raise LorasmithError(f"hooks: scores: {error}") from None

    def open(self, run: Run) -> None:
        def on_event(event: str, step: int, fields: dict[str, Any]) -> None:
            self._export_is_new |= event == "export"

        run.events.listen(on_event)

    def start(self, run: Run) -> None:
        """Raises LorasmithError before training if the scorer cannot be loaded, or has nothing to compare with."""
        if not trained_images(run):
            raise LorasmithError("hooks: scores: all images of the data set are regularisation images")
        extractor = self.scorer.load(run.device)
        self._cache = FeatureCache(run.folder / FOLDER / "seen", self.scorer, extractor)
        super().start(run)

    def due(self, run: Run) -> bool:
        # `[best]` may have computed the numbers of this step already
        return not self.has_acted(run) and (self._export_is_new or super().due(run))

    def finish(self, run: Run) -> None:
        """Measure the last weights. What fails here must not cost the files of the end."""
        if self.at_end and not self.has_acted(run):
            self.act_while_training(run)

    def act(self, run: Run) -> None:
        assert self._cache is not None
        self._export_is_new = False
        settings = self._settings(run)
        base = self._base_pictures(run, settings)
        losses = self._loss_images(run)

        folder = run.folder / FOLDER / f"step-{run.state.step:08d}"
        with run.as_exported():
            pictures = self._draw(run, self._prompts, settings, folder)
            loss_values = losses.values()
        seen = (pictures, self._features([picture.path for picture in pictures], run))
        training = self._features([record.path for record in trained_images(run)], run)
        _, values = score_pictures(self._cache.extractor, seen, training, base, settings.trigger)
        values |= loss_values

        numbers = numbers_of(values)
        run.events.write(
            "scores",
            run.state.step,
            numbers=to_json(numbers),
            values={name: own.to_json() for name, own in values.items()},
            scorer=self.scorer.name,
            folder=run.relative_path(folder),
        )
        known = [f"{NUMBERS[name].label} {value:.3f}" for name, value in numbers.items() if value is not None]
        run.progress.say(f"step {run.state.step}: {'; '.join(known)}")

    def _settings(self, run: Run) -> EvaluateSettings:
        """How pictures are drawn and compared, as `lorasmith evaluate` has it."""
        width, height = run.dataset.config.size
        default = run.family.default_cfg or 7.5
        return EvaluateSettings(
            trigger=" ".join(run.trigger),
            class_word=self.class_word,
            count=self.count,
            seed=self.seed,
            steps=self.steps,
            cfg=default if self.cfg is None else self.cfg,
            guidance=self.guidance,
            sampler=self.sampler,
            width=width,
            height=height,
            clip_skip=run.caption_encoding.clip_skip,
            batch_size=self.batch_size,
        )

    def _features(self, paths: list[Path], run: Run) -> Features:
        assert self._cache is not None
        return self._cache.features(paths, "measuring pictures", run.progress)

    def _base_pictures(self, run: Run, settings: EvaluateSettings) -> Seen | None:
        """The pictures of the base alone for prompts without the concept, drawn once; None if there are none."""
        if self._base is None:
            others = [prompt for prompt in self._prompts if not has_trigger(prompt, settings.trigger)]
            if not others:
                return None
            with run.as_base():
                pictures = self._draw(run, others, settings, run.folder / FOLDER / "base")
            self._base = (pictures, self._features([picture.path for picture in pictures], run))
        return self._base

    def _loss_images(self, run: Run) -> LossImages:
        """The images whose losses are measured, with their losses on the base alone; prepared once."""
        if self._losses is None:
            size = run.dataset.config.size
            class_images = regularisation_images(run)
            if self.class_images is not None:
                class_images = read_records(self.class_images, size[0])
            self._losses = loss_images(
                run.family,
                size,
                trained=trained_images(run),
                held_out=run.dataset.validation,
                class_images=class_images,
                clip_skip=run.caption_encoding.clip_skip,
            )
            self._losses.measure_base(run.as_base())
        return self._losses

    def _draw(self, run: Run, prompts: list[str], settings: EvaluateSettings, folder: Path) -> list[EvaluatedPicture]:
        """Draw each prompt `count` times with the present weights. Files are named by prompt and seed."""
        from lorasmith.sampling.png_metadata import save_picture
        from lorasmith.sampling.request import Request
        from lorasmith.sampling.sample import sample

        how: dict[str, Any] = settings.model_dump(include=DRAWN_WITH)
        requests: list[Request] = []
        pictures: list[EvaluatedPicture] = []
        for prompt in prompts:
            for seed in range(self.seed, self.seed + self.count):
                # the place of a prompt differs between the base and the run, its text does not
                path = folder / f"{name_of(prompt)}-{seed:05d}.png"
                requests.append(Request(fill_placeholder(prompt, settings.trigger), seed=seed, **how))
                pictures.append(EvaluatedPicture(path, prompt, reference_text(prompt, settings)))
        drawn = sample(run.family, requests, batch_size=self.batch_size)
        for picture, target in zip(drawn, pictures, strict=True):
            save_picture(picture, target.path)
        return pictures


DRAWN_WITH = {"steps", "cfg", "guidance", "sampler", "width", "height", "clip_skip"}
"""Settings that a request takes unchanged."""


def name_of(prompt: str) -> str:
    """The prompt as a part of a file name, with what makes it differ from all others."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", prompt.replace(PLACEHOLDER, "TOK")).strip("-")[:40]
    return f"{readable}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"


def is_regularisation(record: ImageRecord) -> bool:
    """Whether an image shows what the base knows already."""
    return record.preserve or not record.hold_out


def trained_images(run: Run) -> list[ImageRecord]:
    """The images of the concept that the run is trained on."""
    return [record for record in run.dataset.records if not is_regularisation(record)]


def regularisation_images(run: Run) -> list[ImageRecord]:
    """The images of other things that the run is trained on."""
    return [record for record in run.dataset.records if is_regularisation(record)]
