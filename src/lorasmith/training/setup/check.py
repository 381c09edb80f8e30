"""What a run would do and what is wrong with it, as plain data, before any training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lorasmith.adapters.attach import new_adapter, select_layers
from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.layer import spec_of
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.memory import peak_memory
from lorasmith.core.progress import Progress
from lorasmith.core.rng import torch_generator
from lorasmith.data.dataset import Dataset
from lorasmith.data.lint import ImageProblem, lint
from lorasmith.families.resolve import find, with_vae
from lorasmith.families.source import PARTS, Source
from lorasmith.families.stable_diffusion.layer_names import PRESETS, text_layers
from lorasmith.families.stable_diffusion.unet import UNet
from lorasmith.files.lora import Use, read
from lorasmith.files.model import Model
from lorasmith.training.config import TrainConfig
from lorasmith.training.setup.build import build_run, length_of
from lorasmith.training.setup.first_batches import draw
from lorasmith.training.step.loop import remaining_steps, train_step

MEASURED_STEPS = 2


@dataclass(frozen=True)
class Measured:
    """Two real steps on this machine."""

    seconds_first: float
    """The first step warms up."""
    seconds_per_step: float
    hours: float
    """Of all steps of the run, without previews and validation."""
    peak_memory: int
    """Bytes: of the GPU, or of the process on a CPU."""
    loss: float | None
    cache_seconds: float
    """Loading, and encoding what was not cached; the run itself finds it cached."""


@dataclass
class CheckResult:
    """Everything that can be said before training. `errors` keep a run from starting; `warnings` do not."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    base: dict[str, Any] = field(default_factory=dict)
    """source, path, kind, layout, prediction, parameters."""
    adapter: dict[str, Any] = field(default_factory=dict)
    """kind, rank, alpha; layers and parameters by component."""
    data: dict[str, Any] = field(default_factory=dict)
    """images, buckets and the like."""
    images: list[ImageProblem] = field(default_factory=list)
    """What is suspicious about single images and captions."""
    length: dict[str, Any] = field(default_factory=dict)
    """steps, epochs, steps_per_epoch, samples, views_per_image."""
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """Component to `lr`, `scale` (alpha / rank) and `effective` (lr x scale)."""
    measured: Measured | None = None
    pictures: Path | None = None
    """Of the first batches."""

    @property
    def ok(self) -> bool:
        """Whether a run would start."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"ok": self.ok, **asdict(self), "pictures": self.pictures and str(self.pictures)}


def check(
    read: Callable[[], TrainConfig], *, measure: bool, progress: Progress, pictures: Path | None = None
) -> CheckResult:
    """Gather all that can be gathered: one fault does not hide the others.

    `read` gives the config; `pictures`: draw the first batches into this file, if there are no errors. Raises
    LorasmithError only if there is no config to check.
    """
    result = CheckResult()
    try:
        config = read()
    except ConfigError as error:
        result.errors += error.problems
        return result
    attempt(result, "base", lambda: check_model(config, result))
    if result.base:
        attempt(result, "start", lambda: check_loras(config))
    attempt(result, "data", lambda: check_data(config, result, progress))
    check_folder(config, result)
    if pictures is not None and result.ok:
        attempt(result, "data", lambda: setattr(result, "pictures", draw_batches(config, pictures)))
    if measure and result.ok:
        attempt(result, "", lambda: setattr(result, "measured", measure_steps(config, progress)))
    return result


def attempt(result: CheckResult, where: str, work: Callable[[], object]) -> None:
    """Do a part of the work; its mistakes become problems of the result."""
    try:
        work()
    except ConfigError as error:
        result.errors += [p for p in error.problems if p not in result.errors]
    except LorasmithError as error:
        place, _, rest = str(error).partition(": ")
        known = place.split(".")[0] in TrainConfig.model_fields
        result.errors.append(Problem(place, rest) if known else Problem(where, str(error)))


def check_model(config: TrainConfig, result: CheckResult) -> None:
    """The base by its headers, and the layers that would be trained, without loading any weights."""
    base = find(config.base)
    if config.vae:
        attempt(result, "vae", lambda: with_vae(base, config.vae))
    result.base = {
        "source": config.base,
        "path": str(base.path),
        "kind": base.kind,
        "layout": base.layout,
        "prediction": base.prediction if config.prediction == "auto" else config.prediction,
        "parameters": base.parameters,
    }
    layers: dict[str, int] = {}
    parameters: dict[str, int] = {}
    for spec, count in trained_layers(config, base):
        layers[spec.component] = layers.get(spec.component, 0) + 1
        parameters[spec.component] = parameters.get(spec.component, 0) + count
    adapter = config.adapter
    rank, alpha = getattr(adapter, "rank", None), getattr(adapter, "alpha", None)
    result.adapter = {
        "kind": getattr(adapter, "kind", ""),
        "rank": rank,
        "alpha": rank if alpha is None else alpha,
        "layers": layers,
        "parameters": parameters,
    }
    scale = (alpha / rank) if rank and alpha else 1.0
    for component in layers:
        rate = config.optimizer.rate(component)
        result.rates[component] = {"lr": rate, "scale": scale, "effective": rate * scale}


def check_loras(config: TrainConfig) -> None:
    """Whether the LoRA files that the run starts from are there and fit the base."""
    model, problems = Model.of(config.base), []
    named = [("merge", use.path) for use in map(Use.read, config.merge)]
    for key, path in [*named, *([("start", config.start)] if config.start else [])]:
        try:
            read(path, model)
        except LorasmithError as error:
            problems.append(Problem(key, str(error)))
    if problems:
        raise ConfigError(problems)


def trained_layers(config: TrainConfig, base: Source) -> Iterable[tuple[LayerSpec, int]]:
    """The layers that would carry adapters, with the number of trained weights of each."""
    specs = {spec.name: spec for spec in layers_of(base) if config.adapter.on_norms or spec.kind != "norm"}
    trained = {name: spec for name, spec in specs.items() if config.optimizer.rate(spec.component) > 0}
    if not trained:  # new words alone
        return
    places = dict.fromkeys(trained, (torch.nn.Module(), ""))
    for name in select_layers(config.adapter.layers, places, PRESETS):
        own, _ = config.adapter.for_layer(name)
        adapter = new_adapter(own, trained[name], torch.zeros(trained[name].shape), torch_generator(0, "check", name))
        if adapter is not None:
            yield trained[name], sum(p.numel() for p in adapter.parameters())


def layers_of(base: Source) -> Iterable[LayerSpec]:
    """Every layer of the UNet and the text encoders that may carry an adapter, from the configs alone."""
    with torch.device("meta"):
        unet = UNet(base.unet_config)
    yield from (spec for path, module in unet.named_modules() if (spec := spec_of(f"unet.{path}", module)))
    for part in PARTS[base.kind]:
        if part.startswith("te"):
            yield from text_layers(part, base.config(part))


def check_data(config: TrainConfig, result: CheckResult, progress: Progress) -> None:
    """Images, captions, buckets, and the length that follows from them."""
    try:
        dataset = Dataset.build(config.data, seed=config.seed)
    except ConfigError as error:  # then what can be said of the other images
        result.errors += error.problems
        lenient = config.data.model_copy(update={"skip_bad_images": True})
        try:
            dataset = Dataset.build(lenient, seed=config.seed)
        except ConfigError:
            return
    result.data = {key: value for key, value in dataset.summary().items() if key != "cache"}
    named = {p.where for p in result.errors}
    result.images = [p for p in lint(dataset, config.trigger) if str(p.path) not in named]
    length = length_of(config, dataset)
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


def draw_batches(config: TrainConfig, output: Path) -> Path:
    """The first batches as a picture."""
    dataset = Dataset.build(config.data, seed=config.seed)
    dataset.steps = length_of(config, dataset).steps
    return draw(dataset, config.accumulation, output)


def check_folder(config: TrainConfig, result: CheckResult) -> None:
    """A run that is in the way is an error of `train`; here it is worth a warning."""
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


def measure_steps(config: TrainConfig, progress: Progress) -> Measured:
    """Build the run in a temporary folder and make two steps of it."""
    with tempfile.TemporaryDirectory(prefix="lorasmith-check-") as folder:
        quiet = {"preview": None, "validation": None, "hooks": (), "output": Path(folder) / "run"}
        quiet |= {"export": config.export.model_copy(update={"folder": None})}
        log = config.log.model_copy(update={"tensorboard": False})
        started = time.perf_counter()
        run = build_run(config.model_copy(update={**quiet, "log": log}), progress=progress)
        built = time.perf_counter() - started
        run.length = replace(run.length, steps=max(MEASURED_STEPS, run.length.steps))
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(run.device)
        seconds: list[float] = []
        try:
            run.adapters.train()
            with progress.track("measuring", MEASURED_STEPS) as advance:
                for epoch, plans in remaining_steps(run):
                    started = time.perf_counter()
                    train_step(run, epoch, plans)
                    if run.device.type == "cuda":
                        torch.cuda.synchronize(run.device)
                    seconds.append(time.perf_counter() - started)
                    advance(1, "")
                    if len(seconds) == MEASURED_STEPS:
                        break
            losses = [r.fields["loss"] for r in run.metrics.drain() if "loss" in r.fields]
            peak = peak_memory(run.device)
        finally:
            run.events.close()
            run.adapters.detach()
        hours = seconds[-1] * run.length.steps / 3600
        return Measured(seconds[0], seconds[-1], hours, peak, losses[-1] if losses else None, built)
