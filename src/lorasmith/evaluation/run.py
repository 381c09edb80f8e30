"""The steps of `lorasmith evaluate`: generate pictures, measure them, write the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lorasmith.core.devices import pick_device
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.core.quality import NumberValues
from lorasmith.core.store import write_text
from lorasmith.data.records import ImageRecord
from lorasmith.data.remarks import list_names
from lorasmith.evaluation.base import Features
from lorasmith.evaluation.candidates import Candidate
from lorasmith.evaluation.feature_cache import FeatureCache
from lorasmith.evaluation.losses import LossImages, loss_images, read_records
from lorasmith.evaluation.measure import highest_similarity
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
from lorasmith.evaluation.score import score_pictures
from lorasmith.evaluation.settings import EvaluateSettings
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.sampling.loras import Loras
from lorasmith.sampling.run import apply_prediction_settings
from lorasmith.sampling.settings import with_default_cfg


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

    losses = measure_losses(candidates, settings, images, progress)
    base = next((c.name for c in candidates if c.folder is None and not c.uses), None)
    for candidate in candidates:
        seen = (pictures[candidate.name], features[candidate.name])
        compared = base is not None and candidate.folder is None
        base_seen = (pictures[base], features[base]) if base is not None and compared else None
        measurement, values = score_pictures(extractor, seen, training_features, base_seen, settings.trigger)
        values |= losses.get(candidate.name, {})
        row = CandidateResult(candidate.name, seen[0], measurement, values, is_lora=bool(candidate.uses))
        evaluation.rows.append(row)

    write_text(evaluation.file, json.dumps(evaluation.to_dict(), indent=1, ensure_ascii=False) + "\n")
    write_text(evaluation.report, build_report(evaluation))
    return evaluation


def check_settings(candidates: Sequence[Candidate], settings: EvaluateSettings) -> None:
    """Raises LorasmithError if a setting is missing that generating pictures needs."""
    check_loss_folders(candidates, settings)
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


def check_loss_folders(candidates: Sequence[Candidate], settings: EvaluateSettings) -> None:
    """Raises LorasmithError if a folder of images whose losses are measured is missing, or if there is no LoRA."""
    for option, folder in (("--held-out", settings.held_out), ("--class-images", settings.class_images)):
        if folder is None:
            continue
        if not folder.is_dir():
            raise LorasmithError(f"{option}: {folder}: no such folder of images")
        if not any(candidate.uses for candidate in candidates):
            raise LorasmithError(f"{option}: it measures the loss with a LoRA, and there is none: give --lora")


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
    base = find(settings.base)
    settings = with_default_cfg(settings, base)
    native_size = base.native_size
    incomplete: dict[Candidate, list[GenerationTask]] = {}
    for candidate in generated:
        planned = plan_pictures(candidate, prompts, settings, folder / "pictures", native_size)
        pictures[candidate.name] = [task.picture for task in planned]
        if not all(task.picture.path.is_file() for task in planned):
            incomplete[candidate] = planned
    if incomplete:
        _generate(base.name, incomplete, settings, progress)
    return pictures


def _generate(
    base: str, tasks: dict[Candidate, list[GenerationTask]], settings: EvaluateSettings, progress: Progress
) -> None:
    """Load the base model and generate the missing pictures of candidates."""
    family, loras = load_base(base, list(tasks), settings, progress)
    for candidate, planned in tasks.items():
        generate_missing(family, candidate, planned, loras, settings, progress)


def load_base(
    base: str, candidates: Sequence[Candidate], settings: EvaluateSettings, progress: Progress
) -> tuple[Family, Loras]:
    """The base model and the LoRAs of candidates, none of them attached."""
    progress.say(f"loading {base}")
    family = load(
        base,
        dtype=settings.dtype,
        device=pick_device(settings.device),
        vae=settings.vae,
        parts=settings.base_parts,
    )
    apply_prediction_settings(family, settings)
    # all files are read first, so that one that does not fit the base is an error before the first picture
    loras = Loras(family, progress, settings.embeddings)
    for candidate in candidates:
        for use in candidate.uses:
            loras.get(use.path)
    return family, loras


def measure_losses(
    candidates: Sequence[Candidate], settings: EvaluateSettings, images: Path, progress: Progress
) -> dict[str, NumberValues]:
    """The numbers that are losses of images, of each candidate with a LoRA; empty if no images are given for them."""
    with_lora = [candidate for candidate in candidates if candidate.uses]
    if settings.base is None or not (settings.held_out or settings.class_images):
        return {}
    side = find(settings.base).native_size
    size = (settings.width or side, settings.height or side)
    records = read_loss_records(images, settings, size[0], progress)

    family, loras = load_base(settings.base, with_lora, settings, progress)
    fixed: LossImages = loss_images(family, size, **records, clip_skip=settings.clip_skip)
    fixed.measure_base()
    values: dict[str, NumberValues] = {}
    with progress.track("losses of images", len(with_lora)) as advance:
        for candidate in with_lora:
            with loras.attached(candidate.uses):
                values[candidate.name] = fixed.values()
            advance(1, candidate.name)
    return values


def read_loss_records(
    images: Path, settings: EvaluateSettings, resolution: int, progress: Progress
) -> dict[str, list[ImageRecord]]:
    """The images whose losses are measured, by their role. Raises LorasmithError if a held-out one is a training image,
    and ConfigError with the problem of each file."""
    folders = {"trained": images, "held_out": settings.held_out, "class_images": settings.class_images}
    records = {role: read_records(folder, resolution) for role, folder in folders.items() if folder is not None}

    trained = {record.digest: record.path.name for record in records["trained"]}
    for record in records.get("held_out", ()):
        if record.digest in trained:
            raise LorasmithError(
                f"--held-out: {record.path} is the training image {trained[record.digest]}; give images of the concept "
                "that were not trained on"
            )
    without = [record.path.name for record in records.get("class_images", ()) if not record.caption]
    if without:
        progress.say(f"--class-images: measured with an empty text, since they have no caption: {list_names(without)}")
    return records
