"""From a config to a run, in the order of events. The only reader of the config's model-building part."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lorasmith.adapters.attach import AdapterSet, apply_settings
from lorasmith.concepts.start import begin
from lorasmith.concepts.train import TokenTrainer
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.data.dataset import Dataset, TextSettings
from lorasmith.diffusion.prediction import prediction_of_kind
from lorasmith.diffusion.schedule import require_schedule
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.sampling.loras import LoraUse, load_lora
from lorasmith.sampling.settings import DTYPES
from lorasmith.training.config import TrainConfig
from lorasmith.training.hooks import Hook
from lorasmith.training.output import checkpoint
from lorasmith.training.output.events import Events, NoEvents
from lorasmith.training.output.folder import ResumePoint, claim, find_resume_point, write_config
from lorasmith.training.output.summary import write_summary
from lorasmith.training.run import Length, Run, TrainState
from lorasmith.training.setup.eva import prime
from lorasmith.training.setup.initial_tokens import starts
from lorasmith.training.setup.merge_into_base import merge_into_base
from lorasmith.training.step.cuda_graph import CudaGraphs
from lorasmith.training.step.distributed import Ranks
from lorasmith.training.step.ema import Ema
from lorasmith.training.step.gradients import LossScale
from lorasmith.training.step.optimizers import AdamW, Groups

DEFAULT_VIEWS = 100


def build_run(
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    resume: Path | None = None,
    overwrite: bool = False,
    ranks: Ranks | None = None,
) -> Run:
    """Check, load, cache, attach; returns a run that `fit` can start.

    `ranks`: those that train together, if they are several. `resume` is the folder of a run to continue from its newest
    whole checkpoint, or the folder of the checkpoint to go on from. If it is not the run of `config.output`, that one
    is a new run which begins there. Raises LorasmithError and ConfigError for what the user can repair, before anything
    is written.
    """
    progress = progress or Progress()
    ranks = ranks or Ranks()
    for hook in hooks_of(config) if ranks.first else ():
        hook.ready()
    found = None if resume is None else find_resume_point(resume)
    if ranks.first and (found is None or not found.belongs_to(config.output)):
        config.export.claim(config.file_name, overwrite)
        if said := claim(config.output, overwrite):
            progress.say(said)
    if config.threads:
        torch.set_num_threads(config.threads)

    dataset = Dataset.build(config.data, seed=config.seed)
    dataset.steps = length_of(config, dataset).steps
    family = load_family(config, ranks.device(config.device), progress)
    config.objective.check(family)
    words = learn_words(config, family)
    cache(config, dataset, family, progress, ranks)
    adapters = make_adapters(config, family)
    run = assemble(config, family, dataset, (adapters, words), progress, ranks)

    if found is not None:
        restore(run, found)
    if not run.resumed:
        prime(run)
    facts = {"images, captions and data settings": dataset.fingerprint(), "step to start from": run.state.step}
    ranks.require_same(facts)
    ranks.broadcast_from_first(run.parameters)
    if (samples := config.data.batch_size * config.accumulation) < ranks.count:
        progress.say(f"{ranks.count} ranks share steps of {samples} images, so some have none; raise data.batch_size")
    if ranks.first:
        write_config(run.folder, config)
        write_summary(run)
    known = {} if run.events.id else {"id": f"{time.time_ns():x}"}
    run.events.write("resume" if run.resumed else "start", run.state.step, **known)
    return run


def load_family(config: TrainConfig, device: torch.device, progress: Progress) -> Family:
    """The base model on a device, with what is to be merged, and the schedule and prediction that the config asks
    for."""
    family = load(config.base, dtype=DTYPES[config.precision], device=device, vae=config.vae)
    for said in merge_into_base(family, [LoraUse.read(written) for written in config.merge]):
        progress.say(said)
    if config.zero_terminal_snr:
        family.path = require_schedule(family.path, "zero_terminal_snr").zero_terminal_snr()
    if config.prediction != "auto":
        family.prediction = prediction_of_kind(config.prediction)
    family.checkpoint_gradients(config.gradient_checkpointing)
    return family


def cache(config: TrainConfig, dataset: Dataset, family: Family, progress: Progress, ranks: Ranks) -> None:
    """Latents, and texts if nothing about them changes, computed once; then the models that made them are freed.

    Each rank encodes a part of the images; the others' come from the disk.
    """
    live = "text" in config.parts() or bool(config.concepts)  # a cache entry knows nothing of new words
    text = None if live else TextSettings(**config.text.model_dump())
    dataset.prepare(family, text=text, progress=progress, ranks=ranks)
    if dataset.latents_cached:
        family.release("vae")
    if dataset.text_cached:
        family.release("text")


def learn_words(config: TrainConfig, family: Family) -> TokenTrainer | None:
    """The new words, known to the family from now on."""
    if not config.concepts:
        return None
    table = family.own_table()
    layers = len(getattr(family.unet, "cross_attentions", ()))
    size = len(next(iter(table.values())))
    own = starts(config.concepts, family, layers)
    vocabulary = begin(config.concepts, own, size, layers, config.seed).to(family.device)
    family.learn(vocabulary)
    return TokenTrainer(vocabulary, config.concepts, table)


def make_adapters(config: TrainConfig, family: Family) -> AdapterSet:
    """Fresh adapters on the chosen layers of the parts that are trained."""
    components = [c for c in ("unet", *family.text_components) if config.optimizer.rate(c) > 0]
    if not components:  # new words alone
        return AdapterSet({}, {}, {})
    if config.start is None:
        layers = family.named_layers(components, norms=config.adapter.on_norms)
        adapters = AdapterSet.create(config.adapter, layers, family.layer_presets, seed=config.seed)
        adapters.attach()
    else:
        adapters = going_on(config, family, config.start, components)
    family.as_base = lambda: adapters.enabled(False)
    return adapters


def going_on(config: TrainConfig, family: Family, file: Path, components: Sequence[str]) -> AdapterSet:
    """The adapters of a file, attached, to be trained further. Raises LorasmithError if it changes a part that this run
    does not train, which it would have to leave out."""
    adapters = load_lora(family, file)
    others = [c for c in adapters.components() if c not in components]
    if others:
        adapters.detach()
        part = "optimizer.unet_lr" if "unet" in others else "optimizer.text_lr"
        raise LorasmithError(
            f"start: {file} also changes {' and '.join(others)}, which this run does not train; set {part} above 0"
        )
    adapters = adapters.replace_each(config.adapter.continue_from)
    for name, adapter in adapters.adapters.items():
        apply_settings(adapter, config.adapter.for_layer(name)[0])
    return adapters


def assemble(
    config: TrainConfig,
    family: Family,
    dataset: Dataset,
    trained: tuple[AdapterSet, TokenTrainer | None],
    progress: Progress,
    ranks: Ranks,
) -> Run:
    """The run at step 0. `trained`: adapters and new words."""
    adapters, words = trained
    groups = parameter_groups(config, adapters, words)
    graphed = adapters.graph_safe and can_graph(config, family, dataset)
    if graphed:  # a captured step reads its learning rate from the device
        groups = [g | {"lr": torch.tensor(g["lr"], device=family.device)} for g in groups]
    optimizer = config.optimizer.build(groups)
    config.output.mkdir(parents=True, exist_ok=True)
    length = length_of(config, dataset)
    run = Run(
        config=config,
        folder=config.output,
        family=family,
        dataset=dataset,
        adapters=adapters,
        token_trainer=words,
        optimizer=optimizer,
        ema=Ema([p for group in groups for p in group["params"]], config.ema) if config.ema else None,
        length=length,
        state=beginning(config, dataset, length),
        device=family.device,
        progress=progress,
        events=Events(config.output, config.log.tensorboard) if ranks.first else NoEvents(config.output, False),
        hooks=hooks_of(config) if ranks.first else (config.log,),
        ranks=ranks,
        loss_scale=LossScale(family.dtype == torch.float16, family.device),
    )
    run.cuda_graphs = CudaGraphs(run) if graphed else None
    return run


def can_graph(config: TrainConfig, family: Family, dataset: Dataset) -> bool:
    """Whether steps may be captured: a GPU, everything cached, one micro-batch a step, an optimizer that allows it."""
    fused = isinstance(config.optimizer, AdamW)
    cached = dataset.text_cached and dataset.latents_cached
    whole = config.accumulation == 1 and not config.phases
    return config.cuda_graph and family.device.type == "cuda" and cached and fused and whole


def parameter_groups(config: TrainConfig, adapters: AdapterSet, words: TokenTrainer | None = None) -> Groups:
    """One group per component and learning rate factor, and one per concept, in a fixed order."""
    groups: list[dict[str, Any]] = []
    for component in adapters.components():
        for factor, parameters in adapters.parameters_by_rate(component).items():
            rate = config.optimizer.rate(component) * factor
            name = component if factor == 1 else f"{component} x{factor:g}"
            part = "unet" if component == "unet" else "text"
            groups.append({"params": parameters, "lr": rate, "base_lr": rate, "name": name, "part": part})
    for concept, parameters in zip(config.concepts, words.parameters if words else (), strict=words is not None):
        group = {"params": parameters, "lr": concept.lr, "base_lr": concept.lr, "part": "words"}
        groups.append(group | {"name": " ".join(concept.words), "weight_decay": concept.weight_decay})
    return groups


def hooks_of(config: TrainConfig) -> tuple[Hook, ...]:
    """In the order they act after a step: read losses first, checkpoint what all others saw last."""
    optional = [hook for hook in (config.validation, config.preview) if hook is not None]
    return (config.log, *optional, config.export, *config.hooks, config.checkpoint)


def length_of(config: TrainConfig, dataset: Dataset) -> Length:
    """Steps and epochs from whichever of steps, epochs and views per image is given."""
    per_epoch = dataset.steps_per_epoch(config.accumulation)
    samples = dataset.samples_per_epoch()
    if config.steps is not None:
        steps = config.steps
    elif config.epochs is not None:
        steps = config.epochs * per_epoch
    else:
        views = config.views_per_image or DEFAULT_VIEWS
        steps = max(1, math.ceil(views * len(dataset.records) / samples * per_epoch))
    return Length(steps, per_epoch, samples)


def beginning(config: TrainConfig, dataset: Dataset, length: Length) -> TrainState:
    """Where the run begins: at its first step, or as if those before `first_step`, `first_epoch` had been made.

    Raises LorasmithError if nothing of the run would be left.
    """
    step = config.first_step or config.first_epoch * length.steps_per_epoch
    if step >= length.steps:
        name = "first_step" if config.first_step else "first_epoch"
        raise LorasmithError(f"{name}: step {step} is not within the run, which has {length.steps} steps; lengthen it")
    epoch, position = divmod(step, length.steps_per_epoch)
    begun = dataset.epoch(epoch)[: position * config.accumulation]
    return TrainState(step, epoch * length.samples_per_epoch + sum(len(plan.views) for plan in begun))


def restore(run: Run, found: ResumePoint) -> None:
    """Go to a checkpoint, or to the newest whole one of a run, or to the run's start if it has none yet."""
    path, faults = (found.checkpoint, []) if found.checkpoint else checkpoint.find_newest(found.run)
    for fault in faults:
        run.progress.say(f"left out: checkpoint {fault}")
    if path is None:
        run.progress.say(f"{found.run} has no checkpoint yet; starting from the first step")
    else:
        if fault := found.checkpoint and checkpoint.fault_of(path):
            raise LorasmithError(f"{path}: {fault}; name another checkpoint")
        checkpoint.load(run, path)
        run.resumed = run.state.step > 0
        run.progress.say(f"continuing from step {run.state.step} ({path.name})")
    if run.ranks.first and found.checkpoint and (later := checkpoint.set_later_aside(run.folder, run.state.step)):
        run.progress.say(f"later checkpoints are put aside: {', '.join(later)}")
    run.events.rewind(run.state.step)
