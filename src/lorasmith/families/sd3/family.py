"""Stable Diffusion 3 and 3.5: MMDiT, states of two CLIP encoders beside those of T5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasmith.families.base import Conditioning
from lorasmith.families.sd3.source import SD3Source
from lorasmith.families.stable_diffusion import text as clip_text
from lorasmith.families.stable_diffusion.conditioning import CONTEXT, POOLED
from lorasmith.families.transformer_models.family import TransformerFamily


class SD3(TransformerFamily):
    kind: ClassVar[str] = "sd3"
    text_components: ClassVar[tuple[str, ...]] = ("te1", "te2")
    block_lists: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    default_cfg: ClassVar[float | None] = SD3Source.default_cfg
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]] = SD3Source.layer_presets
    t5_tokens: int = 256

    def network_output(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.check_sides(x_t)
        time = self.path.network_time(t)
        return self.denoiser(x_t, time, conditioning[CONTEXT], conditioning[POOLED]).float()

    def encode_clip(self, ids: Tensor, clip_skip: int) -> tuple[Tensor, Tensor]:
        """The states of both encoders before the last layer, without the final norm, and both projected pooled texts.

        `clip_skip` 1 and 2 both mean this, as SD3 was trained with it; n > 2 takes the n-th layer from the end.
        """
        states: list[Tensor] = []
        pooled: list[Tensor] = []
        for component in self.text_components:
            encoder: Any = self.text_encoders[component]
            hidden, last = clip_text.states(encoder, self._padded_ids(ids, component), max(2, clip_skip))
            states.append(hidden)
            pooled.append(self._pooled(encoder, last, ids[:, 0]))
        return torch.cat(states, -1), torch.cat(pooled, -1)
