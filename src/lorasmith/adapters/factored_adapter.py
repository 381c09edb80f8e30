"""What changes that are a product of factors share: rank, alpha, scale, and a learned scalar."""

from __future__ import annotations

from torch import Tensor, nn

from lorasmith.adapters.adapter import Adapter
from lorasmith.adapters.base import LayerSpec


class FactoredAdapter(Adapter):
    """A change of alpha / rank times a product. With `scalar`, also times a learned number that starts at 0."""

    up_factors: tuple[str, ...] = ()
    """One factor of each summand, which `up_lr` applies to. Files have no tensor for the scalar, so it is multiplied
    into these."""

    def __init__(self, layer: LayerSpec, rank: int, alpha: float) -> None:
        super().__init__(layer)
        self._rank, self._alpha = rank, alpha
        self.scalar: nn.Parameter | None = None

    @property
    def alpha(self) -> float | None:
        return self._alpha

    @property
    def rank(self) -> int | None:
        return self._rank

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self._alpha / self._rank

    @property
    def gain(self) -> float | Tensor:
        """The scale, times the learned scalar if there is one."""
        return self.scale if self.scalar is None else self.scale * self.scalar

    def up_parameters(self) -> list[nn.Parameter]:
        return [getattr(self, name) for name in self.up_factors]

    def shrink(self, ratio: Tensor) -> None:
        if self.scalar is None:
            super().shrink(ratio)
        else:
            self.scalar.mul_(ratio)

    def tensors(self) -> dict[str, Tensor]:
        saved = super().tensors()
        if self.scalar is not None:
            for factor in self.up_factors:
                tensor_name = self.tensor_names[factor]
                saved[tensor_name] = saved[tensor_name] * self.scalar.detach()
        return saved
