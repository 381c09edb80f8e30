"""Settings that follow from the base, and settings that cannot be meant for this base or for the length of the run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from lorasmith.adapters.attach import select_layers
from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.factored import FactoredConfig
from lorasmith.core.devices import pick_device
from lorasmith.core.errors import ConfigError, Problem
from lorasmith.core.progress import Progress
from lorasmith.data.config import DEFAULT_RESOLUTION, sides_of
from lorasmith.families.load import open_base
from lorasmith.families.source import Source
from lorasmith.training.config import TrainConfig

NEAR = 1.15
"""Up to this factor a resolution counts as the one that the base was made for."""


def fit_to_base(config: TrainConfig) -> tuple[Source, TrainConfig]:
    """The base of a run, and the config with what follows from the base.

    Only headers are read. Raises LorasmithError if the base is incomplete, and ConfigError if the settings do not fit.
    """
    base = open_base(config.base, vae=config.vae, parts=config.base_parts)
    base.check_parts(every_name=False)
    config = with_base_defaults(config, base)
    check_ranks(config, base)
    return base, config


def with_base_defaults(config: TrainConfig, base: Source | None) -> TrainConfig:
    """`config` with the resolution that the base was made for, unless it names one. `base` None: it is not known."""
    if config.data.resolution is not None:
        return config
    resolution = DEFAULT_RESOLUTION if base is None else base.native_size
    return config.model_copy(update={"data": config.data.model_copy(update={"resolution": resolution})})


def adapted_layers(config: TrainConfig, base: Source) -> list[LayerSpec]:
    """The layers of the base that the config chooses for adapters. Raises ConfigError if its patterns match none."""
    candidates = {
        spec.name: spec
        for spec in base.layers()
        if (config.adapter.on_norms or spec.kind != "norm") and config.optimizer.rate(spec.component) > 0
    }
    if not candidates:  # only new tokens are trained
        return []
    places = dict.fromkeys(candidates, (torch.nn.Module(), ""))
    return [candidates[name] for name in select_layers(config.adapter.layers, places, base.layer_presets)]


@dataclass(frozen=True)
class RankUse:
    """The rank that a layer is given, and the largest one that a change of its weight can have."""

    layer: LayerSpec
    rank: int
    largest: int


def ranks_of(config: TrainConfig, base: Source) -> Iterator[RankUse]:
    """Rank and largest rank of each adapted layer; nothing for kinds of adapters without ranks."""
    if config.start is not None:  # the ranks are those of the file
        return
    for spec in adapted_layers(config, base):
        layer_config, _ = config.adapter.for_layer(spec.name)
        if isinstance(layer_config, FactoredConfig):
            largest = layer_config.largest_rank(spec)
            if largest is not None:
                yield RankUse(spec, layer_config.rank_and_alpha(spec)[0], largest)


def check_ranks(config: TrainConfig, base: Source) -> None:
    """Raises ConfigError if a rank is larger than the largest that any layer can have: such adapters need many times
    the memory, and cannot be meant."""
    uses = list(ranks_of(config, base))
    if not uses:
        return
    limit = max(use.largest for use in uses)
    too_large = [use for use in uses if use.rank > limit]
    if too_large:
        use = too_large[0]
        found = f"{use.rank:,} ({use.layer.name}) is more than any layer of the base can have"
        raise ConfigError([Problem("adapter.rank", found, f"1 to {limit:,}", "usual ranks are 4 to 128")])


def find_setting_remarks(config: TrainConfig, base: Source, steps: int) -> list[Problem]:
    """What is probably not meant in a config that can be trained. `steps`: the length of the run."""
    return [
        *device_remarks(config),
        *prediction_remarks(config, base),
        *resolution_remarks(config, base),
        *layer_remarks(config, base),
        *rank_remarks(config, base),
        *warmup_remarks(config, steps),
        *rate_remarks(config),
    ]


def report_setting_remarks(remarks: Sequence[Problem], progress: Progress) -> None:
    """Print the remarks on the settings, one in a line."""
    for remark in remarks:
        progress.say(f"remark: {remark.where}: {remark.found} ({remark.remedy})")


def resolution_remarks(config: TrainConfig, base: Source) -> Iterator[Problem]:
    """Resolutions that the base was not made for, of the whole data set and of subsets."""
    native = base.native_size
    resolutions = {"data.resolution": config.data.resolution}
    for i, subset in enumerate(config.data.sources):
        if subset.resolution is not None:
            resolutions[f"data.subsets.{i}.resolution"] = subset.resolution
    if config.data.subsets and all(subset.resolution is not None for subset in config.data.subsets):
        del resolutions["data.resolution"]  # no image has it

    for key, resolution in resolutions.items():
        if resolution is None:
            continue
        width, height = sides_of(resolution)
        factor = math.sqrt(width * height) / native
        if 1 / NEAR <= factor <= NEAR:
            continue
        effect = (
            "at smaller sizes it draws blurred, cropped pictures, and the LoRA is trained on these"
            if factor < 1
            else "at larger sizes it repeats parts of the subject, and the LoRA is trained on these"
        )
        size = f"{width}" if width == height else f"{width} x {height}"
        yield Problem(
            key,
            f"{size} is {factor:.2g} times the size that the base was made for, {native}: {effect}",
            remedy=f"leave it out, or set it to {native}, unless you mean it",
        )


def device_remarks(config: TrainConfig) -> Iterator[Problem]:
    """A run on the CPU of a machine that has a GPU, which takes a hundred times as long."""
    # `doctor` trains, so it imports this module.
    from lorasmith.training.doctor import explain_missing_device

    if config.device == "auto" and pick_device("auto").type == "cpu":
        finding = explain_missing_device(Path("/"), os.environ)
        if finding.level == "problem":
            yield Problem("device", finding.value, remedy=finding.advice)


def prediction_remarks(config: TrainConfig, base: Source) -> Iterator[Problem]:
    """A base that does not say what it predicts: a wrong target makes a LoRA that only draws noise."""
    if config.prediction != "auto" or base.prediction_origin == "stated":
        return
    answer = (
        "one pass of its UNet shows that it is"
        if base.prediction_origin == "probed"
        else "its UNet does not show it either, so it is assumed to be"
    )
    found = f"the base does not say what it predicts; {answer} {base.prediction}"
    yield Problem("prediction", found, remedy=f'prediction = "{base.prediction}", or the other kind, settles it')


def rank_remarks(config: TrainConfig, base: Source) -> Iterator[Problem]:
    """Ranks that are larger than a change of some layers can have."""
    uses = list(ranks_of(config, base))
    beyond = [use for use in uses if use.rank > use.largest]
    if beyond:
        smallest = min(use.largest for use in beyond)
        found = (
            f"larger than needed in {len(beyond)} of {len(uses)} layers: a change of {beyond[0].layer.name} has at "
            f"most the rank {beyond[0].largest}"
        )
        yield Problem("adapter.rank", found, remedy=f"{smallest} or less makes a smaller file that can do the same")


def layer_remarks(config: TrainConfig, base: Source) -> Iterator[Problem]:
    """Patterns of `adapter.layers` that fit nothing beside others that do, and a text encoder without adapters."""
    chosen = [] if config.start is not None else adapted_layers(config, base)
    if not chosen:  # the layers are those of a file, or only new tokens are trained
        return
    layers = config.adapter.layers
    for entry in (layers,) if isinstance(layers, str) else layers:
        if entry not in base.layer_presets:
            yield from pattern_remarks(entry, config, base)

    if config.optimizer.text_lr > 0 and all(spec.component == base.denoiser_component for spec in chosen):
        found = f"{config.optimizer.text_lr:g} trains nothing: adapter.layers chooses no layer of a text encoder"
        yield Problem(
            "optimizer.text_lr", found, remedy='add a pattern such as "te*" to adapter.layers, or set it to 0'
        )


def pattern_remarks(pattern: str, config: TrainConfig, base: Source) -> Iterator[Problem]:
    """A pattern that fits no layer, or no layer that is trained."""
    specs = list(base.layers())
    fitting = [spec for spec in specs if fnmatchcase(spec.name, pattern.removeprefix("!"))]
    if not fitting:
        found = f'"{pattern}" fits no layer of the base'
        yield Problem("adapter.layers", found, remedy=f"names of layers are such as {', '.join(examples_of(specs))}")
        return
    trained = any(config.optimizer.rate(spec.component) > 0 for spec in fitting)
    if not trained and not pattern.startswith("!"):
        found = f'"{pattern}" fits only layers of {fitting[0].component}, whose learning rate is 0'
        yield Problem("adapter.layers", found, remedy="set optimizer.text_lr, or leave the pattern out")


def examples_of(specs: Sequence[LayerSpec]) -> list[str]:
    """The name of the first layer of each component."""
    first: dict[str, str] = {}
    for spec in specs:
        first.setdefault(spec.component, spec.name)
    return list(first.values())


def warmup_remarks(config: TrainConfig, steps: int) -> Iterator[Problem]:
    """A warm-up that leaves no step at the full learning rate."""
    warmup = config.lr_schedule.warmup_steps(steps)
    if warmup and warmup >= steps:
        highest = config.lr_schedule.factor(steps - 1, steps)
        found = (
            f"{warmup:,} steps of warm-up in a run of {steps:,}: the learning rate only reaches {highest:.2g} times "
            "what is set"
        )
        yield Problem("lr_schedule.warmup", found, remedy="a share of the run, such as 0.05, or fewer steps")


def rate_remarks(config: TrainConfig) -> Iterator[Problem]:
    """Learning rates at which weights are lost within a few steps."""
    optimizer = config.optimizer
    if optimizer.finds_rate:
        return
    rates = {"optimizer.lr": optimizer.lr, "optimizer.text_lr": optimizer.text_lr}
    if optimizer.unet_lr is not None:
        rates["optimizer.unet_lr"] = optimizer.unet_lr
    for key, rate in rates.items():
        if rate >= 1:
            found = f"{rate:g} changes weights beyond use within a few steps, unless the optimizer scales it down"
            yield Problem(key, found, remedy="usual rates are 1e-5 to 1e-3")
