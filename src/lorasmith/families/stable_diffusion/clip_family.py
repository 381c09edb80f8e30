"""What families have in common whose texts go through CLIP and whose images go through an AutoencoderKL."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.concepts import Vocabulary
from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.dtypes import dtype_name
from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Conditioning, Family, LatentDistribution
from lorasmith.families.fingerprint import part_hash
from lorasmith.families.network_shape import NetworkShape
from lorasmith.families.source import Source
from lorasmith.families.stable_diffusion import emphasis, vae
from lorasmith.families.stable_diffusion import text as clip_text
from lorasmith.families.stable_diffusion.conditioning import NEW_TOKEN_INDEX, text_conditioning

_NORM = re.compile(r"norm[^.]*$")

Layers = dict[str, tuple[nn.Module, str]]
"""Layer name to (parent module, attribute)."""


class ClipFamily(Family):
    """A base model with CLIP text encoders and a VAE, which are loaded when they are first used."""

    def __init__(self, source: Source, dtype: torch.dtype, device: torch.device | str) -> None:
        self.base = source
        self.source = source.name
        self.device = torch.device(device)
        self.dtype = dtype
        self._vae: nn.Module | None = None
        self._text_encoders: dict[str, nn.Module] = {}
        self._tokenizers: dict[str, Any] = {}
        self._amendments: dict[str, list[tuple[str, Callable[[], None]]]] = {}
        """By component the marks and changes of `amend`."""
        self._layers: dict[str, Layers] = {}
        """The layers of loaded components, before any adapter is attached."""

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module: ...

    @property
    def network_shape(self) -> NetworkShape | None:
        return self.base.network_shape

    @property
    def context_width(self) -> int:
        return self.base.context_width

    # ---- the VAE -----------------------------------------------------------------------------------------------------

    @property
    def vae(self) -> nn.Module:
        """The frozen autoencoder. Loads it on first use."""
        if self._vae is None:
            self._vae = vae.load_vae(self.base, self._vae_dtype, self.device)
        return self._vae

    @property
    def _vae_dtype(self) -> torch.dtype:
        return vae.compute_dtype(self.dtype, self.device)

    def encode_image(self, pixels: Tensor) -> LatentDistribution:
        height, width = pixels.shape[-2:]
        if height % self.downscale or width % self.downscale:
            raise LorasmithError(f"an image of {width} x {height} pixels; both must be multiples of {self.downscale}")
        return vae.encode(self.vae, pixels)

    def decode(self, x0: Tensor) -> Tensor:
        return vae.decode(self.vae, x0.float() / self.latent_scale + self.latent_shift)

    # ---- the text side -----------------------------------------------------------------------------------------------

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        missing = [component for component in self.text_components if component not in self._text_encoders]
        for component in missing:
            encoder = clip_text.load_text_encoder(self.base, component, self.dtype, self.device)
            self._text_encoders[component] = encoder
            self._layers[component] = layers_of(encoder, component)
        # A change may look at layers of all text encoders, so all are loaded before the first is changed.
        for component in missing:
            for _, change in self._amendments.get(component, ()):
                change()
            clip_text.learn(self._text_encoders[component], self.vocabulary, component)
        return self._text_encoders

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        """Component name to transformers' CLIP tokenizer. Loads them on first use."""
        for component in self.text_components:
            if component not in self._tokenizers:
                self._tokenizers[component] = clip_text.load_tokenizer(self.base, component)
        return self._tokenizers

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that `tokenize` uses (SDXL's two differ only in their pad token)."""
        return self.tokenizers[self.text_components[0]]

    def tokens(self, text: str) -> list[int]:
        return clip_text.tokens(self.tokenizer, text, self.vocabulary)

    def tokenize(self, captions: Sequence[str], max_tokens: int = 75) -> Tensor:
        return clip_text.windows(self.tokenizer, [self.tokens(caption) for caption in captions], max_tokens)

    def count_windows(self, texts: Sequence[str]) -> int:
        return emphasis.count_windows(self, texts)

    def encode_text(
        self, captions: Sequence[str], *, max_tokens: int | None = 75, clip_skip: int = 1, weighted: bool = False
    ) -> Conditioning:
        if weighted or max_tokens is None:
            count = None if max_tokens is None else max_tokens // emphasis.WINDOW
            return emphasis.encode(self, captions, clip_skip=clip_skip, count=count)
        return self.encode_ids(self.tokenize(captions, max_tokens), clip_skip=clip_skip)

    def encode_ids(self, ids: Tensor, *, clip_skip: int = 1, weights: Tensor | None = None) -> Conditioning:
        check_clip_skip(clip_skip)
        component = self.text_components[0]
        encoder = self.text_encoders[component]
        layer_ids, layer_weights, layers = self._ids_per_layer(ids, weights)
        hidden, _ = clip_text.states(encoder, self._padded_ids(layer_ids, component), clip_skip)
        context = join_windows(clip_text.final_norm(encoder)(hidden), layer_ids, layer_weights)
        return text_conditioning(split_layers(context, layers), new_token_index=self._new_token_index(ids))

    def _ids_per_layer(self, ids: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
        """Ids and weights as each cross-attention layer has them, (B layers, n, 77), and the number of layers.

        Where no new token differs between layers, they are returned as they are, with 1.
        """
        vocabulary = self.vocabulary
        if vocabulary is None or vocabulary.layers == 1 or not bool((ids >= vocabulary.size).any()):
            return ids, weights, 1
        repeated = None if weights is None else weights.repeat_interleave(vocabulary.layers, 0)
        return vocabulary.ids_per_layer(ids).flatten(0, 1), repeated, vocabulary.layers

    def _padded_ids(self, ids: Tensor, component: str) -> Tensor:
        """(B, windows, 77) to (B windows, 77), padded as this encoder was trained."""
        tokenizer = self.tokenizers[component]
        pad = self.base.pad(component)
        if pad is None:
            pad = tokenizer.pad_token_id
        return clip_text.refill(ids.flatten(0, 1).to(self.device), tokenizer.eos_token_id, pad)

    def _new_token_index(self, ids: Tensor) -> Tensor | None:
        if self.vocabulary is None:
            return None
        return self.vocabulary.row_numbers(ids).flatten(1).to(self.device)

    def new_token_index(self, conditioning: Conditioning) -> Tensor | None:
        return conditioning.get(NEW_TOKEN_INDEX)

    def add_sizes(self, conditioning: Conditioning, original: Any, crop: Any, target: Any) -> Conditioning:
        return conditioning

    def learn(self, vocabulary: Vocabulary | None) -> None:
        self.vocabulary = vocabulary
        for component, encoder in self._text_encoders.items():
            clip_text.learn(encoder, vocabulary, component)

    def token_embeddings(self, text: str) -> Mapping[str, Tensor]:
        ids = torch.tensor(clip_text.tokens(self.tokenizer, text, None), dtype=torch.int64, device=self.device)
        return {component: table[ids].float() for component, table in self.embedding_tables().items()}

    def embedding_tables(self) -> Mapping[str, Tensor]:
        return {component: clip_text.embedding_table(encoder) for component, encoder in self.text_encoders.items()}

    def _pooled(self, encoder: Any, last: Tensor, ids: Tensor) -> Tensor:
        """The state (B, 1280) at the end token of the first window, projected if the encoder has a projection: `last`
        (B, 77, width), `ids` (B, 77)."""
        end = (ids == self.tokenizer.eos_token_id).int().argmax(-1).to(last.device)
        states = last[torch.arange(len(last), device=last.device), end]
        states = clip_text.final_norm(encoder)(states)
        return encoder.text_projection(states) if hasattr(encoder, "text_projection") else states

    # ---- the layers --------------------------------------------------------------------------------------------------

    def components(self) -> Mapping[str, nn.Module]:
        return {self.denoiser_component: self.denoiser, **self.text_encoders}

    def named_layers(self, components: Iterable[str], *, norms: bool = False) -> Layers:
        allowed = (self.denoiser_component, *self.text_components)
        result: Layers = {}
        for component in components:
            if component not in allowed:
                raise LorasmithError(f'{self.kind} has no component "{component}"; it has {", ".join(allowed)}')
            if component not in self._layers:
                _ = self.text_encoders  # loads them, and with them their layers
            for name, place in self._layers[component].items():
                if norms or not _NORM.search(name):
                    result[name] = place
        return result

    # ---- parts and their changes -------------------------------------------------------------------------------------

    def fingerprint(self, part: str) -> str:
        if part not in (self.denoiser_component, "vae", "text"):
            raise LorasmithError(f'no part is called "{part}"; there are {self.denoiser_component}, vae, text')
        components = self.text_components if part == "text" else (part,)
        hashes = [part_hash(self.base, component) for component in components]
        dtype = self._vae_dtype if part == "vae" else self.dtype
        marks: list[str] = []
        for component in components:
            marks += [f"{component}+{mark}" for mark, _ in self._amendments.get(component, ())]
        return "-".join([*hashes, dtype_name(dtype), *marks])

    def amend(self, component: str, mark: str, change: Callable[[], None]) -> None:
        self._amendments.setdefault(component, []).append((mark, change))
        if component == self.denoiser_component or component in self._text_encoders:
            change()

    def release(self, part: str) -> None:
        if part == "vae":
            self._vae = None
        elif part == "text":
            for component in self._text_encoders:
                self._layers.pop(component, None)
            self._text_encoders = {}
        else:
            raise LorasmithError(f'"{part}" cannot be released; vae and text can')


def layers_of(model: nn.Module, component: str) -> Layers:
    """All linears, convolutions and norms of a component."""
    layers: Layers = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm):
            parent, _, attribute = path.rpartition(".")
            name = clip_text.classic_name(path) if is_text_encoder(component) else path
            layers[f"{component}.{name}"] = (model.get_submodule(parent), attribute)
    return layers


def split_layers(context: Tensor, layers: int) -> Tensor:
    """(B layers, tokens, width) as (B, layers, tokens, width); unchanged if there is one context for all layers."""
    return context if layers == 1 else context.unflatten(0, (-1, layers))


def join_windows(hidden: Tensor, ids: Tensor, weights: Tensor | None) -> Tensor:
    """Window states (B windows, 77, width) as one context (B, windows 77, width), weighted if there are weights."""
    if weights is not None:
        hidden = clip_text.weigh(hidden, weights.flatten(0, 1).to(hidden.device))
    return hidden.unflatten(0, ids.shape[:2]).flatten(1, 2)


def check_clip_skip(clip_skip: int) -> None:
    """Raise LorasmithError unless `clip_skip` is at least 1."""
    if clip_skip < 1:
        raise LorasmithError(f"clip_skip is {clip_skip}; 1 is the last layer, 2 the one before, and so on")
