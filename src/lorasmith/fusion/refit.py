"""Words with a vector for each layer as words with one for all, and a LoRA whose keys and values make up for it.

A layer l reads the text h_l that its own vectors make; programs that know one vector a word give it h, made from the
mean over the layers. Keys and values are linear in the text, so the change that gives back what the layer had,
argmin_C |(W + C) h - W h_l|^2 + |C k|^2 + ridge, is a regression: C = W E (sum h h^T + sum k k^T + l I)^-1 with
E = sum (h_l - h) h^T, where W has its LoRA in it and k are texts without the words, on which nothing is to move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lorasmith.adapters.attach import module_at
from lorasmith.core.progress import Progress
from lorasmith.core.rng import torch_generator
from lorasmith.families.base import Conditioning, Family
from lorasmith.families.stable_diffusion.conditioning import CONTEXT
from lorasmith.files.lora import DecodedLora
from lorasmith.formats.token_embeddings import TokenEmbeddings, layer_cosines
from lorasmith.fusion.closed_form import Factors, nearest_of_rank, solved, stacked
from lorasmith.fusion.concepts import factors
from lorasmith.fusion.inputs import attached
from lorasmith.fusion.texts import HELD_OUT, HELD_PLAIN, KEPT, PROMPTS
from lorasmith.sampling.loras import Loras, LoraUse, vocabulary_of

AT_ONCE = 4
"""Prompts that are encoded at a time, each for all layers."""
TIMES = (900, 600, 300)
"""Of the schedule's 1000 steps, at which predictions are compared."""
DRAWN = 4
"""Held-out prompts of each name that predictions are compared on; keys and values are on all."""


@dataclass(frozen=True)
class RefitSettings:
    """How inputs are gathered and what is made of them. `{}` in prompts is a name of the concept."""

    prompts: tuple[str, ...] = PROMPTS
    held_out: tuple[str, ...] = HELD_OUT
    """Prompts that the errors are measured on, and nothing else."""
    preserve: tuple[str, ...] = KEPT
    """Texts without the concept, whose keys and values stay as they are."""
    names: tuple[str, ...] = ()
    """What prompts call the concepts; empty: the file's trigger phrases that hold its words, or all its words."""
    rank: int | None = None
    """Of keys and values in the result; None: what the file has and `EXTRA` more."""
    ridge: float = 3e-2
    """l as a share of the mean diagonal of the sums: larger keeps other texts more as they are, the concept less."""
    clip_skip: int | None = None
    """None: as the file says that it was trained."""
    size: int = 256
    """Pixels of the noise that predictions are compared on."""
    device: str = "auto"
    precision: str | None = None


EXTRA = 16


@dataclass
class Refitted:
    """`layers`: keys and values of the LoRA. Errors are on held-out prompts, tokens from the name on: for `collapse`
    (the mean alone) and `refit`, by layer |k - k_exact| / |k_exact|, and by time the same of the UNet's prediction,
    over what the text changes in it. `moved`: what the refit changes in predictions of texts without the words, over
    the same."""

    layers: dict[str, Factors] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    prediction: dict[str, dict[int, float]] = field(default_factory=dict)
    moved: dict[int, float] = field(default_factory=dict)
    cosines: dict[str, list[float]] = field(default_factory=dict)
    """By word, the cosine of each layer's vector with the mean, in the order of the layers."""


def shared(words: TokenEmbeddings) -> TokenEmbeddings:
    """The mean over the layers, (vectors, 1, width)."""
    return {word: {part: t.mean(1, keepdim=True) for part, t in parts.items()} for word, parts in words.items()}


