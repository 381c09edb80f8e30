"""What Stable Diffusion 1.x, 2.x and XL have in common; `sd1.py`, `sd2.py` and `sdxl.py` say what differs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorasmith.concepts import Vocabulary
from lorasmith.core.dtypes import dtype_name
from lorasmith.core.errors import LorasmithError
from lorasmith.diffusion.prediction import prediction_of_kind
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.families.base import Conditioning, Family, Feature, LatentDistribution
from lorasmith.families.fingerprint import part_hash
from lorasmith.families.reader import fill
from lorasmith.families.stable_diffusion import emphasis, layer_names, text, vae
from lorasmith.families.stable_diffusion.conditioning import (
    CONTEXT,
    NEW_TOKEN_INDEX,
    POOLED,
    TIME_IDS,
    SteeredConditioning,
    text_conditioning,
)
from lorasmith.families.stable_diffusion.source import StableDiffusionSource, part_title
from lorasmith.families.stable_diffusion.steering import regional
from lorasmith.families.stable_diffusion.text import embedding_table, tokens
from lorasmith.families.stable_diffusion.unet import UNet

_NORM = re.compile(r"norm[^.]*$")
BIG = 100_000_000
"""UNets with more weights than this are loaded in bfloat16 unless told otherwise."""


class StableDiffusion(Family):
    """A base model whose UNet is loaded and whose other parts come when they are used."""

    denoiser_component: ClassVar[str] = "unet"
    text_components: ClassVar[tuple[str, ...]] = ("te",)
    features: ClassVar[frozenset[Feature]] = frozenset(("regions", "controls", "attention maps", "layer-wise tokens"))
    latent_channels: ClassVar[int] = 4
    downscale: ClassVar[int] = 8
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]] = layer_names.PRESETS

    def __init__(self, source: StableDiffusionSource, dtype: torch.dtype | None, device: torch.device | str) -> None:
        self.base = source
        self.source = source.name
        self.device = torch.device(device)
        self.dtype = dtype or (torch.bfloat16 if source.parameters > BIG else torch.float32)
        self.path = read_schedule(source).to(self.device)
        self.prediction = prediction_of_kind(source.prediction)
        self.latent_scale = float(source.config("vae").get("scaling_factor", 0.18215))
        self._unet = load_unet(source, self.dtype, self.device)
        self._vae: nn.Module | None = None
        self._texts: dict[str, nn.Module] = {}
        self._tokenizers: dict[str, Any] = {}
        self._known: tuple[str, ...] = ()
        self._amended: dict[str, list[tuple[str, Callable[[], None]]]] = {}
        self._layers = {"unet": _layers_of(self._unet, "unet")}

    @property
    def unet(self) -> UNet:
        """The denoiser with its concrete type."""
        return self._unet

    @property
    def denoiser(self) -> UNet:
        return self._unet

    @property
    def vae(self) -> nn.Module:
        """The frozen autoencoder; loads it on first use."""
        if self._vae is None:
            self._vae = vae.load_vae(self.base, self._vae_dtype, self.device)
        return self._vae

    @property
    def _vae_dtype(self) -> torch.dtype:
        return vae.compute_dtype(self.dtype, self.device)

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        fresh = [part for part in self.text_components if part not in self._texts]
        for part in fresh:
            self._texts[part] = text.load_text_encoder(self.base, part, self.dtype, self.device)
            self._layers[part] = _layers_of(self._texts[part], part)
        for part in fresh:
            for _, change in self._amended.get(part, ()):
                change()
            text.learn(self._texts[part], self.vocabulary, part)
        return self._texts

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        """Component name to transformers' CLIP tokenizer; loads them on first use."""
        for part in self.text_components:
            if part not in self._tokenizers:
                self._tokenizers[part] = text.load_tokenizer(self.base, part)
        return self._tokenizers

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that `tokenize` uses (SDXL's two differ only in how they fill up)."""
        return self.tokenizers[self.text_components[0]]

    def fingerprint(self, part: str) -> str:
        if part not in ("unet", "vae", "text"):
            raise LorasmithError(f'no part is called "{part}"; there are unet, vae, text')
        components = self.text_components if part == "text" else (part,)
        hashes = [part_hash(self.base, component) for component in components]
        marks = [f"{component}+{mark}" for component in components for mark, _ in self._amended.get(component, ())]
        return "-".join([*hashes, dtype_name(self._vae_dtype if part == "vae" else self.dtype), *marks])

    def amend(self, component: str, mark: str, change: Callable[[], None]) -> None:
        self._amended.setdefault(component, []).append((mark, change))
        if component == "unet" or component in self._texts:
            change()

    def encode_image(self, pixels: Tensor) -> LatentDistribution:
        height, width = pixels.shape[-2:]
        if height % self.downscale or width % self.downscale:
            raise LorasmithError(f"an image of {width} x {height} pixels; both must be multiples of {self.downscale}")
        return vae.encode(self.vae, pixels)

    def decode(self, x0: Tensor) -> Tensor:
        return vae.decode(self.vae, x0.float() / self.latent_scale + self.latent_shift)

    def learn(self, vocabulary: Vocabulary | None) -> None:
        self.vocabulary = vocabulary
        for part, model in self._texts.items():
            text.learn(model, vocabulary, part)

    def token_embeddings(self, text: str) -> Mapping[str, Tensor]:
        ids = torch.tensor(tokens(self.tokenizer, text, None), dtype=torch.int64, device=self.device)
        return {part: table[ids].float() for part, table in self.embedding_tables().items()}

    def embedding_tables(self) -> Mapping[str, Tensor]:
        return {part: embedding_table(model) for part, model in self.text_encoders.items()}

    def tokens(self, text: str) -> list[int]:
        return tokens(self.tokenizer, text, self.vocabulary)

    def tokenize(self, captions: Sequence[str], max_tokens: int = 75) -> Tensor:
        return text.windows(self.tokenizer, [self.tokens(caption) for caption in captions], max_tokens)

    def encode_text(
        self, captions: Sequence[str], *, max_tokens: int = 75, clip_skip: int = 1, weighted: bool = False
    ) -> Conditioning:
        if weighted:
            return emphasis.encode(self, captions, clip_skip=clip_skip, count=max_tokens // emphasis.WINDOW)
        return self.encode_ids(self.tokenize(captions, max_tokens), clip_skip=clip_skip)

    def encode_ids(self, ids: Tensor, *, clip_skip: int = 1, weights: Tensor | None = None) -> Conditioning:
        model = self.text_encoders["te"]
        each, weights, layers = self._by_layer(ids, weights)
        hidden, _ = text.states(model, self._ids(each, "te"), _checked(clip_skip))
        context = _joined(text.final_norm(model)(hidden), each, weights)
        return text_conditioning(_layered(context, layers), new_token_index=self._words(ids))

    def _by_layer(self, ids: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
        """Ids and weights as each cross-attention layer has them, (B layers, n, 77), and how many these are; as they
        are where no new word differs between layers."""
        new = self.vocabulary
        if new is None or new.layers == 1 or not bool((ids >= new.size).any()):
            return ids, weights, 1
        repeated = None if weights is None else weights.repeat_interleave(new.layers, 0)
        return new.ids_per_layer(ids).flatten(0, 1), repeated, new.layers

    def _words(self, ids: Tensor) -> Tensor | None:
        return None if self.vocabulary is None else self.vocabulary.row_numbers(ids).flatten(1).to(self.device)

    def _ids(self, ids: Tensor, part: str) -> Tensor:
        """(B, windows, 77) to (B windows, 77), filled up as this encoder wants it."""
        tokenizer = self.tokenizers[part]
        pad = self.base.pad(part)
        pad = tokenizer.pad_token_id if pad is None else pad
        return text.refill(ids.flatten(0, 1).to(self.device), tokenizer.eos_token_id, pad)

    def new_token_index(self, conditioning: Conditioning) -> Tensor | None:
        return conditioning.get(NEW_TOKEN_INDEX)

    def add_sizes(self, conditioning: Conditioning, original: Any, crop: Any, target: Any) -> Conditioning:
        return conditioning

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        time = self.path.network_time(t)
        text = (conditioning[CONTEXT], conditioning.get(POOLED), conditioning.get(TIME_IDS))
        if not isinstance(conditioning, SteeredConditioning):
            return self.unet(x_t, time, *text).float()
        with regional(self.unet, conditioning.regions):
            return self.unet(x_t, time, *text, conditioning.residuals).float()

    def cross_attention_layers(self) -> tuple[str, ...]:
        return tuple(f"{self.denoiser_component}.{name}" for name in self.unet.cross_attentions)

    def components(self) -> Mapping[str, nn.Module]:
        return {"unet": self.unet, **self.text_encoders}

    def named_layers(self, components: Iterable[str], *, norms: bool = False) -> dict[str, tuple[nn.Module, str]]:
        found: dict[str, tuple[nn.Module, str]] = {}
        for component in components:
            if component not in ("unet", *self.text_components):
                allowed = ", ".join(("unet", *self.text_components))
                raise LorasmithError(f'{self.kind} has no component "{component}"; it has {allowed}')
            if component != "unet":
                _ = self.text_encoders
            places = self._layers[component].items()
            found.update((name, place) for name, place in places if norms or not _NORM.search(name))
        return found

    def kohya_name(self, layer: str) -> str:
        return layer_names.kohya(self.kind, layer, self.base.unet_config)

    def from_kohya(self, name: str) -> str | None:
        return layer_names.from_kohya(self.kind, name, self._known_layers(), self.base.unet_config)

    def peft_name(self, layer: str) -> str:
        return layer_names.peft_name(layer)

    def _known_layers(self) -> tuple[str, ...]:
        """Names of all layers, from configs: no text encoder is loaded."""
        if not self._known:
            texts = (layer_names.text_layers(p, self.base.config(p)) for p in self.text_components)
            self._known = (*self._layers["unet"], *(spec.name for part in texts for spec in part))
        return self._known

    def checkpoint_gradients(self, on: bool) -> None:
        self.unet.checkpointing = on

    def release(self, part: str) -> None:
        if part == "vae":
            self._vae = None
        elif part == "text":
            for name in self._texts:
                self._layers.pop(name, None)
            self._texts = {}
        else:
            raise LorasmithError(f'"{part}" cannot be released; vae and text can')


def load_unet(source: StableDiffusionSource, dtype: torch.dtype, device: torch.device) -> UNet:
    """The frozen UNet, with weights read straight into `dtype` on `device`."""
    with torch.device("meta"):
        unet = UNet(source.unet_config)
    refs = source.resolve("unet", unet.state_dict())
    fill(unet, refs, dtype, device, part_title("unet"), source.where("unet"))
    unet.like = torch.empty(0, dtype=dtype, device=device)
    if device.type == "cuda":  # the layout that cuDNN's convolutions and our norms work in
        unet = unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return unet.requires_grad_(False).eval()


def read_schedule(source: StableDiffusionSource) -> NoiseSchedule:
    """The noise schedule of the model's scheduler config."""
    config = source.config("scheduler")
    shape, steps = config.get("beta_schedule", "scaled_linear"), config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
        schedule = NoiseSchedule(torch.cumprod(1 - betas, 0).float())
    elif shape == "scaled_linear":
        schedule = NoiseSchedule.scaled_linear(start, end, steps)
    elif shape == "linear":
        schedule = NoiseSchedule.linear(start, end, steps)
    else:
        raise LorasmithError(f"{source.name}: its beta_schedule is {shape!r}; scaled_linear and linear are supported")
    return schedule.zero_terminal_snr() if config.get("rescale_betas_zero_snr") else schedule


def _layers_of(model: nn.Module, component: str) -> dict[str, tuple[nn.Module, str]]:
    """Name to (owner, attribute) of all linears, convolutions and norms. Taken before any adapter is attached."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm):
            parent, _, leaf = path.rpartition(".")
            name = path if component == "unet" else text.classic_name(path)
            found[f"{component}.{name}"] = (model.get_submodule(parent), leaf)
    return found


def _layered(context: Tensor, layers: int) -> Tensor:
    """(B layers, tokens, width) as (B, layers, tokens, width), or as it is with one."""
    return context if layers == 1 else context.unflatten(0, (-1, layers))


def _joined(hidden: Tensor, ids: Tensor, weights: Tensor | None) -> Tensor:
    """Window states (B windows, 77, width) as one context (B, windows 77, width)."""
    if weights is not None:
        hidden = text.weigh(hidden, weights.flatten(0, 1).to(hidden.device))
    return hidden.unflatten(0, ids.shape[:2]).flatten(1, 2)


def _checked(clip_skip: int) -> int:
    if clip_skip < 1:
        raise LorasmithError(f"clip_skip is {clip_skip}; 1 is the last layer, 2 the one before, and so on")
    return clip_skip
