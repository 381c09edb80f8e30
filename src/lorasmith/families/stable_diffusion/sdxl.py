"""Stable Diffusion XL: two text encoders side by side, pooled text and image sizes (arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasmith.families.base import Cond
from lorasmith.families.stable_diffusion import text
from lorasmith.families.stable_diffusion.family import StableDiffusion, _checked, _joined, _layered


class SDXL(StableDiffusion):
    kind: ClassVar[str] = "sdxl"
    text_components: ClassVar[tuple[str, ...]] = ("te1", "te2")

    def encode_ids(self, ids: Tensor, *, clip_skip: int = 1, weights: Tensor | None = None) -> Cond:
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
        return Cond(_layered(context, layers), pooled=pooled, words=self._words(ids))

    def _pooled(self, model: Any, last: Tensor, ids: Tensor) -> Tensor:
        """The projected state (B, 1280) at the end mark of the first window: `last` (B, 77, width), `ids` (B, 77)."""
        end = (ids == self.tokenizer.eos_token_id).int().argmax(-1).to(last.device)
        states = last[torch.arange(len(last), device=last.device), end]
        return model.text_projection(text.final_norm(model)(states))

    def size_cond(self, cond: Cond, original: Any, crop: Any, target: Any) -> Cond:
        """`original`, `crop` (top, left), `target`: (B, 2) height and width each."""
        sizes = [torch.as_tensor(s, dtype=torch.float32, device=cond.context.device) for s in (original, crop, target)]
        return replace(cond, time_ids=torch.cat([s.reshape(-1, 2) for s in sizes], -1))
