"""What a run would do and what is wrong with its config, as plain data, before any training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from lorasmith.adapters.attach import new_adapter
from lorasmith.adapters.base import LayerSpec
from lorasmith.core.devices import device_name, pick_device, reset_peak_memory, synchronize
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.file_names import folder_fault
from lorasmith.core.memory import peak_memory
from lorasmith.core.progress import Progress
from lorasmith.core.rng import torch_generator
from lorasmith.data.dataset import Dataset
from lorasmith.families.resolve import find, with_parts, with_vae
from lorasmith.families.source import Source
from lorasmith.files.lora import LoraInput, read
from lorasmith.files.model import ModelLayers
from lorasmith.formats.read import load as load_file
from lorasmith.formats.t5_layers import refuse_t5
from lorasmith.training.config import TrainConfig, missing_files_of
from lorasmith.training.determinism import deterministic_algorithms
from lorasmith.training.run import Run
from lorasmith.training.setup.active_hooks import check_held_out
from lorasmith.training.setup.build import build_run, run_length
from lorasmith.training.setup.check_result import CheckResult, StepMeasurement
from lorasmith.training.setup.first_batches import draw_first_batches
from lorasmith.training.setup.memory_check import forecast_memory, memory_problems
from lorasmith.training.setup.remarks import build_dataset, find_remarks
from lorasmith.training.setup.setting_remarks import (
    adapted_layers,
    check_ranks,
    find_setting_remarks,
    with_base_defaults,
)
from lorasmith.training.setup.sides import check_sides
from lorasmith.training.step.loop import remaining_steps, train_step

MEASURED_STEPS = 2


def check(config: TrainConfig, *, measure: bool, progress: Progress, pictures: Path | None = None) -> CheckResult:
    """Check everything that can be checked; one error does not hide the others.

    `pictures`: if there are no errors, draw the first batches into this file. `measure`: if there are no errors, make
    two steps.
    """
    result = CheckResult()
    base: Source | None = None
    with errors_into(result, "base"):
        base = check_base(config, result)
    config = with_base_defaults(config, base)
    if base is not None:
        with errors_into(result, "adapter"):
            check_adapter(config, base, result)
        with errors_into(result, "start"):
            check_lora_files(config, base)
    with errors_into(result, "device"):
        result.device = device_name(pick_device(config.device))
    dataset: Dataset | None = None
    with errors_into(result, "data"):
        dataset = check_data(config, result, progress)
    if base is not None and result.adapter and result.length:
        with errors_into(result, "adapter"):
            result.warnings += find_setting_remarks(config, base, result.length["steps"])
        if dataset is not None and result.device:
            with errors_into(result, "data"):
                check_sides(config, base, dataset)
            with errors_into(result, "memory"):
                check_memory(config, base, dataset, result)
    check_hooks(config, dataset, result)
    check_output(config, result)
    check_files(config, result)

    # Only a config without errors can be tried.
    if pictures is not None and result.ok:
        with errors_into(result, "data"):
            dataset = build_dataset(config)
            dataset.steps = run_length(config, dataset).steps
            result.pictures = draw_first_batches(dataset, config.accumulation, pictures)
    if measure and result.ok:
        with errors_into(result, ""):
            result.measured = measure_steps(config, progress)
    return result


@contextmanager
def errors_into(result: CheckResult, key: str) -> Iterator[None]:
    """Errors inside the block that the user can repair become errors of `result`.

    `key`: the config key of an error whose message does not begin with one.
    """
    try:
        yield
    except ConfigError as error:
        result.errors += [problem for problem in error.problems if problem not in result.errors]
    except LorasmithError as error:
        named_key, _, message = str(error).partition(": ")
        if named_key.split(".")[0] in TrainConfig.model_fields:
            result.errors.append(Problem(named_key, message))
        else:
            result.errors.append(Problem(key, str(error)))


def check_hooks(config: TrainConfig, dataset: Dataset | None, result: CheckResult) -> None:
    """Find what hooks need and what is not there: packages, models, held-out images."""
    for hook in config.hooks:
        with errors_into(result, "hooks"):
            hook.ready()
    if dataset is not None:
        with errors_into(result, "hooks"):
            check_held_out(config, dataset)


def check_base(config: TrainConfig, result: CheckResult) -> Source:
    """Describe the base from its file headers, and name what is missing in it; no weights are loaded."""
    base = find(config.base)
    with errors_into(result, "base_parts"):
        base = with_parts(base, config.base_parts)
    if config.vae:
        with errors_into(result, "vae"):
            base = with_vae(base, config.vae)
    with errors_into(result, "base"):
        base.check_parts(every_name=True)
    result.base = {
        "source": config.base,
        "path": str(base.path),
        "kind": base.kind,
        "layout": base.layout,
        "prediction": base.prediction if config.prediction == "auto" else config.prediction,
        "parameters": base.parameters,
    }
    return base


def check_adapter(config: TrainConfig, base: Source, result: CheckResult) -> None:
    """Describe the layers that would be trained. Raises ConfigError if the settings do not fit the base's layers."""
    check_ranks(config, base)
    layers: dict[str, int] = {}
    parameters: dict[str, int] = {}
    for spec, count in trained_layers(config, base):
        layers[spec.component] = layers.get(spec.component, 0) + 1
        parameters[spec.component] = parameters.get(spec.component, 0) + count
    rank, alpha = getattr(config.adapter, "rank", None), getattr(config.adapter, "alpha", None)
    result.adapter = {
        "kind": getattr(config.adapter, "kind", ""),
        "rank": rank,
        "alpha": rank if alpha is None else alpha,
        "layers": layers,
        "parameters": parameters,
    }

    # A change is scaled by alpha / rank, so its effective learning rate is too.
    scale = (alpha / rank) if rank and alpha else 1.0
    for component in layers:
        learning_rate = config.optimizer.rate(component)
        result.rates[component] = {"lr": learning_rate, "scale": scale, "effective": learning_rate * scale}


