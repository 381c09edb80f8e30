"""Stable Diffusion XL: two text encoders side by side, pooled text and image sizes (arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasmith.families.base import Conditioning
from lorasmith.families.stable_diffusion import text
from lorasmith.families.stable_diffusion.conditioning import CONTEXT, TIME_IDS, text_conditioning
from lorasmith.families.stable_diffusion.family import StableDiffusion, _checked, _joined, _layered


class SDXL(StableDiffusion):
    kind: ClassVar[str] = "sdxl"
    text_components: ClassVar[tuple[str, ...]] = ("te1", "te2")

    def encode_ids(self, ids: Tensor, *, clip_skip: int = 1, weights: Tensor | None = None) -> Conditioning:
        """Both encoders' states before the last layer, without the final norm; `clip_skip` 1 and 2 both mean this, as
        SDXL was trained so, and n > 2 takes the n-th from the end. `pooled` is of the first window, and where new words
        differ between layers the mean over these."""
        layer = max(2, _checked(clip_skip))
        encoders: Mapping[str, Any] = self.text_encoders
        each, weights, layers = self._by_layer(ids, weights)
        first, _ = text.states(encoders["te1"], self._ids(each, "te1"), layer)
        second, last = text.states(encoders["te2"], self._ids(each, "te2"), layer)
        context = torch.cat([_joined(first, each, weights), _joined(second, each, weights)], -1)
        pooled = self._pooled(encoders["te2"], last.unflatten(0, each.shape[:2])[:, 0], each[:, 0])
        pooled = pooled.unflatten(0, (-1, layers)).mean(1)
        return text_conditioning(_layered(context, layers), pooled, self._words(ids))

    def _pooled(self, model: Any, last: Tensor, ids: Tensor) -> Tensor:
        """The projected state (B, 1280) at the end mark of the first window: `last` (B, 77, width), `ids` (B, 77)."""
        end = (ids == self.tokenizer.eos_token_id).int().argmax(-1).to(last.device)
        states = last[torch.arange(len(last), device=last.device), end]
        return model.text_projection(text.final_norm(model)(states))

    def add_sizes(self, conditioning: Conditioning, original: Any, crop: Any, target: Any) -> Conditioning:
        """`original`, `crop` (top, left), `target`: (B, 2) height and width each."""
        device = conditioning[CONTEXT].device
        sizes = [torch.as_tensor(size, dtype=torch.float32, device=device) for size in (original, crop, target)]
        time_ids = torch.cat([size.reshape(-1, 2) for size in sizes], -1)
        return conditioning.with_tensors(**{TIME_IDS: time_ids})
