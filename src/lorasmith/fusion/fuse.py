"""Fusion in its order: text encoders, keys and values of the text, and the rest of the UNet.

Each stage sees the inputs that the stages before it make, so that errors do not add up (Mix-of-Show, arXiv 2305.18292,
section 3.3).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorasmith.core.component_names import component_of, is_text_encoder
from lorasmith.core.memory import peak_memory
from lorasmith.core.progress import Progress
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.conditioning import CONTEXT
from lorasmith.fusion.closed_form import Factors, Sums, missed, stacked
from lorasmith.fusion.concepts import Concept
from lorasmith.fusion.inputs import Grams, attached
from lorasmith.sampling import samplers
from lorasmith.sampling.loras import vocabulary_of
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample_latents

PROMPTS = ("a photo of {}", "{}")
METHODS = ("gradient", "weights", "sum")
"""`gradient`: the closed form; `weights`: the mean of the changes; `sum`: all of each, side by side."""


@dataclass(frozen=True)
class FuseSettings:
    """How inputs are gathered. `{}` in prompts is a concept's name."""

    prompts: tuple[str, ...] = PROMPTS
    preserve: tuple[str, ...] = ()
    """Prompts on which the base is to stay as it was."""
    ridge: float = 1e-2
    """See `closed_form.Sums`."""
    seeds: int = 1
    """Pictures drawn for each prompt."""
    steps: int = 20
    size: int = 512
    method: str = "gradient"
    rank: int | None = None
    """Of the result; None: the ranks of all together, exactly."""
    device: str = "auto"
    precision: str | None = None
    """`fp32`, `bf16`, `fp16`; None: the base's own."""


@dataclass
class Fused:
    """The changes of all layers; `missed`: for each method and stage, each concept's |(D - D_i) X_i| / |D_i X_i|, from
    sketches of the inputs X_i: within a few percent of itself."""

    layers: dict[str, Factors] = field(default_factory=dict)
    missed: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    seconds: float = 0.0
    peak_gib: float = 0.0


@torch.no_grad()
def fuse(
    family: Family, concepts: Sequence[Concept], settings: FuseSettings, progress: Progress | None = None
) -> Fused:
    """One change of each layer that any concept changes. New words of all concepts are known to the model meanwhile."""
    started, listener = time.monotonic(), progress or Progress()
    result, changed = Fused(), _stages(family, concepts)
    gatherers: dict[str, Callable[[Grams, Sequence[str], list[str]], None]] = {
        "text": lambda grams, names, layers: _text(family, grams, names, layers, settings),
        "keys and values": lambda grams, names, layers: _context(family, grams, names, layers, settings),
        "picture": lambda grams, names, layers: _pictures(family, grams, names, layers, settings),
    }
    with _speaking(family, concepts):
        for stage, layers in changed.items():
            if not layers:
                continue
            listener.say(f"fusing {len(layers)} layers: {stage}")
            widths = {n: next(c.changes[n][1].shape[1] for c in concepts if n in c.changes) for n in layers}
            sums, sketches = {name: Sums() for name in layers}, []
            with attached(family, result.layers, ()):
                for concept in concepts:
                    own = {} if stage == "keys and values" else _own(concept, layers)
                    with attached(family, own, layers):
                        gatherers[stage](grams := Grams(), [concept.name], layers)
                    sketches.append({name: grams.sketch(name, width) for name, width in widths.items()})
                    for name in layers:
                        sums[name].add(concept.changes.get(name), grams.take(name, widths[name]))
                if settings.preserve:
                    with attached(family, {}, layers):
                        gatherers[stage](grams := Grams(), [], layers)
                    for name in layers:
                        sums[name].keep(grams.take(name, widths[name]))
            _solve(stage, sums, sketches, settings, result)
    result.seconds = time.monotonic() - started
    result.peak_gib = peak_memory(family.device) / 2**30
    return result


def _stages(family: Family, concepts: Sequence[Concept]) -> dict[str, list[str]]:
    names = list(dict.fromkeys(n for concept in concepts for n in concept.changes))
    text = [n for n in names if is_text_encoder(component_of(n))]
    keys_and_values = {f"{layer}.{leaf}" for layer in family.cross_attention_layers() for leaf in ("to_k", "to_v")}
    context = [n for n in names if n in keys_and_values]
    rest = [n for n in names if n not in set(text) | set(context)]
    return {"text": text, "keys and values": context, "picture": rest}