def trained_layers(config: TrainConfig, base: Source) -> Iterator[tuple[LayerSpec, int]]:
    """The layers that would carry adapters, with the number of trained weights of each."""
    for spec in adapted_layers(config, base):
        layer_config, _ = config.adapter.for_layer(spec.name)
        adapter = new_adapter(layer_config, spec, torch.zeros(spec.shape), torch_generator(0, "check", spec.name))
        if adapter is not None:
            yield spec, sum(p.numel() for p in adapter.parameters())


def check_lora_files(config: TrainConfig, base: Source) -> None:
    """Raises ConfigError unless the LoRA files that the run begins from exist and fit the base."""
    problems: list[Problem] = []
    files: list[tuple[str, Path]] = []
    for written in config.merge:
        try:
            files.append(("merge", LoraInput.parse(written).path))
        except LorasmithError as error:
            problems.append(Problem("merge", str(error)))
    if config.start is not None:
        files.append(("start", config.start))

    # the layers are listed only if there is a file to compare them with
    model = ModelLayers.from_source(base) if files else None
    for key, path in files:
        try:
            read(path, model)
            if key == "start":
                refuse_t5(load_file(path))
        except LorasmithError as error:
            problems.append(Problem(key, str(error)))
    if problems:
        raise ConfigError(problems)


def add_remarks(config: TrainConfig, dataset: Dataset, result: CheckResult) -> None:
    """Remarks on images that have no error yet, and how many captions are cut off."""
    images_with_errors = {problem.where for problem in result.errors}
    result.images = [r for r in find_remarks(config, dataset) if str(r.path) not in images_with_errors]
    cut = {remark.path for remark in result.images if remark.kind in ("long_caption", "trigger_cut_off")}
    result.data["captions"]["cut"] = len(cut)


def check_data(config: TrainConfig, result: CheckResult, progress: Progress) -> Dataset | None:
    """Describe images, captions, buckets, and the length of the run that follows from them.

    Returns the data, as far as they can be read.
    """
    try:
        dataset = build_dataset(config)
    except ConfigError as error:
        # Bad images and missing captions are errors, but the others are described all the same.
        result.errors += error.problems
        dataset = readable_part(config)
        if dataset is None:
            return None

    # How full the caches are is not known before they are filled.
    result.data = {key: value for key, value in dataset.summary().items() if key != "cache"}
    result.data["files"] = [contents.summary() for contents in dataset.contents]
    add_remarks(config, dataset, result)

    length = run_length(config, dataset)
    result.length = {
        "steps": length.steps,
        "epochs": length.epochs,
        "steps_per_epoch": length.steps_per_epoch,
        "samples": length.samples,
        "views_per_image": length.samples / len(dataset.records),
    }
    if config.validation is not None and not dataset.validation:
        result.warnings.append(
            Problem("validation", "no image is held out to validate on", remedy="set data.validation.split = 0.1")
        )
    return dataset


