"""The interface of a family's network and VAE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError
from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.diffusion.path import DiffusionPath
from lorasmith.diffusion.prediction import Prediction
from lorasmith.families.conditioning import Conditioning
from lorasmith.families.eight_bit import store_in_8_bits
from lorasmith.families.network_shape import NetworkShape

Feature = Literal["regions", "controls", "attention maps", "layer-wise tokens"]
"""What only some networks can do: prompts for parts of the picture; ControlNets and T2I-Adapters; cross-attention maps
of the new tokens; new tokens with a vector for each cross-attention layer."""

InputChange = Callable[[Tensor, Tensor, Conditioning], tuple[Tensor, Conditioning]]
"""From x_t (B, C, h, w), t (B,) and the conditioning to the x_t and the conditioning that the network gets."""


@dataclass(frozen=True)
class LatentDistribution:
    """The VAE's distribution of an image's latent: posterior mean and std, (B, C, h, w) float32, unscaled.

    `std` is None for a deterministic encoder.
    """

    mean: Tensor
    std: Tensor | None = None


class DiffusionModel(ABC):
    """The denoiser, the path that it was trained on, and the VAE of its latents.

    The denoiser is loaded from the start; the VAE is loaded when it is first used.
    """

    kind: ClassVar[str]
    """The name of the family in configs and files: `sd1`, `sd2`, `sdxl`."""
    denoiser_component: ClassVar[str]
    """The component name of the denoiser, with which its layer names begin: `unet` for Stable Diffusion."""
    features: ClassVar[frozenset[Feature]] = frozenset()

    latent_channels: ClassVar[int]
    downscale: ClassVar[int] = DOWNSCALE
    """The side of an image in pixels, divided by the side of its latent."""
    latent_scale: float
    latent_shift: float = 0.0
    """x0 = (latent - latent_shift) * latent_scale, for latents as the VAE gives them."""

    path: DiffusionPath
    """How x_t is made of x0 and noise."""
    prediction: Prediction
    """What the network was trained to predict."""
    dtype: torch.dtype
    device: torch.device
    as_base: Callable[[], AbstractContextManager[None]] = staticmethod(nullcontext)
    """Returns a context in which adapters have no effect. Whoever attaches adapters sets it."""

    input_changes: Sequence[InputChange] = ()
    """What changes the inputs of the network before each pass, in this order (see `conditions`)."""

    @property
    def network_shape(self) -> NetworkShape | None:
        """See `Source.network_shape`."""
        return None

    @property
    @abstractmethod
    def context_width(self) -> int:
        """The width of the text states that the network attends to."""

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The network that predicts, frozen."""

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's output, same shape as x_t, float32. `t`: (B,), as the path has it or fractional."""
        for change in self.input_changes:
            x_t, conditioning = change(x_t, t, conditioning)
        return self.network_output(x_t, t, conditioning)

    @abstractmethod
    def network_output(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """What `predict` returns, without `input_changes`."""

    @abstractmethod
    def checkpoint_gradients(self, on: bool) -> None:
        """Whether to recompute the denoiser's blocks in the backward pass instead of storing their activations."""

    def keep_less(self) -> None:
        """Keep less for the backward pass where computing it again costs little. Without effect if a family has no such
        operations."""
        return

    @property
    def is_streamed(self) -> bool:
        """Whether the frozen weights of the blocks are on the host already, because the device has no room for them."""
        return False

    def stream_weights(self) -> None:
        """Keep the frozen weights of the denoiser's blocks on the host, and copy them to the device when they are
        needed. Needs `checkpoint_gradients`. Without effect if a family cannot do it."""
        return

    def store_in_8_bits(self) -> None:
        """Hold the denoiser's frozen weights in 8 bits, which rounds them. Call it before adapters are attached."""
        store_in_8_bits(self.denoiser)

    @abstractmethod
    def cross_attention_layers(self) -> tuple[str, ...]:
        """Layer names of the cross-attentions in the order in which they run. Empty if the network has none."""

    def supports(self, feature: Feature) -> bool:
        """Whether the network can do what `feature` stands for."""
        return feature in self.features

    def require(self, feature: Feature, option: str) -> None:
        """Raise LorasmithError, naming the option that needs it, if `feature` is not supported."""
        if not self.supports(feature):
            raise LorasmithError(f"{option}: {self.kind} models do not support {feature}")

    default_cfg: ClassVar[float | None] = None
    """The guidance scale that pictures are drawn with if none is given; None: that of the command."""

    def add_guidance(self, conditioning: Conditioning, guidance: float) -> Conditioning:
        """`conditioning` with the guidance that the network gets as an input when it draws (Flux.1 dev); networks
        without this input return it unchanged."""
        return conditioning

    def set_guidance(self, guidance: float) -> None:
        """The guidance that the network gets as an input. Raises LorasmithError for networks without this input."""
        raise LorasmithError(f"guidance: {self.kind} models do not take the guidance as an input; remove it")

    @abstractmethod
    def encode_image(self, pixels: Tensor) -> LatentDistribution:
        """(B, 3, H, W) in -1..1 to unscaled latents, without gradients. H and W must be multiples of `downscale`."""

    def latents(self, distribution: LatentDistribution, noise: Tensor | None) -> Tensor:
        """x0 = (mean + std * noise - shift) * scale. With `noise` None: the mean."""
        latent = distribution.mean
        if noise is not None and distribution.std is not None:
            latent = latent + distribution.std * noise
        return (latent - self.latent_shift) * self.latent_scale

    @abstractmethod
    def decode(self, x0: Tensor) -> Tensor:
        """x0 to pixels (B, 3, H, W) in -1..1, without gradients."""

    @abstractmethod
    def fingerprint(self, part: str) -> str:
        """A hash that changes when a part would give other numbers. Computed from files, without loading the part.

        `part`: `vae`, `text` (all text encoders), or `denoiser_component`.
        """

    @abstractmethod
    def amend(self, component: str, mark: str, change: Callable[[], None]) -> None:
        """Let `change` alter the weights of a component permanently: at once if it is loaded, else when it is loaded,
        and again whenever it is reloaded. `mark` identifies the change in the fingerprint."""

    @abstractmethod
    def release(self, part: str) -> None:
        """Free `vae` or `text`; the next use loads it again."""