def _own(concept: Concept, layers: Sequence[str]) -> dict[str, Factors]:
    return {name: concept.changes[name] for name in layers if name in concept.changes}


def _solve(
    stage: str, sums: dict[str, Sums], sketches: Sequence[dict[str, Tensor]], settings: FuseSettings, result: Fused
) -> None:
    """The changes of a stage's layers, and what each method misses of each concept; uses the sums up."""
    squares = {method: [[0.0, 0.0] for _ in sketches] for method in METHODS}
    for name in list(sums):
        own = sums.pop(name)
        fused = {
            "gradient": own.solve(settings.ridge),
            "weights": stacked(own.changes, 1 / len(sketches)),
            "sum": stacked(own.changes),
        }
        for method, change in fused.items():
            for index, (pair, sketch) in enumerate(zip(own.changes, sketches, strict=True)):
                lost, whole = missed(change, pair, sketch[name])
                squares[method][index][0] += lost
                squares[method][index][1] += whole
        result.layers[name] = fused[settings.method]
    for method, rows in squares.items():
        shares = [math.sqrt(lost / whole) if whole else 0.0 for lost, whole in rows]
        result.missed.setdefault(method, {})[stage] = shares


@contextmanager
def _speaking(family: Family, concepts: Sequence[Concept]) -> Iterator[None]:
    words = {word: vectors for concept in concepts for word, vectors in concept.words.items()}
    before = family.vocabulary
    with ExitStack() as stack:
        if words:
            family.learn(vocabulary_of(family, words))
            stack.callback(family.learn, before)
        yield


def _prompts(names: Sequence[str], settings: FuseSettings) -> list[tuple[str, int]]:
    """Prompts, and where in each the concept begins, counted in tokens of the text before it; without names those to
    preserve, from their beginning."""
    if not names:
        return [(prompt, 0) for prompt in settings.preserve]
    return [(p.replace("{}", name), p.index("{}") if "{}" in p else 0) for name in names for p in settings.prompts]


def _encoded(family: Family, names: Sequence[str], settings: FuseSettings) -> tuple[list[str], Tensor]:
    """Prompts, and for each token whether it counts, (B, tokens): the concept and all behind it, which see it. What is
    before is the same for all concepts and would only blur what each makes of itself."""
    rows = _prompts(names, settings)
    texts = [text for text, _ in rows]
    ids = family.tokenize(texts).flatten(1)
    starts = torch.tensor([1 + len(family.tokens(text[:at])) if at else 0 for text, at in rows])
    return texts, torch.arange(ids.shape[1]) >= starts[:, None]


def _text(family: Family, grams: Grams, names: Sequence[str], layers: list[str], settings: FuseSettings) -> None:
    texts, chosen = _encoded(family, names, settings)
    with grams.watching(family, layers, chosen):
        family.encode_text(texts)


def _context(family: Family, grams: Grams, names: Sequence[str], layers: list[str], settings: FuseSettings) -> None:
    texts, chosen = _encoded(family, names, settings)
    context = family.encode_text(texts)[CONTEXT].float()
    order = {name: i for i, name in enumerate(family.cross_attention_layers())}
    for name in layers:
        own = context if context.dim() == 3 else context[:, order[name.rpartition(".")[0]]]
        grams.add(name, own[chosen.to(own.device)])


def _pictures(family: Family, grams: Grams, names: Sequence[str], layers: list[str], settings: FuseSettings) -> None:
    side = settings.size
    requests = [
        Request(text, seed=seed, steps=settings.steps, cfg=1.0, sampler="dpm++_2m", width=side, height=side)
        for text, _ in _prompts(names, settings)
        for seed in range(settings.seeds)
    ]
    with grams.watching(family, layers):
        for request in requests:
            scheduler = samplers.make_scheduler(request.sampler, family.path, family.prediction.name)
            samplers.set_timesteps(scheduler, request.steps, family.device)
            sample_latents(family, [request], scheduler, after_step=lambda: None)
