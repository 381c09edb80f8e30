"""From a config to a run that is ready to train, in the order of events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lorasmith.adapters.attach import AdapterSet, apply_settings
from lorasmith.concepts.initial_embeddings import initial_vocabulary
from lorasmith.concepts.token_trainer import TokenTrainer
from lorasmith.conditions.attach import ConditionSet
from lorasmith.core.devices import untested_note
from lorasmith.core.dtypes import dtype_of
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.data.dataset import Dataset
from lorasmith.data.remarks import Remark
from lorasmith.diffusion.prediction import prediction_of_kind
from lorasmith.diffusion.schedule import require_schedule
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.formats.read import load as load_file
from lorasmith.formats.t5_layers import refuse_t5
from lorasmith.sampling.loras import LoraUse, attach_file
from lorasmith.training.config import TrainConfig
from lorasmith.training.output import checkpoint
from lorasmith.training.output.data_record import FILE as DATA_FILE
from lorasmith.training.output.data_record import write_data_record
from lorasmith.training.output.events import Events, NoEvents
from lorasmith.training.output.folder import ResumePoint, claim, find_resume_point, write_config
from lorasmith.training.output.summary import write_summary
from lorasmith.training.run import Length, Run
from lorasmith.training.setup.active_hooks import active_hooks, check_held_out
from lorasmith.training.setup.caches import fill_caches
from lorasmith.training.setup.caption_reader import trigger_tokens
from lorasmith.training.setup.eva import initialise_with_eva
from lorasmith.training.setup.initial_tokens import initial_vectors
from lorasmith.training.setup.length import initial_state, run_length
from lorasmith.training.setup.memory_estimate import apply_memory_level
from lorasmith.training.setup.merge_into_base import merge_into_base
from lorasmith.training.setup.parameter_groups import Trained, parameter_groups
from lorasmith.training.setup.remarks import build_dataset, find_remarks, report_remarks
from lorasmith.training.setup.setting_remarks import find_setting_remarks, fit_to_base, report_setting_remarks
from lorasmith.training.setup.sides import check_sides
from lorasmith.training.step.cuda_graph import CudaGraphs
from lorasmith.training.step.distributed import Ranks
from lorasmith.training.step.ema import Ema
from lorasmith.training.step.gradients import LossScale
from lorasmith.training.step.optimizers import AdamW
from lorasmith.training.step.out_of_memory import MemoryUse


def build_run(
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    resume: Path | None = None,
    overwrite: bool = False,
    ranks: Ranks | None = None,
    accept_remarks: bool = True,
) -> Run:
    """Check, load, fill caches, attach adapters; returns a run that `fit` can train.

    `resume`: the folder of a run, to continue from its newest whole checkpoint, or the folder of a checkpoint. If it is
    not of the run in `config.output`, a new run begins there from that checkpoint. `ranks`: the processes that train
    together, if there are several. Unless `accept_remarks` is set, serious remarks on the data of a new run are errors.
    Raises LorasmithError and ConfigError for what the user can repair, before anything is written.
    """
    progress = progress or Progress()
    ranks = ranks or Ranks()
    if config.threads:
        torch.set_num_threads(config.threads)

    # First what may fail cheaply: packages that hooks need, the resume point, files of an older run.
    for hook in active_hooks(config, ranks):
        hook.ready()
    resume_point = None if resume is None else find_resume_point(resume)
    if ranks.first:
        claim_output(config, resume_point, overwrite, progress)
    base, config = fit_to_base(config)

    dataset = build_dataset(config)
    check_held_out(config, dataset)
    remarks: list[Remark] = []
    length = run_length(config, dataset)
    dataset.steps = length.steps
    check_sides(config, base, dataset)
    if resume_point is None:
        remarks = find_remarks(config, dataset, near_duplicates=False)
        report_remarks(remarks, progress, accept=accept_remarks)
        report_setting_remarks(find_setting_remarks(config, base, length.steps), progress)

    # New tokens come before the caches, because captions are encoded with them; adapters come after the caches, because
    # by then the parts of the base that only encode have been freed.
    device = ranks.device(config.device)
    if untested_note(device):
        progress.say(untested_note(device))
    family = load_base(config, device, progress)
    config.objective.check(family)
    token_trainer = add_new_tokens(config, family)
    fill_caches(config, dataset, family, progress, ranks)
    level = apply_memory_level(config, family, dataset, progress)
    adapters = create_adapters(config, family)
    trained = Trained(adapters, add_conditions(config, family, adapters), token_trainer)
    run = assemble(config, ranks, progress, dataset, length, family, trained)
    run.memory = MemoryUse(level)
    run.memory.leave_graphs(run)

    if resume_point is not None:
        restore_checkpoint(run, resume_point)
    if not run.resumed and getattr(config.adapter, "init", "") == "eva":
        initialise_with_eva(run)
    synchronise_ranks(run)
    write_first_files(config, run, remarks)
    return run


def claim_output(config: TrainConfig, resume_point: ResumePoint | None, overwrite: bool, progress: Progress) -> None:
    """Raises LorasmithError if an older run or export is in the way; with `overwrite`, an older run is moved aside."""
    if resume_point is not None and resume_point.belongs_to(config.output):
        return
    config.export.claim(config.file_name, overwrite)
    note = claim(config.output, overwrite)
    if note:
        progress.say(note)


def load_base(config: TrainConfig, device: torch.device, progress: Progress) -> Family:
    """The base model on a device, with LoRA files merged into it and the schedule and prediction of the config."""
    family = load(
        config.base,
        dtype=dtype_of(config.precision),
        device=device,
        vae=config.vae,
        parts=config.base_parts,
    )
    for note in merge_into_base(family, [LoraUse.read(written) for written in config.merge]):
        progress.say(note)
    if config.zero_terminal_snr:
        family.path = require_schedule(family.path, "zero_terminal_snr").zero_terminal_snr()
    if config.prediction != "auto":
        family.prediction = prediction_of_kind(config.prediction)
    if config.guidance is not None:
        family.set_guidance(config.guidance)
    if config.text.t5_tokens is not None:
        family.set_t5_tokens(config.text.t5_tokens)
    return family


def add_new_tokens(config: TrainConfig, family: Family) -> TokenTrainer | None:
    """Give the text encoders the new tokens of `concepts`; returns what trains them, or None if there are none."""
    if not config.concepts:
        return None
    if any(concept.layerwise for concept in config.concepts):
        family.require("layer-wise tokens", "concepts.layerwise")
    token_table = family.embedding_tables()
    vocabulary_size = len(next(iter(token_table.values())))
    layers = len(family.cross_attention_layers())
    vectors = initial_vectors(config.concepts, family, layers)
    vocabulary = initial_vocabulary(config.concepts, vectors, vocabulary_size, layers, config.seed).to(family.device)
    family.learn(vocabulary)
    return TokenTrainer(vocabulary, config.concepts, token_table)


def create_adapters(config: TrainConfig, family: Family) -> AdapterSet:
    """Adapters, attached to the chosen layers of the components that are trained: new ones, or those of a file."""
    candidates = (family.denoiser_component, *family.text_components)
    components = [component for component in candidates if config.optimizer.rate(component) > 0]
    if not components:  # only new tokens are trained
        return AdapterSet({}, {}, {})
    if config.start is not None:
        adapters = load_adapters(config, family, config.start, components)
    else:
        layers = family.named_layers(components, norms=config.adapter.on_norms)
        presets, device = family.layer_presets, family.device
        adapters = AdapterSet.create(config.adapter, layers, presets, seed=config.seed, device=device)
        adapters.attach()
    if adapters.follows_noise:
        family.denoiser.register_forward_pre_hook(tell_noise(adapters, family))
    return adapters


def add_conditions(config: TrainConfig, family: Family, adapters: AdapterSet) -> ConditionSet:
    """The conditions with new encoders, attached. As the base, the model has neither adapters nor conditions."""
    conditions = ConditionSet.create(family, config.conditions, config.seed).attach()

    @contextmanager
    def as_base() -> Iterator[None]:
        with adapters.enabled(False), conditions.disabled():
            yield

    family.as_base = as_base
    return conditions


def tell_noise(adapters: AdapterSet, family: Family) -> Callable[[Any, tuple[Any, ...]], None]:
    """A forward hook of the denoiser that tells adapters how noisy each sample of the pass is."""

    def hook(denoiser: Any, arguments: tuple[Any, ...]) -> None:
        adapters.begin_pass(arguments[1].float() / family.path.steps)

    return hook


def load_adapters(config: TrainConfig, family: Family, file: Path, components: Sequence[str]) -> AdapterSet:
    """The adapters of a file, attached, to be trained further.

    Raises LorasmithError if the file changes a component that is not among `components`, which are trained: the export
    of this run would lack it.
    """
    contents = load_file(file)
    refuse_t5(contents)
    adapters = attach_file(family, contents)
    others = [c for c in adapters.components() if c not in components]
    if others:
        adapters.detach()
        field = "optimizer.unet_lr" if family.denoiser_component in others else "optimizer.text_lr"
        raise LorasmithError(
            f"start: {file} also changes {' and '.join(others)}, which this run does not train; set {field} above 0"
        )
    adapters = adapters.replace_each(config.adapter.continue_from)

    # Layers, kinds and ranks are the file's; dropouts, `max_norm` and learning rates are the config's.
    for name, adapter in adapters.adapters.items():
        layer_config, _ = config.adapter.for_layer(name)
        apply_settings(adapter, layer_config)
    return adapters


def assemble(
    config: TrainConfig,
    ranks: Ranks,
    progress: Progress,
    dataset: Dataset,
    length: Length,
    family: Family,
    trained: Trained,
) -> Run:
    """The run at its first step."""
    adapters = trained.adapters
    groups = parameter_groups(config, trained)
    captured = adapters.graph_safe and can_capture_steps(config, family, dataset, ranks.count)
    if captured:
        adapters.use_same_operations()
        # A captured step reads its learning rates from the device.
        for group in groups:
            group["lr"] = torch.tensor(group["lr"], device=family.device)
    optimizer = config.optimizer.build_for(groups, adapters.factor_pairs())
    parameters = [p for group in groups for p in group["params"]]

    config.output.mkdir(parents=True, exist_ok=True)
    events = Events(config.output, config.log.tensorboard) if ranks.first else NoEvents(config.output, False)
    run = Run(
        config=config,
        name=config.file_name,
        folder=config.output,
        seed=config.seed,
        length=length,
        device=family.device,
        trigger=config.trigger or ((config.default_caption,) if config.default_caption else ()),
        family=family,
        dataset=dataset,
        caption_encoding=config.text,
        objective=config.objective,
        adapters=adapters,
        token_trainer=trained.token_trainer,
        conditions=trained.conditions,
        parameters=parameters,
        optimizer=optimizer,
        lr_schedule=config.lr_schedule,
        accumulation=config.accumulation,
        gradient_clip=config.optimizer.clip,
        phases={str(name): phase for name, phase in config.phases.items()},
        ema=Ema(parameters, config.ema) if config.ema else None,
        loss_scale=LossScale(family.dtype == torch.float16, family.device),
        hooks=active_hooks(config, ranks),
        events=events,
        progress=progress,
        ranks=ranks,
        state=initial_state(config, dataset, length),
        started_from_file=config.start is not None,
    )
    run.cuda_graphs = CudaGraphs(run) if captured else None
    return run


def can_capture_steps(config: TrainConfig, family: Family, dataset: Dataset, ranks: int = 1) -> bool:
    """Whether steps may become CUDA graphs: a GPU, everything cached, one micro-batch a step (of several `ranks`, also
    one for each), a fused optimizer, the same parameters in all steps, and no conditions, whose code is not known."""
    everything_cached = dataset.text_cached and dataset.latents_cached
    steps_are_alike = config.accumulation in (1, ranks) and not config.phases
    fused = isinstance(config.optimizer, AdamW)
    known = everything_cached and steps_are_alike and fused and not config.conditions
    return config.cuda_graph and family.device.type == "cuda" and known


def restore_checkpoint(run: Run, point: ResumePoint) -> None:
    """Load the checkpoint of a resume point, or the newest whole one of its run. A run without one starts anew."""
    path = point.checkpoint
    if path is None:
        path, faults = checkpoint.find_newest(point.run)
        for fault in faults:
            run.progress.say(f"checkpoint left out: {fault}")
    else:
        fault = checkpoint.fault_of(path)
        if fault:
            raise LorasmithError(f"{path}: {fault}; name another checkpoint")

    if path is None:
        run.progress.say(f"{point.run} has no checkpoint yet; starting from the first step")
    else:
        checkpoint.load(run, path)
        run.resumed = run.state.step > 0
        run.progress.say(f"continuing from step {run.state.step} ({path.name})")

    # Checkpoints and events after the position would contradict those that this run writes.
    if run.ranks.first and point.checkpoint is not None:
        later = checkpoint.set_later_aside(run.folder, run.state.step)
        if later:
            run.progress.say(f"later checkpoints are put aside: {', '.join(later)}")
    run.events.rewind(run.state.step)


def synchronise_ranks(run: Run) -> None:
    """Give all ranks the same weights. Raises LorasmithError, on all ranks, if they see different data."""
    run.ranks.require_same(
        {
            "images, captions and data settings": run.dataset.fingerprint(),
            "step to start from": run.state.step,
        }
    )
    run.ranks.broadcast_from_first(run.parameters)
    samples = run.dataset.config.batch_size * run.accumulation
    if samples < run.ranks.count:
        run.progress.say(
            f"{run.ranks.count} ranks share steps of {samples} images, so some have none; raise data.batch_size"
        )


def write_first_files(config: TrainConfig, run: Run, remarks: Sequence[Remark]) -> None:
    """Write the config, the summary, the list of images and the first event of this session."""
    if run.ranks.first:
        write_config(run.folder, config)
        write_summary(run)
        # the data are those of the first session, and their remarks were found then
        if not run.resumed or not (run.folder / DATA_FILE).is_file():
            write_data_record(run.folder, run.dataset, remarks, trigger_tokens(config, run.family, run.dataset))
    # The first event of a folder carries the id of the run.
    run_id = {} if run.events.id else {"id": f"{time.time_ns():x}"}
    run.events.write("resume" if run.resumed else "start", run.state.step, **run_id)
