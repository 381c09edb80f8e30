"""The settings of a training run: typed once, checked once.

Set-up reads them (`setup/`) and puts what the step needs on the `Run`. Afterwards only what describes the run in its
files reads the config again (`tests/house/test_config_reads.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lorasmith.adapters import AdapterConfig
from lorasmith.adapters.lora import LoRA
from lorasmith.concepts import Concept
from lorasmith.conditions import Condition
from lorasmith.core.config import override, read_table, to_toml, validate
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.file_names import FORBIDDEN, name_fault
from lorasmith.core.recipes import config_file
from lorasmith.core.registry import Config, load_plugins
from lorasmith.data.config import DataConfig
from lorasmith.training.hooks import Hook
from lorasmith.training.hooks.best import BestExport
from lorasmith.training.hooks.checkpoint import Checkpoints
from lorasmith.training.hooks.export import Exports
from lorasmith.training.hooks.log import Log
from lorasmith.training.hooks.preview import Previews
from lorasmith.training.hooks.validate import Validation
from lorasmith.training.memory_levels import LEVELS
from lorasmith.training.missing_files import missing_files
from lorasmith.training.step.lr_schedules import Constant, LrSchedule
from lorasmith.training.step.objectives import Objective
from lorasmith.training.step.objectives.denoising import Denoising
from lorasmith.training.step.optimizers import AdamW, OptimizerConfig
from lorasmith.training.word_files import word_file_problems

HOOK_SCORES = '[[hooks]] with kind = "scores" and class_word = "dog" (a plain word for what the concept is)'
"""What makes a run measure the four numbers, for messages."""
ParameterGroup = Literal["unet", "text", "words", "conditions"]
"""What is trained in a phase: the adapters of the UNet, those of the text encoders, the embeddings of new tokens, the
encoders of conditions."""


class TextConfig(Config):
    """How captions are encoded."""

    max_tokens: Literal[75, 150, 225] = 75
    """Longer captions are encoded in windows of 75 tokens, which are joined, up to this length."""
    clip_skip: int = Field(default=1, ge=1, le=12)
    """1: the last layer of the text encoder; 2: the one before (SD 1.x models made with it)."""
    weighted: bool = False
    """Brackets in captions are emphasis, as in prompts: `(red hat:1.3), [dark]`. Default: plain characters."""
    t5_tokens: int | None = Field(default=None, ge=1, le=512)
    """How many tokens T5 reads of a caption (Stable Diffusion 3, Flux). Default: 256, Flux 512."""


SpecField = Literal[
    "title", "author", "description", "license", "tags", "usage_hint", "thumbnail", "merged_from", "preprocessor",
    "is_negative_embedding",
]  # fmt: skip
"""Fields of the model spec of Stability AI (1.0.1) that only the user can fill in."""


class TrainConfig(Config):
    """Everything that decides a run. Same config, same base, same images: same LoRA."""

    base: str
    """The model to train on: `tiny-sd` or `tiny-flow` (embedded), a diffusers folder, a hub id, or one
    original-layout `.safetensors` file."""
    merge: tuple[str, ...] = ()
    """LoRA files of any kind that are written into the base before training, each `file.safetensors` or
    `file.safetensors:0.8`. The new LoRA is made for the merged base: to sample with it, apply these files before it."""
    vae: str = ""
    """A VAE that replaces the base's, for latents and previews: a diffusers folder of a VAE or with one in `vae`, a hub
    id, or a `.safetensors` file in the original layout."""
    base_parts: tuple[str, ...] = ()
    """Where the parts are that a single file of Flux or SD3 lacks: `.safetensors` files of text encoders and VAE,
    folders of such, or a diffusers folder. Files beside the base are found without it."""
    output: Path
    """The run's folder. It must not hold another run."""
    name: str = ""
    """Name of the LoRA file, without suffix. Default: the name of the output folder."""
    trigger: tuple[str, ...] = ()
    """Trigger words of the concept. They are checked in captions, written into the file, and are the caption of images
    that have none."""
    seed: int = Field(default=0, ge=0)

    steps: int | None = Field(default=None, ge=1)
    """Length of the run in optimizer steps. Alternatives: `epochs`, `views_per_image`."""
    epochs: int | None = Field(default=None, ge=1)
    views_per_image: float | None = Field(default=None, gt=0)
    """How often the run sees an image, on average. 100 if no length is set."""
    first_step: int = Field(default=0, ge=0)
    """This many steps count as made, for example those that made the file in `start`: data, noise, learning rate and
    step numbers begin there, and the rest of the run is trained."""
    first_epoch: int = Field(default=0, ge=0)
    """Like `first_step`, in epochs."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches in one optimizer step."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the frozen base; adapters are float32. `auto`: bf16 for full-size models, fp32 for tiny ones."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    deterministic: bool = False
    """Use deterministic algorithms only: the same GPU, versions and settings then give the same bits, with CUDA graphs
    too. Slower. On a CPU with the same number of `threads` this is always so."""
    threads: int | None = Field(default=None, ge=1)
    """Number of CPU threads. Default: torch's choice."""
    cuda_graph: bool = True
    """On a GPU, capture whole steps as CUDA graphs if latents and texts are cached. Much faster for small batches."""
    memory: Literal["auto"] | Annotated[int, Field(ge=0, le=len(LEVELS) - 1)] = "auto"
    """How far to go to need less memory; each level adds to those below. 0: nothing; 1: lean saves; 2: gradient
    checkpointing; 3: frozen weights stay on the host; 4: frozen weights in 8 bits, which rounds the base. `auto`: the
    lowest level that fits (4 is never chosen), and one more when memory does not suffice (docs/performance.md)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time. The same as `memory = 2`."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the base predicts; `auto` reads it from the model."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that the last step is pure noise (for v-prediction models made so)."""
    guidance: float | None = Field(default=None, ge=0)
    """The guidance that Flux.1 dev gets as an input while it is trained. Default: 1."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the trained weights, which is what is exported. 0: no average."""

    data: DataConfig
    text: TextConfig = TextConfig()
    concepts: tuple[Concept, ...] = ()
    """New tokens that are trained with the adapter, or alone (with `optimizer.unet_lr = 0`)."""
    conditions: tuple[Condition, ...] = ()
    """Pictures that go with the images as further inputs of the network; their kinds come from plug-ins
    (docs/conditions.md)."""
    phases: dict[ParameterGroup, tuple[float, float]] = Field(default_factory=dict)
    """Start and end of the training of each parameter group, as shares of the run: `words = [0, 0.5]`,
    `unet = [0.5, 1]`. A group without an entry is trained throughout."""
    adapter: AdapterConfig = Field(default_factory=LoRA)
    start: Path | None = None
    """A LoRA file to train further. It decides layers, kinds and ranks; `adapter` only dropouts, `max_norm`, rates."""
    objective: Objective = Field(default_factory=Denoising)
    optimizer: OptimizerConfig = Field(default_factory=AdamW)
    lr_schedule: LrSchedule = Field(default_factory=Constant)

    log: Log = Field(default_factory=Log)
    preview: Previews | None = None
    validation: Validation | None = None
    """On by default, at the start and after each epoch, if `data.validation` holds images out."""
    best: BestExport | None = None
    """On by default if `data.validation` holds images out, or if there is a hook `scores`: which weights are the
    best."""
    export: Exports = Field(default_factory=Exports)
    checkpoint: Checkpoints = Field(default_factory=Checkpoints)
    hooks: tuple[Hook, ...] = ()
    """Further hooks, which run after those above."""
    plugins: tuple[str, ...] = ()
    """Python modules that add kinds."""
    comment: str = ""
    """A comment in the file's metadata."""
    metadata: dict[SpecField, str] = Field(default_factory=dict)
    """Further `modelspec` metadata of the file, such as `author` or `license`."""

    @field_validator("trigger", "merge", "plugins", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: Any) -> Any:
        """`trigger = "mia"` means `trigger = ["mia"]`."""
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _measure_held_out_images(cls, value: Any) -> Any:
        """Images that are held out are there to be measured, so `[validation]` and `[best]` need not be written; nor
        need `[best]` where a hook `scores` measures likeness."""
        if not isinstance(value, dict):
            return value
        data = value.get("data")
        held_out = data.get("validation") if isinstance(data, dict) else None
        holds_out = isinstance(held_out, dict) and bool(held_out.get("split") or held_out.get("images"))
        measures = ("validation", "best") if holds_out else ("best",) if has_scores(value.get("hooks")) else ()
        defaults = {key: {} for key in measures if value.get(key) is None}
        return {**value, **defaults}

    @model_validator(mode="after")
    def _check_length(self) -> TrainConfig:
        lengths = [key for key in ("steps", "epochs", "views_per_image") if getattr(self, key) is not None]
        if len(lengths) > 1:
            raise ValueError(f"give one of steps, epochs, views_per_image, not {' and '.join(lengths)}")
        if self.first_step and self.first_epoch:
            raise ValueError("give one of first_step and first_epoch, not both")
        return self

    @model_validator(mode="after")
    def _check_phases(self) -> TrainConfig:
        for name, (start, end) in self.phases.items():
            if not 0 <= start < end <= 1:
                raise ValueError(
                    f"phases.{name} is [{start:g}, {end:g}], but must be two shares from 0 to 1, the smaller one first"
                )
        return self

    @property
    def file_name(self) -> str:
        """Name of the LoRA file without suffix."""
        return self.name or self.output.name

    @property
    def default_caption(self) -> str:
        """The caption of images that have none: the trigger, or the new words if there is one concept; else empty."""
        words = self.concepts[0].words if len(self.concepts) == 1 else ()
        return " ".join(self.trigger or words)

    def trained_groups(self) -> list[ParameterGroup]:
        """The parameter groups that are trained in any phase."""
        groups: list[ParameterGroup] = []
        if self.optimizer.rate("unet") > 0:
            groups.append("unet")
        if self.optimizer.text_lr > 0:
            groups.append("text")
        if any(concept.lr > 0 for concept in self.concepts):
            groups.append("words")
        return groups

    def to_toml(self) -> str:
        """This config as TOML, every default included."""
        return to_toml(self.model_dump(mode="python"))


