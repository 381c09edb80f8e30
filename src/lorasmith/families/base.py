"""What training and sampling may ask of a model family, whatever its version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorasmith.concepts import Vocabulary
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.families.conditioning import Conditioning
from lorasmith.moved_modules import renamed


@dataclass(frozen=True)
class LatentDistribution:
    """The VAE's distribution of an image's latent: posterior mean and std, (B, C, h, w) float32, unscaled.

    `std` is None for a deterministic encoder.
    """

    mean: Tensor
    std: Tensor | None = None


def __getattr__(name: str) -> Any:
    """The names that this module had in version 0.1."""
    return renamed("families.base", name)


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
    def encode_image(self, pixels: Tensor) -> LatentDistribution:
        """(B, 3, H, W) in -1..1 to raw latents, without gradients. H and W are multiples of `downscale`."""

    @abstractmethod
    def latents(self, distribution: LatentDistribution, noise: Tensor | None) -> Tensor:
        """x0 = (mean + std * noise) * scaling factor (noise None: the mean)."""

    @abstractmethod
    def decode(self, x0: Tensor) -> Tensor:
        """x0 to pixels (B, 3, H, W) in -1..1, without gradients."""

    @abstractmethod
    def encode_text(
        self, captions: Sequence[str], *, max_tokens: int = 75, clip_skip: int = 1, weighted: bool = False
    ) -> Conditioning:
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
    def encode_ids(self, ids: Tensor, *, clip_skip: int = 1, weights: Tensor | None = None) -> Conditioning:
        """Token ids (B, n, 77) to a condition with 77 n tokens. `weights`: (B, n, 77), factors of the token states, of
        which each window then gets the mean back that it had (A1111's way)."""

    @abstractmethod
    def add_sizes(self, conditioning: Conditioning, original: Any, crop: Any, target: Any) -> Conditioning:
        """`conditioning` with the sizes of the image, for families that are conditioned on them (SDXL); others return
        it unchanged. `original` and `target`: (B, 2) height and width; `crop`: (B, 2) top and left."""

    @abstractmethod
    def new_token_index(self, conditioning: Conditioning) -> Tensor | None:
        """(B, tokens) int64: 0 for a token of the model, k for the k-th vector of the new tokens, from 1. None if there
        were no new tokens when the texts were encoded."""

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
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
