"""What training and sampling may ask of a model family, whatever its version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorasmith.concepts import Vocabulary
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.families.stable_diffusion.steering import Regions, Residuals


@dataclass(frozen=True)
class Cond:
    """What the UNet is told besides x_t and t.

    `context`: (B, tokens, width), or (B, layers, tokens, width) when each cross-attention layer has its own (P+, arXiv
    2303.09522). `pooled` and `time_ids` are SDXL's: (B, 1280) and (B, 6), else None.
    """

    context: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None
    words: Tensor | None = None
    """(B, tokens) int64: 0 for a token of the model's own, k for the k-th vector of the new words, from 1."""
    regions: Regions | None = None
    """Texts of their own for parts of the picture; like `residuals` for drawing only, so no method here keeps them."""
    residuals: Residuals | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Cond:
        """The same condition on another device or in another dtype."""

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, dtype, non_blocking=True)

        words = None if self.words is None else self.words.to(device, non_blocking=True)
        named: dict[str, Any] = {"context": self.context, "pooled": self.pooled, "time_ids": self.time_ids}
        return replace(self, words=words, **{name: move(x) for name, x in named.items()})

    def tensors(self) -> dict[str, Tensor]:
        """The parts that are there, by name (for caches)."""
        named = {"context": self.context, "pooled": self.pooled, "time_ids": self.time_ids, "words": self.words}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Cond:
        """The condition with these parts; the inverse of `tensors`."""
        named: dict[str, Any] = dict(tensors)
        return Cond(**named)

    @staticmethod
    def concat(parts: Sequence[Cond]) -> Cond:
        """Several conditions as one batch. All must have the same parts and number of tokens."""
        return Cond.of({name: torch.cat([p.tensors()[name] for p in parts]) for name in parts[0].tensors()})


@dataclass(frozen=True)
class Moments:
    """An image's raw latent: posterior mean and std, (B, 4, h, w) float32, unscaled. `std` is None for a
    deterministic encoder."""

    mean: Tensor
    std: Tensor | None = None


