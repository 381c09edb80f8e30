"""The change of LoRA, up @ down, as a torch module. Its settings are in `lora.py`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorasmith.adapters.base import Dropouts, LayerSpec
from lorasmith.adapters.factored import parameter
from lorasmith.adapters.factored_adapter import FactoredAdapter
from lorasmith.adapters.lora import TENSOR_NAMES


class LoRAAdapter(FactoredAdapter):
    """delta = scale * (up @ down), scale = alpha / rank.

    `down`: (rank, in) or (rank, in, kh, kw); `up`: (out, rank) or (out, rank, 1, 1). Tucker: `down` is (rank, in, 1, 1)
    and `mid` (rank, rank, kh, kw). If the factors start as a part of the weight (PiSSA, OLoRA), that start is
    subtracted again (`start_up`, `start_down`), so that the frozen weight itself never changes.
    """

    tensor_names: ClassVar[dict[str, str]] = TENSOR_NAMES
    factors = ("up", "mid", "down")
    up_factors = ("up",)
    down: Tensor
    up: Tensor
    mid: Tensor | None
    start_up: Tensor | None
    start_down: Tensor

    def __init__(self, layer: LayerSpec, down: Tensor, up: Tensor, alpha: float, mid: Tensor | None = None) -> None:
        super().__init__(layer, down.shape[0], alpha)
        rank = down.shape[0]
        ones = [1] * len(layer.kernel)
        inner = layer.shape[1:] if mid is None else (layer.shape[1], *ones)
        self.register_parameter("down", parameter(down.reshape(rank, *inner)))
        self.register_parameter("up", parameter(up.reshape(layer.shape[0], rank, *ones)))
        self.register_parameter("mid", parameter(mid))
        self.register_buffer("start_up", None)
        self.register_buffer("start_down", None)

    def start_from(self, up: Tensor, down: Tensor) -> None:
        """Subtract up @ down from the change from now on, so that these factors mean no change."""
        self.start_up, self.start_down = up.clone(), down.clone()

    def factor_pair(self) -> tuple[Tensor, Tensor]:
        """up (out, rank, ...) and down (rank, in, ...), with the start as further, negative ranks."""
        if self.start_up is None:
            return self.up, self.down
        return torch.cat([self.up, -self.start_up], 1), torch.cat([self.down, self.start_down])

    def delta(self, base: Tensor | None = None) -> Tensor:
        up, down = self.factor_pair()
        # Tucker: the core stands between the factors, with the kernel
        if self.mid is not None:
            change = torch.einsum("om,mnhw,ni->oihw", up.flatten(1), self.mid, down.flatten(1))
        else:
            change = (up.flatten(1) @ down.flatten(1)).view(self.layer.shape)
        return self.gain * change

    def branch(self, x: Tensor) -> Tensor:
        up, down = self.scaled_factors(x.dtype)
        spec = self.layer
        if spec.kind == "linear":
            return F.linear(self.dropout_hidden(F.linear(x, down)), up)
        if self.mid is None:
            h = F.conv2d(x, down, None, spec.stride, spec.padding, spec.dilation)
        else:
            h = F.conv2d(F.conv2d(x, down), self.mid.to(x.dtype), None, spec.stride, spec.padding, spec.dilation)
        return F.conv2d(self.dropout_hidden(h), up)

    def product_form(self) -> tuple[Tensor, Tensor, float] | None:
        is_plain = self.mid is None and self.start_up is None and self.scalar is None
        if not is_plain or (self.training and self.dropout != Dropouts()):
            return None
        return self.up, self.down, self.scale

    def add_to(self, out: Tensor, x: Tensor, strength: float = 1.0) -> Tensor:
        if self.layer.kind != "linear":
            return super().add_to(out, x, strength)
        # the second product and the addition are one kernel, with the strength inside `up`
        up, down = self.scaled_factors(x.dtype, strength)
        h = self.dropout_hidden(F.linear(x, down))
        return torch.addmm(out.flatten(0, -2), h.flatten(0, -2), up.T).view_as(out)

    def scaled_factors(self, dtype: torch.dtype, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        """up, multiplied by the gain and a strength, and down, both in `dtype`."""
        up, down = self.factor_pair()
        # `up` is smaller than the output, so the factor goes there; a factor of 1 is left out
        if isinstance(self.gain, Tensor) or self.gain * strength != 1:
            up = up * (self.gain * strength)
        return up.to(dtype), down.to(dtype)

    def batch_key(self) -> Hashable | None:
        is_plain = self.mid is None and self.start_up is None and self.scalar is None
        return self.scale if is_plain and not self.drops_entries else None

    def deltas(self, parameters: Mapping[str, Tensor], bases: Sequence[Tensor]) -> Tensor:
        up, down = self.factors_of(parameters)
        return up @ down

    def factors_of(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.scale * parameters["up"], parameters["down"]

    def factor_pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        if self.mid is not None:
            return []
        up, down = self.up, self.down
        assert isinstance(up, nn.Parameter)
        assert isinstance(down, nn.Parameter)
        return [(up, down)]

    @property
    def rank(self) -> int:
        return self._rank if self.start_up is None else 2 * self._rank

    @property
    def alpha(self) -> float:
        return self.scale * self.rank

    def tensors(self) -> dict[str, Tensor]:
        if self.start_up is None:
            return super().tensors()
        # files cannot say "minus the start", so it becomes further ranks
        up, down = self.factor_pair()
        alpha = torch.tensor(self.alpha)
        return {"lora_down.weight": down.detach(), "lora_up.weight": up.detach(), "alpha": alpha}