def load_config(source: Path | dict[str, Any], overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """Read and check a TOML or JSON file, a recipe by its name, or a table, with `key=value` overrides.

    Relative paths start at the current directory. Raises ConfigError with all problems, missing files among them. If
    files are missing and nothing else is wrong, the config is returned: `missing_files_of` finds them.
    """
    if isinstance(source, dict):
        table, name = dict(source), "the config"
    else:
        table, name = read_table(config_file(source)), str(source)
    if not isinstance(table, dict):
        raise LorasmithError(f"{name}: holds a list; a config is a table of keys and values")
    table = override(table, overrides)
    plugins = table.get("plugins", ())
    # anything but a list of names is reported with the other problems of the config
    if isinstance(plugins, list | tuple) and all(isinstance(name, str) for name in plugins):
        load_plugins(plugins)
    try:
        config = validate(TrainConfig, table, name)
    except ConfigError as error:
        raise ConfigError([*error.problems, *missing_files(table)], name) from None
    problems = find_contradictions(config)
    if problems:
        raise ConfigError([*problems, *missing_files(table)], name)
    return config


def missing_files_of(config: TrainConfig) -> list[Problem]:
    """A problem for each file or folder that a valid config names and that does not exist. A single subset has the keys
    of `data`, as in problems of its images."""
    table = config.model_dump(mode="python")
    if len(config.data.subsets) == 1:
        table["data"] |= config.data.subsets[0].model_dump(mode="python")
        table["data"]["subsets"] = ()
    return missing_files(table)


def has_scores(hooks: Any) -> bool:
    """Whether a list of hooks, as a config writes it, has the hook `scores`."""
    if not isinstance(hooks, list | tuple):
        return False
    return any(hook == "scores" or (isinstance(hook, dict) and hook.get("kind") == "scores") for hook in hooks)


def best_problems(config: TrainConfig) -> list[Problem]:
    """What `[best]` lacks to decide by."""
    if config.best is None:
        return []
    by_likeness = has_scores([hook.model_dump() for hook in config.hooks])
    if config.best.by == "likeness" and not by_likeness:
        message = "decides by likeness, and no hook measures it"
        return [Problem("best.by", message, remedy=f"add {HOOK_SCORES}")]
    if config.validation is None and (config.best.by == "loss" or not by_likeness):
        message = "the best weights are found by the loss on held-out images, and none are held out"
        remedy = "set data.validation.split = 0.1, add a hook scores, or remove [best]"
        return [Problem("best", message, remedy=remedy)]
    return []


def find_contradictions(config: TrainConfig) -> list[Problem]:
    """Problems of settings that are valid by themselves, but cannot work together."""
    problems: list[Problem] = []
    if not config.trained_groups():
        problems.append(
            Problem(
                "optimizer",
                "both unet_lr and text_lr are 0, so nothing would be trained",
                remedy="set optimizer.lr, or optimizer.text_lr to train the text encoder",
            )
        )
    gap = first_untrained_share(config)
    if gap is not None:
        problems.append(
            Problem(
                "phases",
                f"at {gap:g} of the run nothing is trained",
                remedy="let the phases of what is trained follow each other, or overlap",
            )
        )
    problems += best_problems(config)
    problems += loss_term_problems(config)
    problems += concept_mask_problems(config)
    problems += condition_problems(config)
    problems += word_file_problems(config.concepts)
    fault = name_fault(config.file_name)
    if fault:
        origin = "" if config.name else " (the name of the output folder)"
        remedy = f"set name to the name of the LoRA file without {' '.join(FORBIDDEN)}, and shorter than 200 bytes"
        problems.append(Problem("name", f'"{config.file_name[:80]}"{origin} {fault}', remedy=remedy))
    return problems


def first_untrained_share(config: TrainConfig) -> float | None:
    """The first share of the run at which no parameter group is trained; None if there is none."""
    groups = config.trained_groups()
    if not groups:
        return None

    # Phases in the order of their starts cover the run if each starts before the ones before it have all ended.
    covered_until = 0.0
    for start, end in sorted(config.phases.get(group, (0.0, 1.0)) for group in groups):
        if start > covered_until:
            return covered_until
        covered_until = max(covered_until, end)
    return None if covered_until >= 1 else covered_until


def loss_term_problems(config: TrainConfig) -> Iterator[Problem]:
    """Loss terms that are about new tokens, in a run without any."""
    if config.concepts:
        return
    for i, term in enumerate(getattr(config.objective, "parts", ())):
        if term.needs_words:
            message = f"the loss term {term.kind} is about new words, but the run has none"
            yield Problem(f"objective.parts.{i}", message, remedy="add [[concepts]], or leave the loss term out")


def concept_mask_problems(config: TrainConfig) -> Iterator[Problem]:
    """Masks of concepts that do not exist, or two sets of masks of one concept."""
    concept_of = {word: i for i, concept in enumerate(config.concepts) for word in concept.words}
    word_with_masks: dict[int, str] = {}
    for i, subset in enumerate(config.data.sources):
        key = f"data.subsets.{i}.concept_masks" if config.data.subsets else "data.concept_masks"
        for word in subset.concept_masks:
            if word not in concept_of:
                allowed = ", ".join(concept_of) or "words of concepts"
                yield Problem(f"{key}.{word}", "is not a new word", allowed, "name a concept")
                continue
            first_word = word_with_masks.setdefault(concept_of[word], word)
            if first_word != word:
                message = f"is of the same concept as {first_word}, which has masks already"
                yield Problem(f"{key}.{word}", message, remedy="name each concept by one of its words")


def condition_problems(config: TrainConfig) -> Iterator[Problem]:
    """Two conditions of one name, and pictures of conditions that do not exist."""
    names = [condition.called for condition in config.conditions]
    for i, name in enumerate(names):
        if name in names[:i]:
            remedy = "give each condition a name of its own"
            yield Problem(f"conditions.{i}", f"another condition is called {name} too", remedy=remedy)
    for i, subset in enumerate(config.data.sources):
        key = f"data.subsets.{i}.condition_images" if config.data.subsets else "data.condition_images"
        for name in subset.condition_images:
            if name not in names:
                allowed = ", ".join(names) or "names of conditions"
                yield Problem(f"{key}.{name}", "is not a condition", allowed, "add it to conditions, or leave it out")
