"""T-LoRA: fewer ranks are trained at noisier timesteps (arXiv 2507.05964)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lorasmith.adapters.base import Adapter, LayerSpec
from lorasmith.adapters.lora import LoRA
from lorasmith.adapters.lora_adapter import LoRAAdapter


class TLoRAAdapter(LoRAAdapter):
    """delta = scale * (up @ down), as of LoRA. In training, a sample with noise uses the first ranks only.

    At position s on the path, from 0 (data) to 1 (noise), these are floor((1 - s)^power * (rank - min_rank)) +
    min_rank. All ranks are used outside of training, so files are those of a plain LoRA.
    """

    follows_noise: ClassVar[bool] = True
    min_rank: int = 1
    power: float = 1.0
    mask: Tensor | None
    """(B, rank), 0 or 1: the ranks of each sample in this pass. None: all."""

    def __init__(self, layer: LayerSpec, down: Tensor, up: Tensor, alpha: float, mid: Tensor | None = None) -> None:
        super().__init__(layer, down, up, alpha, mid)
        self.mask = None

    def begin_pass(self, position: Tensor, shared: dict[Any, Tensor]) -> None:
        key = (self.down.shape[0], self.min_rank, self.power)
        if key not in shared:
            shared[key] = rank_mask(position, *key)
        self.mask = shared[key]

    def product_form(self) -> tuple[Tensor, Tensor, float] | None:
        # in training the mask stands between the factors
        return None if self.training else super().product_form()

    def dropout_hidden(self, h: Tensor) -> Tensor:
        h = super().dropout_hidden(h)
        if not self.training or self.mask is None:
            return h
        # channels come second in images, last in tokens
        samples, rank = self.mask.shape
        shape = (samples, rank, 1, 1) if h.dim() == 4 else (samples, *[1] * (h.dim() - 2), rank)
        return h * self.mask.to(h.dtype).view(shape)


def rank_mask(position: Tensor, rank: int, min_rank: int, power: float) -> Tensor:
    """(B, rank), 1 for the ranks that are used at `position` (B,) on the path. At most `rank` of `min_rank` count."""
    fewest = min(min_rank, rank)
    used = ((1 - position.float()) ** power * (rank - fewest)).floor() + fewest
    return (torch.arange(rank, device=used.device) < used[:, None]).float()


class TLoRA(LoRA):
    """LoRA whose later ranks are trained at little noise only, against overfitting with few images."""

    signatures = ()
    writes = "lora"
    kind: Literal["tlora"] = "tlora"  # type: ignore[assignment]
    min_rank: int = Field(default=1, ge=1)
    """Ranks that are trained at pure noise; the authors use 1 to half of the rank."""
    power: float = Field(default=1.0, gt=0)
    """How fast the ranks fall with the noise: above 1 faster at first. The authors use 1."""

    @property
    def adapter_class(self) -> type[LoRAAdapter]:
        return TLoRAAdapter

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> LoRAAdapter | None:
        adapter = super().build(layer, base, generator)
        return None if adapter is None else self.prepared(adapter)

    def continue_from(self, adapter: Adapter) -> Adapter:
        """A plain LoRA as one whose ranks follow the noise; other kinds as they are."""
        if type(adapter) is not LoRAAdapter:
            return adapter
        masked = TLoRAAdapter(adapter.layer, adapter.down, adapter.up, adapter.alpha, adapter.mid)
        return self.prepared(masked).to(adapter.down.device)

    def prepared(self, adapter: LoRAAdapter) -> LoRAAdapter:
        """The adapter with the settings of this kind."""
        assert isinstance(adapter, TLoRAAdapter)
        adapter.min_rank, adapter.power = self.min_rank, self.power
        return adapter
