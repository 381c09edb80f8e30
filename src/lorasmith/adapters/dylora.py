"""DyLoRA: a LoRA whose first ranks are a good LoRA by themselves, however many (arXiv 2210.07558)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, LayerSpec
from lorasmith.adapters.factored import FactoredAdapter, FactoredConfig, kaiming
from lorasmith.adapters.lora import LoRA, LoRAAdapter


class DyLoRAAdapter(LoRAAdapter):
    """delta = scale * (up @ down), as of LoRA, with the ranks in blocks of `unit`.

    In training, each step has a block of its own: it alone is trained, on top of those before it, and those behind it
    are not there. The change of b of r ranks is then scaled by (r / b) ** boost besides.
    """

    carriers = ()

    def __init__(self, layer: LayerSpec, down: Tensor, up: Tensor, alpha: float, blocks: tuple[int, float]) -> None:
        """`blocks`: unit and boost."""
        FactoredAdapter.__init__(self, layer, down.shape[0], alpha)
        rank, ones = down.shape[0], [1] * len(layer.shape[2:])
        unit, self.boost = blocks
        down, up = down.reshape(rank, *layer.shape[1:]), up.reshape(layer.shape[0], rank, *ones)
        self.downs = nn.ParameterList(part.detach().float().clone() for part in down.split(unit))
        self.ups = nn.ParameterList(part.detach().float().clone() for part in up.split(unit, 1))
        self.mid = self.start_up = None
        self.block: int | None = None
        """The block of this step; None: all are trained."""

    @property
    def steady(self) -> bool:
        return False

    def begin(self, draw: float) -> None:
        self.block = int(draw * len(self.ups))

    @property
    def up(self) -> Tensor:  # type: ignore[override]
        return torch.cat(list(self.ups), 1)

    @property
    def down(self) -> Tensor:  # type: ignore[override]
        return torch.cat(list(self.downs))

    def pair(self) -> tuple[Tensor, Tensor]:
        return self.up, self.down

    def present(self) -> tuple[Tensor, Tensor]:
        """The factors of this step, up (out, b, ...), with its boost, and down (b, in, ...)."""
        if self.block is None or not self.training:
            return self.pair()
        before = self.block
        ups = [*(part.detach() for part in list(self.ups)[:before]), self.ups[before]]
        downs = [*(part.detach() for part in list(self.downs)[:before]), self.downs[before]]
        up, down = torch.cat(ups, 1), torch.cat(downs)
        return up * (self._rank / down.shape[0]) ** self.boost, down

    def factors_in(self, dtype: torch.dtype, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        up, down = self.present()
        return (up * (self.gain * strength)).to(dtype), down.to(dtype)

    def passing_weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        up, down = self.present()
        change = self.gain * (up.flatten(1) @ down.flatten(1)).view(self.layer.shape)
        return base.float() + strength * self.thin(change)

    def late(self) -> list[nn.Parameter]:
        return list(self.ups)

    def shrink(self, ratio: Tensor) -> None:
        if self.scalar is not None:
            self.scalar.mul_(ratio)
            return
        for part in (*self.ups, *self.downs):
            part.mul_(ratio.sqrt())

    def tensors(self) -> dict[str, Tensor]:
        up = self.up.detach() if self.scalar is None else self.up.detach() * self.scalar.detach()
        return {
            "lora_down.weight": self.down.detach(),
            "lora_up.weight": up,
            "alpha": torch.tensor(float(self.alpha)),
        }


class DyLoRA(FactoredConfig):
    """LoRA that is trained at all ranks up to its own, so that the file may be cut to any of them."""

    reads: ClassVar[frozenset[str]] = LoRA.reads
    writes: ClassVar[str] = "lora"
    kind: Literal["dylora"] = "dylora"
    unit: int = Field(default=1, ge=1)
    """Ranks that are trained together: the file may be cut to any multiple."""
    boost: float = Field(default=0.0, ge=0, le=1)
    """In training, b of r ranks are scaled by alpha / r * (r / b) ** boost. 0: the first ranks do the same however many
    follow, so each next block refines them; 0.5: networks.dylora of kohya; 1: alpha / b, as the paper and LyCORIS."""

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> DyLoRAAdapter | None:
        if layer.kind == "norm" or layer.groups != 1:
            return None
        rank, alpha = self.size(layer)
        out, *inner = layer.shape
        down = kaiming((rank, *inner), generator)
        up = self.last(out, rank, generator=generator)
        adapter = DyLoRAAdapter(layer, down, up, alpha, (self.unit, self.boost))
        self.finish(adapter)
        return adapter

    def restore(self, layer: LayerSpec, base: Tensor, tensors: Mapping[str, Tensor]) -> Adapter:
        return self.adopt(LoRA().restore(layer, base, tensors))

    def adopt(self, adapter: Adapter) -> Adapter:
        """A plain LoRA goes on in blocks; other kinds, and those with a core, as they are."""
        if type(adapter) is not LoRAAdapter or adapter.mid is not None:
            return adapter
        blocks = (self.unit, self.boost)
        return DyLoRAAdapter(adapter.layer, adapter.down, adapter.up, adapter.alpha, blocks).to(adapter.down.device)