class Texts:
    """Contexts of prompts as each cross-attention layer has them, by its own vectors (`exact`) or by the mean."""

    def __init__(self, family: Family, words: TokenEmbeddings, names: Sequence[str], clip_skip: int) -> None:
        self.family, self.names, self.clip_skip = family, names, clip_skip
        self.exact, self.mean = vocabulary_of(family, words), vocabulary_of(family, shared(words))

    def pairs(self, prompts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(B, layers, tokens, width) by the layers' own vectors, (B, tokens, width) by the mean, and for each token
        whether it is the concept or behind it, (B, tokens) bool."""
        texts = [(p.replace("{}", name), p.partition("{}")[0]) for name in self.names for p in prompts]
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start : start + AT_ONCE]
            own, mean = self.conditions([text for text, _ in part])
            begins = torch.tensor([1 + len(self.family.tokens(front)) if front else 0 for _, front in part])
            behind = torch.arange(mean[CONTEXT].shape[1]) >= begins[:, None]
            yield own[CONTEXT].float(), mean[CONTEXT].float(), behind.to(mean[CONTEXT].device)

    def conditions(self, texts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        """The same texts by the layers' own vectors and by the mean."""
        self.family.learn(self.exact)
        own = self.family.encode_text(texts, clip_skip=self.clip_skip)
        self.family.learn(self.mean)
        return own, self.family.encode_text(texts, clip_skip=self.clip_skip)

    def plain(self, texts: Sequence[str]) -> Iterator[Tensor]:
        """(B, tokens, width) of texts without the words."""
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start : start + AT_ONCE]
            yield self.family.encode_text(part, clip_skip=self.clip_skip)[CONTEXT].float()


@torch.no_grad()
def refit(
    family: Family, lora: DecodedLora, words: TokenEmbeddings, settings: RefitSettings, progress: Progress | None = None
) -> Refitted:
    """Keys and values that make up for words that are collapsed to their mean."""
    listener = progress or Progress()
    places = [f"{name}.{leaf}" for name in family.cross_attention_layers() for leaf in ("to_k", "to_v")]
    places = [name for name in places if name in lora.model.layers]
    base = {name: _weight(family, name) for name in places}
    own = {name: factors(lora, name, base[name].cpu()) for name in places if name in lora.layers}
    whole = {n: base[n] + (_product(own[n]).to(base[n].device) if n in own else 0) for n in places}
    result = Refitted(cosines=layer_cosines(words))
    with _speaking(family, lora):
        texts = Texts(family, words, settings.names, settings.clip_skip or 1)
        listener.say(f"gathering texts: {len(settings.prompts) * len(settings.names)} with the words")
        errors, total = _gathered(texts, settings)
        for index, moved in enumerate(errors):
            shift = solved(moved, total[index], settings.ridge).to(base[places[0]].device)
            for name in places[2 * index : 2 * index + 2]:
                change = whole[name] + whole[name] @ shift - base[name]
                rank = settings.rank or (own[name][1].shape[0] if name in own else 0) + EXTRA
                result.layers[name] = nearest_of_rank(change, total[index], settings.ridge, rank)
        listener.say(f"measuring on {len(settings.held_out) * len(settings.names)} other texts")
        fused = {n: base[n] + _product(pair).to(base[n].device) for n, pair in result.layers.items()}
        result.errors = _errors(texts, settings.held_out, whole, fused, places)
        result.prediction = _predictions(
            texts, settings, {n: _minus(pair, own.get(n)) for n, pair in result.layers.items()}
        )
        result.moved = result.prediction.pop("moved")
    return result


def _gathered(texts: Texts, settings: RefitSettings) -> tuple[list[Tensor], list[Tensor]]:
    """For each cross-attention layer sum (h_l - h) h^T and sum h h^T + sum k k^T, means over tokens, float64."""
    moved: list[Tensor] = []
    gram, kept, rows, plain = None, None, 0, 0
    for own, mean, _ in texts.pairs(settings.prompts):
        flat = mean.flatten(0, 1).double()
        for index in range(own.shape[1]):
            found = (own[:, index].flatten(0, 1).double() - flat).T @ flat
            if index == len(moved):
                moved.append(found)
            else:
                moved[index] += found
        gram = flat.T @ flat if gram is None else gram + flat.T @ flat
        rows += len(flat)
    for context in texts.plain(settings.preserve):
        flat = context.flatten(0, 1).double()
        kept = flat.T @ flat if kept is None else kept + flat.T @ flat
        plain += len(flat)
    assert gram is not None
    total = gram / rows + (0 if kept is None else kept / plain)
    return [found.cpu() / rows for found in moved], [total.cpu()] * len(moved)


