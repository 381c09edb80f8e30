"""A config for a base that is there: what it is, what fits into memory, and the recipe that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from lorasmith.api.recipe import SUBJECTS, Answers, recipe
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.data.listing import images_in
from lorasmith.families.file_names import file_names_of
from lorasmith.families.published_models import PublishedModel, published_model
from lorasmith.families.resolve import find
from lorasmith.families.source import Source
from lorasmith.training.memory_levels import CHECKPOINTING, LAST_EXACT, LEVELS
from lorasmith.training.setup.memory_estimate import StepShape, need

GIB = 2**30
USABLE = 0.92
"""The share of a card's memory that a run can have; the rest is the system's and the screen's."""
TAG_NAMES = ("illustrious", "noob", "animagine", "pony", "anime", "wai")
"""Parts of the names of bases that read tags. A guess, which is said."""


@dataclass(frozen=True)
class Forecast:
    """What a step needs."""

    batch: int
    level: int
    """The memory level."""
    gib: float

    def text(self) -> str:
        """For people."""
        level = "" if self.level == 0 else f", at memory level {self.level} ({LEVELS[self.level].name})"
        return f"about {self.gib:.1f} GiB for a step of {self.batch}{level}"


@dataclass(frozen=True)
class NewConfig:
    """A config that was made, and what was found for it."""

    text: str
    answers: Answers
    forecast: Forecast | None
    """None for an embedded base."""
    notes: tuple[str, ...]
    """What was assumed."""


def make_config(
    base: str, images: str, output: str, trigger: str = "", subject: str = "character", memory: float = 12.0
) -> NewConfig:
    """The config for a base and a folder of images. Only headers and names are read.

    Raises LorasmithError if there is no such base or folder, or an answer is not among those that are known.
    """
    if subject not in SUBJECTS:
        allowed = f"Allowed: {', '.join(SUBJECTS)}"
        hint = " ".join(filter(None, (did_you_mean(subject, SUBJECTS), allowed)))
        raise LorasmithError(f'what it is: "{subject}" is not known. {hint}')
    if not (math.isfinite(memory) and 1 <= memory <= 1000):
        raise LorasmithError(f"memory: {memory:g} GiB is not the memory of a card; allowed: 1 to 1000")
    count = count_images(Path(images))
    source = find(base)
    lower = base.lower()
    answers = Answers(
        base=base,
        images=images,
        output=output,
        trigger=trigger,
        subject=subject,
        memory=memory,
        count=count,
        resolution=source.native_size,
        kind=source.kind,
        prediction=source.prediction,
        timesteps=source.timesteps,
        tags=source.kind == "sdxl" and any(name in lower for name in TAG_NAMES),
    )
    return complete(answers, model=model_of(source))


def model_of(source: Source) -> PublishedModel:
    """The sizes of a base: its own, where its family can tell them, since models of a family differ."""
    published, network = published_model(source.kind), source.network_shape
    if network is None:
        return published
    layers = file_names_of(source.kind).layers_of(source)
    return replace(published, network=network, parameters=source.parameters, layers=layers)


def complete(answers: Answers, header: Sequence[str] = (), model: PublishedModel | None = None) -> NewConfig:
    """The config of answers whose base is known, with the largest batch that fits. `model`: its sizes; None: those of
    the published model of its family."""
    forecast = None
    if answers.short_run is None:
        forecast = forecast_of(answers, model or published_model(answers.kind))
        answers = replace(answers, batch=forecast.batch)
    notes: list[str] = []
    if answers.tags:
        notes.append("the name of the base says that it reads tags, so captions are shuffled as tags")
    if answers.pure_noise:
        notes.append("the base predicts v, so zero_terminal_snr is on, as the published ones need")
    if not answers.trigger:
        notes.append("without a trigger every caption must say what the picture shows")
    lines = [*header, *(f"{note[0].upper()}{note[1:]}." for note in notes)]
    if forecast is not None:
        lines.append(f"Memory forecast: {forecast.text()}.")
    return NewConfig(recipe(answers, lines), answers, forecast, tuple(notes))


def forecast_of(answers: Answers, model: PublishedModel) -> Forecast:
    """The largest batch at the lowest memory level that fits the card, by the formula of `lorasmith check`.

    Levels are preferred to small batches up to checkpointing, but a batch of 4 is not worth the time that it costs.
    """
    usable = answers.memory * USABLE
    choices = [(4, 0), (4, 1), (2, 0), (2, 1), (2, CHECKPOINTING), (1, 1), (1, CHECKPOINTING), (1, LAST_EXACT)]
    if answers.flows:  # where weights are copied for each step, more images share the copies
        choices[-1:] = [(4, LAST_EXACT), (2, LAST_EXACT), (1, LAST_EXACT)]
    for batch, level in choices:
        gib = step_gib(answers, model, batch, level)
        if gib <= usable:
            return Forecast(batch, level, gib)
    return Forecast(1, LAST_EXACT, step_gib(answers, model, 1, LAST_EXACT))


def step_gib(answers: Answers, model: PublishedModel, batch: int, level: int) -> float:
    """What a step of `batch` images needs at a memory level."""
    side = answers.resolution // 8
    shape = StepShape(side, side, batch, 2)
    text = 2 * model.text_parameters if answers.trains_text or answers.captions_change else 0
    trained = trained_weights(answers, model)
    return (need(model.network, model.parameters, trained, shape, level).total + text) / GIB


def trained_weights(answers: Answers, model: PublishedModel) -> int:
    """The number of weights of the LoRA."""
    patterns = model.presets["attention-mlp"]
    rank = SUBJECTS[answers.subject].rank
    total = 0
    for layer in model.layers:
        if layer.component != model.denoiser and not answers.trains_text:
            continue
        if layer.kind != "norm" and any(fnmatchcase(layer.name, pattern) for pattern in patterns):
            total += rank * (layer.shape[0] + math.prod(layer.shape[1:]))
    return total


def count_images(folder: Path) -> int:
    """The number of images in a folder. Raises LorasmithError if there is none."""
    if not folder.is_dir():
        raise LorasmithError(f"{folder}: is not a folder; give the folder that holds the training images")
    count = len(images_in(folder, recursive=False))
    if count == 0:
        raise LorasmithError(f"{folder}: holds no image; give the folder that holds the training images")
    return count
