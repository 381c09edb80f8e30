"""Where a layer of a model is stored in a file that divides the layers among modules in another way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Place:
    """A layer's place: a whole module of the file, or some rows of one that holds several layers."""

    module: str
    """The name of the module in the file, without a prefix such as `model.diffusion_model.`."""
    index: int = 0
    """Which of the layers in the module it is."""
    sizes: tuple[int, ...] = (1,)
    """The relative numbers of rows of the layers in the module, in their order: (1, 1, 1) for q, k and v."""
    halves_swapped: bool = False
    """Whether the file has the rows as (shift, scale) where diffusers has (scale, shift)."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Names of parameters in diffusers to those in the file, where they differ."""

    def under(self, prefix: str) -> Place:
        """The same place in a module called `prefix`."""
        return replace(self, module=f"{prefix}.{self.module}")

    def rows(self, total: int) -> tuple[int, int]:
        """The first row, and the one after the last, of the layer in a module with `total` rows."""
        unit = total // sum(self.sizes)
        start = unit * sum(self.sizes[: self.index])
        return start, start + unit * self.sizes[self.index]
