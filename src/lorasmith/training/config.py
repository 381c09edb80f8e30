"""The settings of a training run: typed once, checked once.

Set-up reads them (`setup/`) and puts what the step needs on the `Run`. Afterwards only what describes the run in its
files reads the config again (`tests/house/test_config_reads.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lorasmith.adapters import AdapterConfig
from lorasmith.adapters.lora import LoRA
from lorasmith.concepts import Concept
from lorasmith.core.config import override, read_table, to_toml, validate
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.registry import Config, load_plugins
from lorasmith.data.config import DataConfig
from lorasmith.training.hooks import Hook
from lorasmith.training.hooks.checkpoint import Checkpoints
from lorasmith.training.hooks.export import Exports
from lorasmith.training.hooks.log import Log
from lorasmith.training.hooks.preview import Previews
from lorasmith.training.hooks.validate import Validation
from lorasmith.training.step.lr_schedules import Constant, LrSchedule
from lorasmith.training.step.objectives import Objective
from lorasmith.training.step.objectives.denoising import Denoising
from lorasmith.training.step.optimizers import AdamW, OptimizerConfig

Part = Literal["unet", "text", "words"]
"""What is trained: the UNet's adapters, the text encoders', new words."""


class TextConfig(Config):
    """How captions become conditions."""

    max_tokens: Literal[75, 150, 225] = 75
    """Longer captions are encoded in windows of 75 tokens and joined, up to this length."""
    clip_skip: int = Field(default=1, ge=1, le=12)
    """1: the last layer of the text encoder; 2: the one before (SD 1.x models made with it)."""
    weighted: bool = False
    """Brackets in captions are emphasis, as in prompts: `(red hat:1.3), [dark]`; without it they are letters."""


SpecField = Literal[
    "title", "author", "description", "license", "tags", "usage_hint", "thumbnail", "merged_from", "preprocessor",
    "is_negative_embedding",
]  # fmt: skip
"""Fields of the model spec of Stability AI (1.0.1) that nobody but the user knows."""


class TrainConfig(Config):
    """Everything that decides a run. Same config, same base, same images: same LoRA."""

    base: str
    """The model to train on: `tiny-sd` (embedded), a diffusers folder, a hub id, or one original-layout
    `.safetensors` file."""
    merge: tuple[str, ...] = ()
    """LoRA files of any kind that are written into the base before training, each `file.safetensors` or
    `file.safetensors:0.8`. The new LoRA is one for the merged base: draw it with these beside it, before it."""
    vae: str = ""
    """Another VAE in the place of the base's: a folder of diffusers that is one or has one in `vae`, a hub id, or a
    `.safetensors` in the original layout. Latents are made, and previews drawn, with it."""
    output: Path
    """The run's folder. It must not hold another run."""
    name: str = ""
    """Of the LoRA file, without suffix. Default: the name of the output folder."""
    trigger: tuple[str, ...] = ()
    """The words that call the concept; checked in captions, written into the file."""
    seed: int = Field(default=0, ge=0)

    steps: int | None = Field(default=None, ge=1)
    """Length of the run in optimizer steps; or give `epochs`, or `views_per_image`."""
    epochs: int | None = Field(default=None, ge=1)
    views_per_image: float | None = Field(default=None, gt=0)
    """How often the run sees an image, on average; 100 if no length is given."""
    first_step: int = Field(default=0, ge=0)
    """So many steps of the run count as made, for example those behind the file in `start`: data, noise, learning rate
    and numbers begin there, and the rest of the run is trained."""
    first_epoch: int = Field(default=0, ge=0)
    """The same in epochs."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches in one optimizer step."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the frozen base; adapters are always float32. `auto`: bf16 for full-size models, fp32 for tiny ones."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; default: torch's choice."""
    cuda_graph: bool = True
    """On a GPU, capture whole steps as CUDA graphs where latents and texts are cached: far faster at small batches."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the base predicts; `auto` reads it from the model."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that the last step is pure noise (for v-prediction models made so)."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an average of the adapter's weights, which is what gets exported; 0 is off."""

    data: DataConfig
    text: TextConfig = TextConfig()
    concepts: tuple[Concept, ...] = ()
    """New words that are learned with the adapter, or alone (with `optimizer.unet_lr = 0`)."""
    phases: dict[Part, tuple[float, float]] = Field(default_factory=dict)
    """From when to when each part is trained, as shares of the run; for example `words = [0, 0.5]`, `unet = [0.5, 1]`.
    A part that is not named is trained throughout."""
    adapter: AdapterConfig = Field(default_factory=LoRA)
    start: Path | None = None
    """A LoRA file to go on from: it says layers, kinds and ranks, and `adapter` only dropouts, `max_norm` and rates."""
    objective: Objective = Field(default_factory=Denoising)
    optimizer: OptimizerConfig = Field(default_factory=AdamW)
    lr_schedule: LrSchedule = Field(default_factory=Constant)

    log: Log = Field(default_factory=Log)
    preview: Previews | None = None
    validation: Validation | None = None
    """On by default, at the start and after each epoch, if `data.validation` holds images out."""
    export: Exports = Field(default_factory=Exports)
    checkpoint: Checkpoints = Field(default_factory=Checkpoints)
    hooks: tuple[Hook, ...] = ()
    """Further hooks, run after the ones above."""
    plugins: tuple[str, ...] = ()
    """Python modules that add kinds."""
    comment: str = ""
    """Written into the file's metadata."""
    metadata: dict[SpecField, str] = Field(default_factory=dict)
    """More for the file's `modelspec` metadata, such as `author` or `license`."""

    @model_validator(mode="before")
    @classmethod
    def _measure_held_out_images(cls, value: Any) -> Any:
        """Images that are held out are there to be measured, so `[validation]` need not be written."""
        if not isinstance(value, dict) or value.get("validation") is not None:
            return value
        data = value.get("data")
        held_out = data.get("validation") if isinstance(data, dict) else None
        if not isinstance(held_out, dict) or not (held_out.get("split") or held_out.get("images")):
            return value
        return {**value, "validation": {}}

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        given = [k for k in ("steps", "epochs", "views_per_image") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of steps, epochs, views_per_image, not {' and '.join(given)}")
        if self.first_step and self.first_epoch:
            raise ValueError("give one of first_step and first_epoch, not both")
        return self

    @property
    def file_name(self) -> str:
        """Name of the LoRA file without suffix."""
        return self.name or self.output.name

    def to_toml(self) -> str:
        """This config as TOML, every default spelled out."""
        return to_toml(self.model_dump(mode="python"))

    @model_validator(mode="after")
    def _phases_in_order(self) -> TrainConfig:
        for name, (start, end) in self.phases.items():
            if not 0 <= start < end <= 1:
                raise ValueError(f"phases.{name} is [{start:g}, {end:g}]; give two shares in order, within 0 and 1")
        return self

    @property
    def learns_words(self) -> bool:
        """Whether any new word is trained."""
        return any(concept.lr > 0 for concept in self.concepts)

    def parts(self) -> tuple[str, ...]:
        """`unet`, `text`, or both: what is trained."""
        chosen = {"unet": self.optimizer.rate("unet"), "text": self.optimizer.text_lr}
        return tuple(name for name, rate in chosen.items() if rate > 0)


def load_config(source: Path | dict[str, Any], overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """A TOML or JSON file, or a table, with `key=value` overrides, as a checked config.

    Relative paths start at the current directory. Raises ConfigError with all problems.
    """
    table = dict(source) if isinstance(source, dict) else read_table(source)
    name = "the config" if isinstance(source, dict) else str(source)
    if not isinstance(table, dict):
        raise LorasmithError(f"{name}: holds a list; a config is a table of keys and values")
    table = override(table, overrides)
    load_plugins(table.get("plugins", ()))
    config = validate(TrainConfig, table, name)
    problems = sense_problems(config)
    if problems:
        raise ConfigError(problems, name)
    return config


def sense_problems(config: TrainConfig) -> list[Problem]:
    """What is well-formed but cannot work."""
    problems = []
    if not config.parts() and not config.learns_words:
        problems.append(
            Problem(
                "optimizer",
                "both unet_lr and text_lr are 0, so nothing would be trained",
                remedy="set optimizer.lr, or optimizer.text_lr to train the text encoder",
            )
        )
    if (gap := _gap(config)) is not None:
        problems.append(
            Problem(
                "phases",
                f"at {gap:g} of the run nothing is trained",
                remedy="let the phases of the parts that are trained follow each other, or overlap",
            )
        )
    problems += word_problems(config)
    if "/" in config.file_name or "\\" in config.file_name:
        problems.append(Problem("name", f'"{config.file_name}" is not a file name', "a name without / and \\"))
    return problems


def word_problems(config: TrainConfig) -> Iterator[Problem]:
    """What is asked of new words that are not there."""
    for i, part in enumerate(getattr(config.objective, "parts", ())):
        if part.needs_words and not config.concepts:
            what = f"{part.kind} is about new words, and there are none"
            yield Problem(f"objective.parts.{i}", what, remedy="add [[concepts]], or leave the part out")
    owner = {word: i for i, concept in enumerate(config.concepts) for word in concept.words}
    used: dict[int, str] = {}
    for i, subset in enumerate(config.data.sources):
        key = f"data.subsets.{i}.concept_masks" if config.data.subsets else "data.concept_masks"
        for word in subset.concept_masks:
            if word not in owner:
                yield Problem(
                    f"{key}.{word}", "is no new word", ", ".join(owner) or "words of concepts", "name a concept"
                )
            elif used.setdefault(owner[word], word) != word:
                what = f"is of the same concept as {used[owner[word]]}, which has masks already"
                yield Problem(f"{key}.{word}", what, remedy="name each concept by one of its words")


def _gap(config: TrainConfig) -> float | None:
    """The first share of the run at which no part is trained."""
    trained = (*config.parts(), *(["words"] if config.learns_words else []))
    phases: dict[str, tuple[float, float]] = {**config.phases}
    reached = 0.0
    for start, end in sorted(phases.get(part, (0.0, 1.0)) for part in trained):
        if start > reached:
            return reached
        reached = max(reached, end)
    return None if not trained or reached >= 1 else reached