def _errors(
    texts: Texts, prompts: Sequence[str], whole: dict[str, Tensor], fused: dict[str, Tensor], places: Sequence[str]
) -> dict[str, dict[str, float]]:
    """|k - k_exact| / |k_exact| by layer, of the mean with the LoRA as it was, and with the refitted one."""
    squares = {name: [0.0, 0.0, 0.0] for name in places}
    for own, mean, behind in texts.pairs(prompts):
        for at, name in enumerate(places):
            wanted = own[:, at // 2][behind] @ whole[name].T
            h = mean[behind]
            for i, x in enumerate((wanted, h @ whole[name].T - wanted, h @ fused[name].T - wanted)):
                squares[name][i] += float(x.double().square().sum())
    return {
        method: {name: (s[i] / s[0]) ** 0.5 if s[0] else 0.0 for name, s in squares.items()}
        for i, method in ((1, "collapse"), (2, "refit"))
    }


def _predictions(texts: Texts, settings: RefitSettings, apart: dict[str, Factors]) -> dict[str, dict[int, float]]:
    """|e - e_wanted| / |e_wanted - e_empty| of the UNet's prediction e on noise, over a few held-out prompts, by time;
    for `moved` over texts without the words. `apart`: what the refit adds to keys and values."""
    family, skip = texts.family, texts.clip_skip
    side = settings.size // family.downscale
    prompts = [p.replace("{}", name) for name in texts.names for p in settings.held_out[:DRAWN]]
    lost = {(m, t): 0.0 for m in ("collapse", "refit", "moved") for t in TIMES}
    text = dict.fromkeys(lost, 0.0)
    empty = _sized(family, family.encode_text([""], clip_skip=skip), side)
    cases = [(prompt, texts.conditions([prompt])) for prompt in prompts]
    cases += [(plain, (family.encode_text([plain], clip_skip=skip),) * 2) for plain in HELD_PLAIN]
    for place, (prompt, conditions) in enumerate(cases):
        exact, mean = (_sized(family, c, side) for c in conditions)
        x = torch.randn((1, family.latent_channels, side, side), generator=torch_generator(0, "refit", place))
        for t in TIMES:
            predict = partial(family.predict, x.to(family.device), torch.full((1,), t, device=family.device))
            wanted = predict(exact)
            whole = _square(wanted - predict(empty))
            with attached(family, apart, ()):
                refitted = _square(predict(mean) - wanted)
            found = {"moved": refitted} if prompt in HELD_PLAIN else {"refit": refitted}
            if prompt not in HELD_PLAIN:
                found["collapse"] = _square(predict(mean) - wanted)
            for method, square in found.items():
                lost[method, t] += square
                text[method, t] += whole
    shares = {key: (lost[key] / text[key]) ** 0.5 if text[key] else 0.0 for key in lost}
    return {m: {t: shares[m, t] for t in TIMES} for m in ("collapse", "refit", "moved")}


@contextmanager
def _speaking(family: Family, lora: DecodedLora) -> Iterator[None]:
    """With the LoRA on the model, and afterwards with the words that it had before."""
    before = family.vocabulary
    with Loras(family).attached([LoraUse(lora.path)]):
        try:
            yield
        finally:
            family.learn(before)


def _weight(family: Family, name: str) -> Tensor:
    layer: Any = module_at(family.named_layers([family.denoiser_component])[name])
    return layer.weight.detach().float()


def _product(pair: Factors) -> Tensor:
    return pair[0].float() @ pair[1].float()


def _minus(pair: Factors, other: Factors | None) -> Factors:
    return pair if other is None else stacked([pair, (-other[0], other[1])])


def _sized(family: Family, conditioning: Conditioning, side: int) -> Conditioning:
    size = torch.tensor([[side * family.downscale] * 2], device=family.device)
    return family.add_sizes(conditioning, size, torch.zeros_like(size), size)


def _square(x: Tensor) -> float:
    return float(x.double().square().sum())
