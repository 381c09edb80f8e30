"""Fusion in its order: text encoders, keys and values of the text, and the rest of the UNet.

Each stage collects the inputs that the stages before it produce, so that errors do not add up (Mix-of-Show, arXiv
2305.18292, section 3.3).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from lorasmith.core.component_names import component_of, is_text_encoder
from lorasmith.core.memory import peak_memory
from lorasmith.core.progress import Progress
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.conditioning import CONTEXT
from lorasmith.fusion.closed_form import Factors, LayerRegression, OutputErrors, concatenate_factors
from lorasmith.fusion.concepts import LoadedConcept
from lorasmith.fusion.inputs import GramMatrices, attached_changes
from lorasmith.fusion.memory_plan import FreeMemory, plan_passes
from lorasmith.fusion.prompts import HELD_OUT
from lorasmith.fusion.prompts import PROMPTS as TEXTS
from lorasmith.fusion.ridge_choice import DEFAULT_RIDGE, choose_ridge
from lorasmith.sampling.loras import vocabulary_of
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample_latents, scheduler_for

PROMPTS = ("a photo of {}", "{}")
METHODS = ("gradient", "weights", "sum")
"""`gradient`: the closed form; `weights`: the mean of the changes; `sum`: the sum of the changes."""

TEXT, KEYS_AND_VALUES, PICTURE = "text", "keys and values", "picture"
"""The stages, as reports name them."""

HELD_OUT_PICTURES = 2

Prompt = tuple[str, int]
"""A prompt, and the place of its first character that belongs to the concept or comes after it."""


@dataclass(frozen=True)
class FuseSettings:
    """How inputs are collected and what is made of them. `{}` in prompts stands for the name of a concept."""

    prompts: tuple[str, ...] = PROMPTS
    texts: tuple[str, ...] = TEXTS
    """Further prompts whose texts alone are read, for the text encoders and the keys and values: no image is drawn with
    them. Two prompts leave most directions of a text's inputs free, and the fused weights then miss more of a concept
    in prompts that they have not seen than weights that are not fused at all."""
    preserve: tuple[str, ...] = ()
    """Prompts for which the base is to stay as it was."""
    ridge: float | Literal["auto"] = DEFAULT_RIDGE
    """See `closed_form.LayerRegression`. `auto`: for each stage what misses least on the inputs of `held_out`. That
    keeps other things better and can lose a concept of weak effect (docs/measurements/fusion.md), so it is not the
    default."""
    held_out: tuple[str, ...] = HELD_OUT
    """Prompts that are not fitted to. What the fused weights miss on their inputs is measured, and can choose the
    ridge. Of pictures, two of these prompts are drawn, in half the steps."""
    seeds: int = 1
    """Images that are drawn for each prompt."""
    steps: int = 20
    size: int = 512
    method: str = "gradient"
    rank: int | None = None
    """Rank of the result; None: the sum of all ranks, which is exact."""
    base_parts: tuple[str, ...] = ()
    """Files and folders with the parts that a single file of Flux or SD3 lacks."""
    device: str = "auto"
    precision: str | None = None
    """`fp32`, `bf16`, `fp16`; None: that of the base."""


@dataclass
class FusionResult:
    """The changes of all layers. `missed`: by method and stage, for each concept |(D - D_i) X_i| / |D_i X_i|, computed
    from sketches of the inputs X_i and accurate to a few percent of its value; `held_out`: the same on the inputs of
    prompts that were not fitted to. `ridge`: by stage."""

    layers: dict[str, Factors] = field(default_factory=dict)
    missed: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    held_out: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    ridge: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    peak_gib: float = 0.0


@torch.no_grad()
def fuse(
    family: Family, concepts: Sequence[LoadedConcept], settings: FuseSettings, progress: Progress | None = None
) -> FusionResult:
    """One change for each layer that any concept changes."""
    started = time.monotonic()
    listener = progress or Progress()
    result = FusionResult()
    with known_tokens(family, concepts):
        # Parts of the model are loaded when they are first used; what is free is known afterwards.
        family.encode_text([concepts[0].name])
        for stage, layers in layers_by_stage(family, concepts).items():
            if layers:
                fuse_stage(family, concepts, StageLayers.of(stage, layers, concepts), settings, result, listener)
    result.seconds = time.monotonic() - started
    result.peak_gib = peak_memory(family.device) / 2**30
    return result


def layers_by_stage(family: Family, concepts: Sequence[LoadedConcept]) -> dict[str, list[str]]:
    """The changed layers of each stage, in the order of the stages."""
    keys_and_values = {f"{layer}.{leaf}" for layer in family.cross_attention_layers() for leaf in ("to_k", "to_v")}
    stages: dict[str, list[str]] = {TEXT: [], KEYS_AND_VALUES: [], PICTURE: []}
    # Without duplicates, in the order in which the concepts have them.
    for name in dict.fromkeys(name for concept in concepts for name in concept.changes):
        if is_text_encoder(component_of(name)):
            stages[TEXT].append(name)
        elif name in keys_and_values:
            stages[KEYS_AND_VALUES].append(name)
        else:
            stages[PICTURE].append(name)
    return stages


@contextmanager
def known_tokens(family: Family, concepts: Sequence[LoadedConcept]) -> Iterator[None]:
    """Let the model know the new tokens of all concepts in this context."""
    tokens = {token: vectors for concept in concepts for token, vectors in concept.tokens.items()}
    if not tokens:
        yield
        return
    # One vocabulary for all concepts, so that it need not change from concept to concept.
    before = family.vocabulary
    family.learn(vocabulary_of(family, tokens))
    try:
        yield
    finally:
        family.learn(before)


@dataclass(frozen=True)
class StageLayers:
    """The layers of a stage, and the lengths of their input vectors."""

    stage: str
    layers: list[str]
    widths: Mapping[str, int]

    @classmethod
    def of(cls, stage: str, layers: list[str], concepts: Sequence[LoadedConcept]) -> StageLayers:
        widths = {name: down.shape[1] for concept in concepts for name, (_, down) in concept.changes.items()}
        return cls(stage, layers, {name: widths[name] for name in layers})


@dataclass
class StageInputs:
    """What is known of a stage's inputs: a regression for each layer, and for each concept a sketch for each layer, of
    the inputs of the fit and of those held out."""

    regressions: dict[str, LayerRegression]
    sketches: list[dict[str, Tensor]] = field(default_factory=list)
    held_out: list[dict[str, Tensor]] = field(default_factory=list)


def fuse_stage(
    family: Family,
    concepts: Sequence[LoadedConcept],
    stage: StageLayers,
    settings: FuseSettings,
    result: FusionResult,
    listener: Progress,
) -> None:
    """Add the fused changes of a stage to the result, in as many passes as the sums of their inputs need."""
    passes = plan_passes(stage.layers, stage.widths, FreeMemory.on(family.device))
    in_passes = f", in {len(passes)} passes (the sums do not fit into the memory at once)" if len(passes) > 1 else ""
    listener.say(f"fusing {len(stage.layers)} layers: {stage.stage}{in_passes}")

    # The stages before this one are fused already: their effect on these inputs belongs to the result. Passes of one
    # stage see the same model, so that they find what one pass would.
    before = dict(result.layers)
    errors = StageErrors()
    for chosen in passes:
        inputs = collect_stage(family, concepts, stage, chosen, settings, before)
        solve_pass(stage.stage, inputs, settings, result, errors)
    errors.report(stage.stage, result)


def collect_stage(
    family: Family,
    concepts: Sequence[LoadedConcept],
    stage: StageLayers,
    chosen: list[str],
    settings: FuseSettings,
    before: dict[str, Factors],
) -> StageInputs:
    """The inputs of some of a stage's layers, `chosen`, for each concept. `before`: the changes of earlier stages."""
    widths = stage.widths
    inputs = StageInputs({name: LayerRegression() for name in chosen})
    with attached_changes(family, before, ()):
        for concept in concepts:
            with attached_changes(family, changes_during(stage.stage, concept, stage.layers), stage.layers):
                prompts = fitted_prompts(stage.stage, concept, settings)
                fit = collect_inputs(family, stage.stage, prompts, chosen, settings)
                # Inputs are too many to keep: the sums are enough to solve, the sketches to measure the result.
                inputs.sketches.append({name: fit.sketch(name, widths[name]) for name in chosen})
                for name in chosen:
                    inputs.regressions[name].add_concept(concept.changes.get(name), fit.pop(name, widths[name]))
                if settings.held_out:
                    rest = collect_held_out(family, stage.stage, concept, chosen, settings)
                    inputs.held_out.append({name: rest.sketch(name, widths[name]) for name in chosen})

        # The base's own inputs, without any concept: there the result is to do nothing.
        if settings.preserve:
            preserved = [(text, 0) for text in settings.preserve]
            with attached_changes(family, {}, stage.layers):
                grams = collect_inputs(family, stage.stage, preserved, chosen, settings)
            for name in chosen:
                inputs.regressions[name].add_preserved(grams.pop(name, widths[name]))
    return inputs


