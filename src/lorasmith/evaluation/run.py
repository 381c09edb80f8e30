"""The steps of `lorasmith evaluate`: generate pictures, measure them, write the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lorasmith.core.devices import pick_device
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.core.store import write_text
from lorasmith.evaluation.base import FeatureExtractor, Features
from lorasmith.evaluation.candidates import Candidate
from lorasmith.evaluation.feature_cache import FeatureCache
from lorasmith.evaluation.measure import highest_similarity, measure
from lorasmith.evaluation.numbers import drift_numbers, quality_numbers
from lorasmith.evaluation.pictures import (
    EvaluatedPicture,
    GenerationTask,
    existing_pictures,
    generate_missing,
    list_images,
    plan_pictures,
)
from lorasmith.evaluation.report import build_report
from lorasmith.evaluation.results import CandidateResult, Evaluation
from lorasmith.evaluation.settings import EvaluateSettings
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.sampling.loras import Loras
from lorasmith.sampling.run import apply_prediction_settings


def evaluate(
    images: Path,
    candidates: Sequence[Candidate],
    prompts: Sequence[str],
    folder: Path,
    *,
    settings: EvaluateSettings,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare the pictures of candidates with their prompts and with the training images in `images`.

    Writes `evaluation.json` and `report.html` into `folder`. Generated pictures stay in `folder/pictures` and the
    scorer's vectors in `folder/seen`, so that a later call does only what is new.

    Raises LorasmithError for mistakes of the user, as far as possible before anything is generated.
    """
    progress = progress or Progress()
    training = list_images(images)
    check_settings(candidates, settings)
    # the scorer is loaded before hours of sampling, because it may not be available
    extractor = settings.scorer.load(pick_device(settings.device))
    pictures = collect_pictures(candidates, prompts, folder, settings, progress)

    # Vectors of all pictures and training images, most of them perhaps from an earlier call.
    cache = FeatureCache(folder / "seen", settings.scorer, extractor)
    training_features = cache.features(training, "measuring the training images", progress)
    similarity = highest_similarity(training_features)
    evaluation = Evaluation(folder, settings.scorer.name, training, similarity)
    features: dict[str, Features] = {}
    for candidate in candidates:
        paths = [picture.path for picture in pictures[candidate.name]]
        features[candidate.name] = cache.features(paths, f"measuring {candidate.name}", progress)

    base = next((c.name for c in candidates if c.folder is None and not c.uses), None)
    for candidate in candidates:
        evaluated = pictures[candidate.name]
        vectors = features[candidate.name]
        measurement = measure(vectors, text_vectors(extractor, evaluated), training_features)
        scores = {"likeness": measurement.image, "text": measurement.text, "copying": measurement.copying}
        numbers = quality_numbers(evaluated, scores, settings.trigger)
        if base is not None and candidate.folder is None:
            base_vectors = features[base].image
            numbers |= drift_numbers(evaluated, vectors.image, pictures[base], base_vectors, settings.trigger)
        evaluation.rows.append(CandidateResult(candidate.name, evaluated, measurement, numbers))

    write_text(evaluation.file, json.dumps(evaluation.to_dict(), indent=1, ensure_ascii=False) + "\n")
    write_text(evaluation.report, build_report(evaluation))
    return evaluation


def check_settings(candidates: Sequence[Candidate], settings: EvaluateSettings) -> None:
    """Raises LorasmithError if a setting is missing that generating pictures needs."""
    generated = [candidate for candidate in candidates if candidate.folder is None]
    if not generated:
        return
    if not settings.base:
        raise LorasmithError("pictures must be generated, but there is no base model: give --base")
    if any(candidate.uses for candidate in generated) and not settings.trigger:
        raise LorasmithError("give --trigger: the trigger words of the concept, which replace <TOK> in the prompts")
    if not settings.class_word:
        raise LorasmithError(
            "give --class: the plain word for what the concept is, for example dog; it replaces the trigger in the "
            "texts that pictures are compared with, because the scorer does not know the trigger"
        )


def collect_pictures(
    candidates: Sequence[Candidate],
    prompts: Sequence[str],
    folder: Path,
    settings: EvaluateSettings,
    progress: Progress,
) -> dict[str, list[EvaluatedPicture]]:
    """The pictures of each candidate, by its name. Those that are missing are generated; the base model is loaded only
    then."""
    pictures: dict[str, list[EvaluatedPicture]] = {}
    generated = []
    for candidate in candidates:
        if candidate.folder is not None:
            pictures[candidate.name] = existing_pictures(candidate.folder, settings)
        else:
            generated.append(candidate)
    if not generated or settings.base is None:
        return pictures

    # Pictures to generate: those that an earlier call with the same settings wrote are reused.
    native_size = find(settings.base).native_size
    incomplete: dict[Candidate, list[GenerationTask]] = {}
    for candidate in generated:
        planned = plan_pictures(candidate, prompts, settings, folder / "pictures", native_size)
        pictures[candidate.name] = [task.picture for task in planned]
        if not all(task.picture.path.is_file() for task in planned):
            incomplete[candidate] = planned
    if incomplete:
        _generate(settings.base, incomplete, settings, progress)
    return pictures


def _generate(
    base: str, tasks: dict[Candidate, list[GenerationTask]], settings: EvaluateSettings, progress: Progress
) -> None:
    """Load the base model and generate the missing pictures of candidates."""
    progress.say(f"loading {base}")
    family = load(base, dtype=settings.dtype, device=pick_device(settings.device), vae=settings.vae)
    apply_prediction_settings(family, settings)
    # all files are read first, so that one that does not fit the base is an error before the first picture
    loras = Loras(family, progress, settings.embeddings)
    for candidate in tasks:
        for use in candidate.uses:
            loras.get(use.path)
    for candidate, planned in tasks.items():
        generate_missing(family, candidate, planned, loras, settings, progress)


def text_vectors(extractor: FeatureExtractor, pictures: Sequence[EvaluatedPicture]) -> Tensor:
    """The vector of the text of each picture, (n, k); NaN where there is no text. Equal texts are encoded once."""
    texts = list(dict.fromkeys(picture.text for picture in pictures))
    vectors = extractor.texts(texts)
    # A candidate has few different texts, because each prompt has many pictures.
    rows = {text: row for row, text in enumerate(texts)}
    if "" in rows:
        vectors[rows[""]] = float("nan")
    return vectors[[rows[picture.text] for picture in pictures]]
