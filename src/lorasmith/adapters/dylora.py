"""DyLoRA: a LoRA whose first ranks are a good LoRA by themselves, however many are kept (arXiv 2210.07558)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lorasmith.adapters.adapter import Product, SteppedPart
from lorasmith.adapters.base import Adapter, Dropouts, FileTensors, LayerSpec
from lorasmith.adapters.factored import FactoredConfig, kaiming
from lorasmith.adapters.factored_adapter import FactoredAdapter
from lorasmith.adapters.lora import LoRA
from lorasmith.adapters.lora_adapter import LoRAAdapter


class DrawnBlock:
    """The block that a step trains, in tensors on the device, for all layers with the same ranks.

    `factors`: (blocks,), by what each block is multiplied in this step, 0 behind the drawn one; `active`: (blocks,), 1
    for the drawn block, else 0. `block_of_rank`: (rank,).
    """

    def __init__(self, rank: int, unit: int, boost: float, device: torch.device) -> None:
        self.block_of_rank = torch.arange(rank, device=device) // unit
        count = -(-rank // unit)
        self._active_by_draw = torch.eye(count, device=device)
        used = torch.arange(1, count + 1, device=device).mul(unit).clamp(max=rank)
        boosts = (rank / used) ** boost
        self._factors_by_draw = self._active_by_draw.new_ones(count, count).tril() * boosts[:, None]
        self.factors = self._factors_by_draw[-1].clone()
        self.active = torch.ones(count, device=device)
        self._block: int | None = None

    def write(self, block: int) -> None:
        """Make `block` the drawn one. The layers that share this object all call it."""
        if block != self._block:
            self._block = block
            self.factors.copy_(self._factors_by_draw[block])
            self.active.copy_(self._active_by_draw[block])


class DyLoRAAdapter(LoRAAdapter):
    """delta = scale * (up @ down), as of LoRA, with the ranks in blocks of `unit`.

    In training, each step trains one block: those before it take part without being trained, those behind it are left
    out. The change of b of r ranks is then also scaled by (r / b) ** boost.
    """

    up_factors = ()

    def __init__(
        self, layer: LayerSpec, down: Tensor, up: Tensor, alpha: float, *, unit: int = 1, boost: float = 0.0
    ) -> None:
        # not LoRA's own, which would register `up` and `down` whole
        FactoredAdapter.__init__(self, layer, down.shape[0], alpha)
        rank = down.shape[0]
        down = down.reshape(rank, *layer.shape[1:])
        up = up.reshape(layer.shape[0], rank, *[1] * len(layer.kernel))
        self.boost = boost
        down_blocks = down.split(unit)
        up_blocks = up.split(unit, 1)
        self.downs = nn.ParameterList(block.detach().float().clone() for block in down_blocks)
        self.ups = nn.ParameterList(block.detach().float().clone() for block in up_blocks)
        self.mid = self.start_up = None
        self.block: int | None = None
        """The block that this step trains; None: all."""
        self.unit = unit
        self.drawn: DrawnBlock | None = None
        """The same on the device, if all steps run the same operations."""

    def begin_step(self, draw: float) -> None:
        self.block = int(draw * len(self.ups))
        if self.drawn is not None:
            self.drawn.write(self.block)

    def use_same_operations(self, shared: dict[Any, Any]) -> None:
        device = self.ups[0].device
        ranks = (self._rank, self.unit, self.boost, device)
        self.drawn = shared.setdefault(("dylora", *ranks), DrawnBlock(*ranks))

    def stepped_parts(self) -> list[SteppedPart]:
        if self.drawn is None:
            return []
        pairs = zip(self.drawn.active, self.downs, self.ups, strict=True)
        return [SteppedPart(active, [down, up]) for active, down, up in pairs]

    @property
    def up(self) -> Tensor:  # type: ignore[override]
        return torch.cat(list(self.ups), 1)

    @property
    def down(self) -> Tensor:  # type: ignore[override]
        return torch.cat(list(self.downs))

    def factor_pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return []

    def factor_pair(self) -> tuple[Tensor, Tensor]:
        return self.up, self.down

    def step_factors(self) -> tuple[Tensor, Tensor]:
        """The factors of this step: up (out, b, ...), with its boost, and down (b, in, ...)."""
        if self.block is None or not self.training:
            return self.factor_pair()
        if self.drawn is not None:
            # all blocks get a gradient here; those of the blocks that are not trained become zero later
            up, down = self.factor_pair()
            factors = self.drawn.factors[self.drawn.block_of_rank]
            return up * factors.view(-1, *[1] * len(self.layer.kernel)), down
        # the blocks before this step's are there, but get no gradient
        up_blocks = [up.detach() for up in list(self.ups)[: self.block]]
        down_blocks = [down.detach() for down in list(self.downs)[: self.block]]
        up = torch.cat([*up_blocks, self.ups[self.block]], 1)
        down = torch.cat([*down_blocks, self.downs[self.block]])
        return up * (self._rank / down.shape[0]) ** self.boost, down

    def product_form(self) -> tuple[Tensor, Tensor, float] | None:
        return None  # there are several

    def products(self) -> list[Product]:
        if self.scalar is not None or not self.training or self.drawn is None or self.dropout != Dropouts():
            return []
        blocks = zip(self.ups, self.downs, self.drawn.factors, strict=True)
        return [Product(up, down, self.scale, factor) for up, down, factor in blocks]

    def scaled_factors(self, dtype: torch.dtype, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        up, down = self.step_factors()
        return (up * (self.gain * strength)).to(dtype), down.to(dtype)

    def forward_weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        up, down = self.step_factors()
        change = self.gain * (up.flatten(1) @ down.flatten(1)).view(self.layer.shape)
        return base.float() + strength * self.dropout_delta(change)

    def up_parameters(self) -> list[nn.Parameter]:
        return list(self.ups)

    def shrink(self, ratio: Tensor) -> None:
        if self.scalar is not None:
            self.scalar.mul_(ratio)
            return
        for part in (*self.ups, *self.downs):
            part.mul_(ratio.sqrt())

    def tensors(self) -> dict[str, Tensor]:
        up = self.up.detach()
        if self.scalar is not None:
            up = up * self.scalar.detach()
        return {
            "lora_down.weight": self.down.detach(),
            "lora_up.weight": up,
            "alpha": torch.tensor(float(self.alpha)),
        }


class DyLoRA(FactoredConfig):
    """LoRA that is trained at all ranks up to its own, so that the file can be cut to any of them."""

    reads = LoRA.reads
    writes = "lora"
    kind: Literal["dylora"] = "dylora"
    unit: int = Field(default=1, ge=1)
    """Ranks that are trained together: the file can be cut to any multiple."""
    boost: float = Field(default=0.0, ge=0, le=1)
    """In training, b of r ranks are scaled by alpha / r * (r / b) ** boost. 0: the first ranks do the same however many
    follow, so each next block refines them; 0.5: networks.dylora of kohya; 1: alpha / b, as the paper and LyCORIS."""

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> DyLoRAAdapter | None:
        if not layer.takes_factors:
            return None
        rank, alpha = self.rank_and_alpha(layer)
        down = kaiming((rank, *layer.shape[1:]), generator)
        up = self.zero_init(layer.shape[0], rank, generator=generator)
        adapter = DyLoRAAdapter(layer, down, up, alpha, unit=self.unit, boost=self.boost)
        self.add_scalar(adapter)
        return adapter

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        return LoRA.shapes_match(layer, tensors)

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> Adapter:
        return self.continue_from(LoRA().restore(layer, base, tensors))

    def continue_from(self, adapter: Adapter) -> Adapter:
        """A plain LoRA in blocks; other kinds, and LoRA with a Tucker core, as they are."""
        if type(adapter) is not LoRAAdapter or adapter.mid is not None:
            return adapter
        blocks = DyLoRAAdapter(adapter.layer, adapter.down, adapter.up, adapter.alpha, unit=self.unit, boost=self.boost)
        return blocks.to(adapter.down.device)
