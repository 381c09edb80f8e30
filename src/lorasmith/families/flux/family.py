"""Flux.1: T5 states as context, the pooled text of CLIP, and for dev the guidance as an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasmith.families.base import Conditioning
from lorasmith.families.flux.network import AttentionWithoutCudnn
from lorasmith.families.flux.source import FluxSource
from lorasmith.families.stable_diffusion import text as clip_text
from lorasmith.families.stable_diffusion.conditioning import CONTEXT, POOLED
from lorasmith.families.transformer_models.family import TransformerFamily

GUIDANCE = "guidance"
"""(B,) float32: the guidance of each sample while pictures are drawn."""


class Flux(TransformerFamily):
    kind: ClassVar[str] = "flux"
    text_components: ClassVar[tuple[str, ...]] = ("te1",)
    default_cfg: ClassVar[float | None] = FluxSource.default_cfg
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]] = FluxSource.layer_presets
    t5_tokens: int = 512
    block_lists: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    guidance: float = 1.0
    """The embedded guidance of dev in training: 1, as the published trainers have it."""

    def __init__(self, source: FluxSource, dtype: torch.dtype | None, device: torch.device | str) -> None:
        super().__init__(source, dtype, device)
        network: Any = self.denoiser
        network.set_attn_processor(AttentionWithoutCudnn())
        self._distilled = source.is_distilled

    def set_guidance(self, guidance: float) -> None:
        """schnell has no such input, and ignores it."""
        self.guidance = guidance

    def add_guidance(self, conditioning: Conditioning, guidance: float) -> Conditioning:
        if not self._distilled:
            return conditioning
        count = len(conditioning[POOLED])
        return conditioning.with_tensors(**{GUIDANCE: torch.full((count,), guidance, device=self.device)})

    def network_output(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.check_sides(x_t)
        guidance = conditioning.get(GUIDANCE)
        if guidance is None and self._distilled:
            guidance = torch.full_like(t, self.guidance, dtype=torch.float32)
        context = conditioning[CONTEXT].to(self.dtype)
        return self.denoiser(x_t, self.path.network_time(t), context, conditioning[POOLED], guidance).float()

    def encode_clip(self, ids: Tensor, clip_skip: int) -> tuple[None, Tensor]:
        """The state at the end token after the final norm, without a projection; the token states are not used."""
        encoder: Any = self.text_encoders["te1"]
        _, last = clip_text.states(encoder, self._padded_ids(ids, "te1"), 1)
        end = (ids[:, 0] == self.tokenizer.eos_token_id).int().argmax(-1).to(last.device)
        return None, clip_text.final_norm(encoder)(last)[torch.arange(len(last), device=last.device), end]