def check_memory(config: TrainConfig, base: Source, dataset: Dataset, result: CheckResult) -> None:
    """Estimate what a step needs, and compare it with what is free on the device."""
    trained = sum(result.adapter["parameters"].values())
    forecast = forecast_memory(config, base, dataset, trained, pick_device(config.device))
    if forecast is not None:
        result.memory = forecast.plain()
        result.warnings += memory_problems(forecast)


def readable_part(config: TrainConfig) -> Dataset | None:
    """The data without what is wrong with them, as far as a run could skip it; None if nothing is left."""
    for changes in ({"skip_bad_images": True}, {"skip_bad_images": True, "empty_captions": True}):
        with suppress(ConfigError):
            return build_dataset(config, config.data.model_copy(update=changes))
    return None


def check_output(config: TrainConfig, result: CheckResult) -> None:
    """Errors of folders that cannot be made or written to, and warnings of an older run or export in the way, which
    would be an error when the run starts."""
    for key, folder in (("output", config.output), ("export.folder", config.export.folder)):
        fault = "" if folder is None else folder_fault(folder)
        if fault:
            result.errors.append(Problem(key, f"{folder} {fault}", remedy="choose another folder"))
            return
    if (config.output / "config.toml").is_file():
        result.warnings.append(
            Problem(
                "output",
                f"{config.output} already holds a run",
                remedy=f"train --resume {config.output}, another output, or --overwrite",
            )
        )
    try:
        config.export.claim(config.file_name, overwrite=False)
    except LorasmithError as error:
        result.warnings.append(Problem("export.folder", str(error).partition(": ")[2]))


def check_files(config: TrainConfig, result: CheckResult) -> None:
    """Errors of missing files that no other check has come to, such as LoRA files beside a base that does not exist."""
    result.errors += [problem for problem in missing_files_of(config) if problem not in result.errors]


def measure_steps(config: TrainConfig, progress: Progress) -> StepMeasurement:
    """Build the run in a temporary folder and make two steps of it."""
    with (
        tempfile.TemporaryDirectory(prefix="lorasmith-check-") as folder,
        deterministic_algorithms(config.deterministic),
    ):
        # No files outside the temporary folder, and nothing beside the steps.
        changes = {
            "output": Path(folder) / "run",
            "preview": None,
            "validation": None,
            "hooks": (),
            "export": config.export.model_copy(update={"folder": None}),
            "log": config.log.model_copy(update={"tensorboard": False}),
        }
        started = time.perf_counter()
        run = build_run(config.model_copy(update=changes), progress=progress)
        build_seconds = time.perf_counter() - started
        run.length = replace(run.length, steps=max(MEASURED_STEPS, run.length.steps))

        try:
            reset_peak_memory(run.device)
            seconds = time_steps(run, progress)
            losses = [entry.fields["loss"] for entry in run.metrics.drain() if "loss" in entry.fields]
            peak = peak_memory(run.device)
        finally:
            run.events.close()
            run.adapters.detach()
        return StepMeasurement(
            seconds_first=seconds[0],
            seconds_per_step=seconds[-1],
            hours=seconds[-1] * run.length.steps / 3600,
            peak_memory=peak,
            loss=losses[-1] if losses else None,
            cache_seconds=build_seconds,
        )


def time_steps(run: Run, progress: Progress) -> list[float]:
    """Make the first steps of a run; returns the seconds of each."""
    seconds: list[float] = []
    run.adapters.train()
    with progress.track("measuring", MEASURED_STEPS) as advance:
        for epoch, plans in islice(remaining_steps(run), MEASURED_STEPS):
            started = time.perf_counter()
            run.metrics.add(train_step(run, epoch, plans))
            synchronize(run.device)
            seconds.append(time.perf_counter() - started)
            advance(1, "")
    return seconds
