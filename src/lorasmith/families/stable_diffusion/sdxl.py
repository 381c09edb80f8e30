"""Stable Diffusion XL: two text encoders side by side, pooled text and image sizes (arXiv 2307.01952)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasmith.families.base import Conditioning
from lorasmith.families.stable_diffusion import text
from lorasmith.families.stable_diffusion.clip_family import check_clip_skip, join_windows, split_layers
from lorasmith.families.stable_diffusion.conditioning import CONTEXT, TIME_IDS, text_conditioning
from lorasmith.families.stable_diffusion.family import StableDiffusion


class SDXL(StableDiffusion):
    kind: ClassVar[str] = "sdxl"
    text_components: ClassVar[tuple[str, ...]] = ("te1", "te2")

    def encode_ids(self, ids: Tensor, *, clip_skip: int = 1, weights: Tensor | None = None) -> Conditioning:
        """The states of both encoders before the last layer, without the final norm.

        `clip_skip` 1 and 2 both mean this, as SDXL was trained with it; n > 2 takes the n-th from the end. The pooled
        text is that of the first window, and where new tokens differ between layers the mean over these.
        """
        check_clip_skip(clip_skip)
        layer = max(2, clip_skip)
        encoders = self.text_encoders
        layer_ids, layer_weights, layers = self._ids_per_layer(ids, weights)
        first, _ = text.states(encoders["te1"], self._padded_ids(layer_ids, "te1"), layer)
        second, last = text.states(encoders["te2"], self._padded_ids(layer_ids, "te2"), layer)
        joined = [join_windows(states, layer_ids, layer_weights) for states in (first, second)]
        context = torch.cat(joined, -1)

        first_window = last.unflatten(0, layer_ids.shape[:2])[:, 0]
        pooled = self._pooled(encoders["te2"], first_window, layer_ids[:, 0])
        pooled = pooled.unflatten(0, (-1, layers)).mean(1)
        return text_conditioning(split_layers(context, layers), pooled, self._new_token_index(ids))

    def add_sizes(self, conditioning: Conditioning, original: Any, crop: Any, target: Any) -> Conditioning:
        device = conditioning[CONTEXT].device
        sizes = [torch.as_tensor(size, dtype=torch.float32, device=device) for size in (original, crop, target)]
        time_ids = torch.cat([size.reshape(-1, 2) for size in sizes], -1)
        return conditioning.with_tensors(**{TIME_IDS: time_ids})