def fitted_prompts(stage: str, concept: LoadedConcept, settings: FuseSettings) -> list[Prompt]:
    """The prompts whose inputs a stage is fitted to."""
    patterns = settings.prompts if stage == PICTURE else dict.fromkeys((*settings.prompts, *settings.texts))
    return [fill_in(text, concept.name) for text in patterns]


def collect_held_out(
    family: Family, stage: str, concept: LoadedConcept, layers: list[str], settings: FuseSettings
) -> GramMatrices:
    """The inputs of prompts that are not fitted to."""
    patterns = settings.held_out
    if stage == PICTURE:
        # Drawing takes most of the time of a fusion, and inputs of neighbouring steps differ little.
        patterns = patterns[:HELD_OUT_PICTURES]
        settings = replace(settings, steps=max(1, settings.steps // 2), seeds=1)
    prompts = [fill_in(text, concept.name) for text in patterns]
    return collect_inputs(family, stage, prompts, layers, settings, GramMatrices(sketches_only=True))


def changes_during(stage: str, concept: LoadedConcept, layers: list[str]) -> dict[str, Factors]:
    """The concept's changes that are attached while the inputs of a stage's layers are collected."""
    if stage == KEYS_AND_VALUES:
        # Keys and values read the text alone: a change of some of them alters the input of none.
        return {}
    return {name: concept.changes[name] for name in layers if name in concept.changes}


@dataclass
class StageErrors:
    """What each method misses of each concept in a stage, on inputs of the fit and on others."""

    fitted: OutputErrors = field(default_factory=OutputErrors)
    held_out: OutputErrors = field(default_factory=OutputErrors)

    def report(self, stage: str, result: FusionResult) -> None:
        """Add the shares to the result."""
        for method in METHODS:
            result.missed.setdefault(method, {})[stage] = self.fitted.shares(method)
            held_out = self.held_out.shares(method)
            if held_out:
                result.held_out.setdefault(method, {})[stage] = held_out


def solve_pass(
    stage: str, inputs: StageInputs, settings: FuseSettings, result: FusionResult, errors: StageErrors
) -> None:
    """Add the changes of a pass's layers to the result, and what each method misses to the errors of the stage. The
    regressions are emptied, so that memory is freed layer by layer."""
    ridge = settings.ridge
    if ridge == "auto":
        # Layers of a pass are spread over the model, so that the first pass chooses for all.
        ridge = result.ridge[stage] if stage in result.ridge else choose_ridge(inputs.regressions, inputs.held_out)
    result.ridge[stage] = ridge

    for name in list(inputs.regressions):
        regression = inputs.regressions.pop(name)
        fused = {
            "gradient": regression.solve(ridge),
            "weights": concatenate_factors(regression.changes, 1 / len(inputs.sketches)),
            "sum": concatenate_factors(regression.changes),
        }
        result.layers[name] = fused[settings.method]
        # All methods are measured, so that a user sees what the chosen one is worth.
        for method, factors in fused.items():
            errors.fitted.add(method, factors, regression.changes, [sketch[name] for sketch in inputs.sketches])
            errors.held_out.add(method, factors, regression.changes, [sketch[name] for sketch in inputs.held_out])


def fill_in(text: str, name: str) -> Prompt:
    """The prompt of a concept's name, and where the concept begins in it."""
    return text.replace("{}", name), max(0, text.find("{}"))


def collect_inputs(
    family: Family,
    stage: str,
    prompts: Sequence[Prompt],
    layers: list[str],
    settings: FuseSettings,
    grams: GramMatrices | None = None,
) -> GramMatrices:
    """The inputs of a stage's layers while the model encodes or draws these prompts, added to `grams` if given."""
    grams = grams or GramMatrices()
    texts = [text for text, _ in prompts]
    if stage == PICTURE:
        with grams.collecting(family, layers):
            draw_prompts(family, texts, settings)
        return grams

    # Only the concept and what comes after it count: the tokens before it do not see it, are the same for all concepts
    # and would only blur their inputs.
    tokens = family.tokenize(texts).flatten(1)
    starts = [1 + len(family.tokens(text[:place])) if place else 0 for text, place in prompts]
    token_mask = torch.arange(tokens.shape[1]) >= torch.tensor(starts)[:, None]
    if stage == TEXT:
        with grams.collecting(family, layers, token_mask):
            family.encode_text(texts)
    else:
        collect_contexts(family, grams, texts, token_mask, layers)
    return grams


def collect_contexts(
    family: Family, grams: GramMatrices, texts: Sequence[str], token_mask: Tensor, layers: list[str]
) -> None:
    """The inputs of keys and values, which are the encoded texts: no image needs to be drawn."""
    context = family.encode_text(texts)[CONTEXT].float()
    layer_numbers = {name: i for i, name in enumerate(family.cross_attention_layers())}
    for name in layers:
        layer_context = context
        if context.dim() == 4:  # (B, layers, tokens, width): a context for each cross-attention layer
            attention = name.rpartition(".")[0]
            layer_context = context[:, layer_numbers[attention]]
        grams.add(name, layer_context[token_mask.to(context.device)])


def draw_prompts(family: Family, texts: Sequence[str], settings: FuseSettings) -> None:
    """Draw images of these prompts, one at a time; the images themselves are not needed."""
    for text in texts:
        for seed in range(settings.seeds):
            request = Request(
                text,
                seed=seed,
                steps=settings.steps,
                cfg=1.0,
                sampler="dpm++_2m",
                width=settings.size,
                height=settings.size,
            )
            sample_latents(family, [request], scheduler_for(family, request), after_step=lambda: None)
