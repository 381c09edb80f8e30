"""What Stable Diffusion 1.x, 2.x and XL have in common; `sd1.py`, `sd2.py` and `sdxl.py` have what differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError
from lorasmith.diffusion.prediction import prediction_of_kind
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.families.base import Conditioning, Feature
from lorasmith.families.reader import fill
from lorasmith.families.stable_diffusion import layer_names
from lorasmith.families.stable_diffusion.clip_family import ClipFamily, layers_of
from lorasmith.families.stable_diffusion.completeness import check_unet_input, empty_unet
from lorasmith.families.stable_diffusion.conditioning import (
    CONTEXT,
    POOLED,
    TIME_IDS,
    SteeredConditioning,
)
from lorasmith.families.stable_diffusion.presets import PRESETS
from lorasmith.families.stable_diffusion.source import StableDiffusionSource, part_title
from lorasmith.families.stable_diffusion.steering import with_regions
from lorasmith.families.stable_diffusion.unet import TransformerBlock, UNet
from lorasmith.families.streaming import BlockStream


class StableDiffusion(ClipFamily):
    """A base model. The UNet is loaded at once, the other parts when they are first used."""

    denoiser_component: ClassVar[str] = "unet"
    text_components: ClassVar[tuple[str, ...]] = ("te",)
    features: ClassVar[frozenset[Feature]] = frozenset(("regions", "controls", "attention maps", "layer-wise tokens"))
    latent_channels: ClassVar[int] = 4
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]] = PRESETS

    base: StableDiffusionSource

    def __init__(self, source: StableDiffusionSource, dtype: torch.dtype | None, device: torch.device | str) -> None:
        """`dtype` None: bfloat16 for a UNet of full size, else float32."""
        super().__init__(source, dtype or source.default_dtype, device)
        self.path = read_schedule(source).to(self.device)
        self.prediction = prediction_of_kind(source.prediction)
        self.latent_scale = float(source.config("vae").get("scaling_factor", 0.18215))
        self._unet = load_unet(source, self.dtype, self.device)
        self._layers["unet"] = layers_of(self._unet, "unet")
        self._all_layer_names: tuple[str, ...] = ()

    # ---- the network -------------------------------------------------------------------------------------------------

    @property
    def unet(self) -> UNet:
        """The denoiser with its concrete type."""
        return self._unet

    @property
    def denoiser(self) -> UNet:
        return self._unet

    def network_output(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        time = self.path.network_time(t)
        text = (conditioning[CONTEXT], conditioning.get(POOLED), conditioning.get(TIME_IDS))
        if not isinstance(conditioning, SteeredConditioning):
            return self.unet(x_t, time, *text).float()
        with with_regions(self.unet, conditioning.regions):
            return self.unet(x_t, time, *text, conditioning.residuals).float()

    def checkpoint_gradients(self, on: bool) -> None:
        self.unet.checkpointing = on
        self._choose_recomputed_parts()

    def keep_less(self) -> None:
        for block in self._transformer_blocks():
            block.lean = True
        self._choose_recomputed_parts()

    def _choose_recomputed_parts(self) -> None:
        # what a whole block computes again need not be computed a third time
        for block in self._transformer_blocks():
            block.recompute_feed_forward = block.lean and not self.unet.checkpointing

    def _transformer_blocks(self) -> list[TransformerBlock]:
        return [block for block in blocks_of(self.unet) if isinstance(block, TransformerBlock)]

    def stream_weights(self) -> None:
        if self.unet.stream is None:
            # the projections of the time are computed before the blocks, all at once
            self.unet.stream = BlockStream(blocks_of(self.unet), self.device, resident=["time_emb_proj"])

    def cross_attention_layers(self) -> tuple[str, ...]:
        return tuple(f"{self.denoiser_component}.{name}" for name in self.unet.cross_attentions)

    # ---- the layers --------------------------------------------------------------------------------------------------

    def kohya_name(self, layer: str) -> str:
        return layer_names.kohya(self.kind, layer, self.base.unet_config)

    def from_kohya(self, name: str) -> str | None:
        # From the configs, so that no text encoder is loaded for it.
        if not self._all_layer_names:
            self._all_layer_names = tuple(spec.name for spec in self.base.layers())
        return layer_names.from_kohya(self.kind, name, self._all_layer_names, self.base.unet_config)

    def peft_name(self, layer: str) -> str:
        return layer_names.peft_name(layer)


def load_unet(source: StableDiffusionSource, dtype: torch.dtype, device: torch.device) -> UNet:
    """The frozen UNet, with weights read straight into `dtype` on `device`.

    Raises LorasmithError if any weight is missing or unknown, or if it takes more than latents.
    """
    check_unet_input(source)
    unet, refs = empty_unet(source)
    fill(unet, refs, dtype, device, part_title("unet"), source.where("unet"))
    unet.like = torch.empty(0, dtype=dtype, device=device)
    if device.type == "cuda":  # the layout that cuDNN's convolutions and our norms work in
        unet = unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return unet.requires_grad_(False).eval()


def blocks_of(unet: UNet) -> list[nn.Module]:
    """The residual and transformer blocks in the order in which they run."""
    blocks: list[nn.Module] = []
    for level in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        transformers = [] if level.attentions is None else list(level.attentions)
        for i, resnet in enumerate(level.resnets):
            blocks.append(resnet)
            if i < len(transformers):
                blocks += transformers[i].transformer_blocks
    return blocks


def read_schedule(source: StableDiffusionSource) -> NoiseSchedule:
    """The noise schedule of the model's scheduler config. Raises LorasmithError for an unknown kind of schedule."""
    config = source.config("scheduler")
    kind = config.get("beta_schedule", "scaled_linear")
    steps = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
        schedule = NoiseSchedule(torch.cumprod(1 - betas, 0).float())
    elif kind == "scaled_linear":
        schedule = NoiseSchedule.scaled_linear(start, end, steps)
    elif kind == "linear":
        schedule = NoiseSchedule.linear(start, end, steps)
    else:
        raise LorasmithError(f"{source.name}: its beta_schedule is {kind!r}; scaled_linear and linear are supported")
    return schedule.zero_terminal_snr() if config.get("rescale_betas_zero_snr") else schedule


def check_clip_skip(clip_skip: int) -> None:
    """Raise LorasmithError unless `clip_skip` is at least 1."""
    if clip_skip < 1:
        raise LorasmithError(f"clip_skip is {clip_skip}; 1 is the last layer, 2 the one before, and so on")