class Family(ABC):
    """A loaded base model.

    The UNet is there from the start; the VAE and the text encoders are loaded when first used, so that a run whose
    latents and texts are cached never imports them. Components have the names `unet`, `te` (SDXL: `te1`, `te2`).
    """

    kind: ClassVar[str]
    """`sd1`, `sd2` or `sdxl`."""
    latent_channels: ClassVar[int] = 4
    downscale: ClassVar[int] = 8
    text_components: ClassVar[tuple[str, ...]] = ("te",)
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]]
    """Preset name to patterns (fnmatch on layer names): `attention`, `attention-mlp` (kohya's set: all linears and 1x1
    convolutions of the transformer blocks, feed-forward and projections too), `full` (these and the residual
    blocks')."""

    path: DiffusionPath
    """How x_t is made of x0 and noise."""
    prediction: Prediction
    """What the network was trained to predict."""
    dtype: torch.dtype
    device: torch.device
    vocabulary: Vocabulary | None = None
    """The new words that texts may have now; see `learn`."""
    source: str
    """Where the base came from, as the user wrote it."""
    as_base: Callable[[], AbstractContextManager[None]] = staticmethod(nullcontext)
    """Gives a context in which adapters change nothing; set by who attaches some."""

    @property
    @abstractmethod
    def unet(self) -> nn.Module:
        """The noise predictor, frozen."""

    @property
    @abstractmethod
    def text_encoders(self) -> Mapping[str, nn.Module]:
        """Component name to frozen encoder; loads them on first use."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """transformers' CLIP tokenizer that `tokenize` uses; loads it on first use."""

    @abstractmethod
    def fingerprint(self, part: str) -> str:
        """A hash that changes when `part` (`vae`, `text`, `unet`) would give other numbers; needs no loading of it."""

    @abstractmethod
    def amend(self, component: str, mark: str, change: Callable[[], None]) -> None:
        """Let `change` alter the weights of a component, for good: at once if it is loaded, else as soon as it is, and
        again whenever it is loaded anew. `mark` names the change and enters the fingerprint."""

    @abstractmethod
    def encode_image(self, pixels: Tensor) -> Moments:
        """(B, 3, H, W) in -1..1 to raw latents, without gradients. H and W are multiples of `downscale`."""

    @abstractmethod
    def latents(self, moments: Moments, noise: Tensor | None) -> Tensor:
        """x0 = (mean + std * noise) * scaling factor (noise None: the mean)."""

    @abstractmethod
    def decode(self, x0: Tensor) -> Tensor:
        """x0 to pixels (B, 3, H, W) in -1..1, without gradients."""

    @abstractmethod
    def encode_text(
        self, captions: Sequence[str], *, max_tokens: int = 75, clip_skip: int = 1, weighted: bool = False
    ) -> Cond:
        """Captions to a condition; gradients flow if the text encoders carry trainable adapters.

        `max_tokens` 75, 150 or 225: longer texts are encoded in windows of 75 and joined. `clip_skip` 1 is the last
        layer; n takes the n-th from the end, followed by the final LayerNorm (SD 1.x). `weighted`: brackets are
        emphasis and windows end at commas, as in prompts (`families.emphasis`).
        """

    @abstractmethod
    def learn(self, vocabulary: Vocabulary | None) -> None:
        """Let texts have these new words from now on, or none."""

    @abstractmethod
    def own_vectors(self, text: str) -> Mapping[str, Tensor]:
        """The model's own token vectors of a text, (tokens, width) float32 by text encoder."""

    @abstractmethod
    def own_table(self) -> Mapping[str, Tensor]:
        """All of the model's own token vectors, (tokens, width) by text encoder, in its dtype."""

    @abstractmethod
    def tokens(self, text: str) -> list[int]:
        """Token ids of a text of any length, without marks; new words have the ids of their vectors."""

    @abstractmethod
    def tokenize(self, captions: Sequence[str], max_tokens: int = 75) -> Tensor:
        """Token ids (B, n, 77) int64: n = max_tokens / 75 windows with begin and end marks; the rest is cut off."""

    @abstractmethod
    def encode_ids(self, ids: Tensor, *, clip_skip: int = 1, weights: Tensor | None = None) -> Cond:
        """Token ids (B, n, 77) to a condition with 77 n tokens. `weights`: (B, n, 77), factors of the token states, of
        which each window then gets the mean back that it had (A1111's way)."""

    @abstractmethod
    def size_cond(self, cond: Cond, original: Any, crop: Any, target: Any) -> Cond:
        """`cond` with SDXL's sizes added ((B, 2) height and width each); other families return it unchanged."""

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's output, same shape as x_t, float32. `t`: (B,) int64 or float."""

    @abstractmethod
    def components(self) -> Mapping[str, nn.Module]:
        """`unet` and, loading them, the text encoders: where adapters may sit."""

    @abstractmethod
    def named_layers(self, components: Iterable[str], *, norms: bool = False) -> dict[str, tuple[nn.Module, str]]:
        """Layers that may carry adapters, by name: linears and convolutions (and norms), each as (owner, attribute).

        Text encoder layers have the classic names (`te.text_model.encoder.layers.0.self_attn.q_proj`), whatever
        transformers calls them.
        """

    @abstractmethod
    def checkpoint_gradients(self, on: bool) -> None:
        """Recompute the UNet's blocks in the backward pass instead of keeping their insides."""

    @abstractmethod
    def kohya_name(self, layer: str) -> str:
        """A layer's name in kohya-style files."""

    @abstractmethod
    def from_kohya(self, name: str) -> str | None:
        """The layer that a name of kohya-style files means, in any dialect; None if this model has no such layer."""

    @abstractmethod
    def peft_name(self, layer: str) -> str:
        """A layer's name in peft-style files."""

    def release(self, part: str) -> None:  # noqa: B027
        """Free `vae` or `text` again; the next use loads it anew."""
