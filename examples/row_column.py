"""An adapter with one factor for each row and one for each column of a weight: W' = diag(1 + rows) W diag(1 + columns).

The change depends on the weight, so the adapter sets `additive = False`, and Lorasmith computes with the changed weight
in place of a branch beside the layer.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, AdapterConfig, FileTensors, LayerSpec


class RowColumnAdapter(Adapter):
    """`rows` (out,) and `columns` (in,); both are 0 at the start, which leaves the weight as it is."""

    additive = False
    tensor_names: ClassVar[dict[str, str]] = {"rows": "row_factors", "columns": "column_factors"}

    def __init__(self, layer: LayerSpec, rows: Tensor, columns: Tensor) -> None:
        super().__init__(layer)
        self.rows = nn.Parameter(rows.float().clone())
        self.columns = nn.Parameter(columns.float().clone())

    def delta(self, base: Tensor | None = None) -> Tensor:
        """The change of the weight, of its shape, (out, in) or (out, in, kh, kw)."""
        assert base is not None, "the change depends on the weight"
        ones = [1] * len(self.layer.kernel)
        factors = (1 + self.rows).view(-1, 1, *ones) * (1 + self.columns).view(1, -1, *ones)
        return base.float() * (factors - 1)

    def shrink(self, ratio: Tensor) -> None:
        """Make the change smaller; used by `adapter.max_norm`."""
        self.rows.mul_(ratio)
        self.columns.mul_(ratio)


class RowColumn(AdapterConfig):
    """Factors of rows and columns: out + in numbers for a layer."""

    # by these tensor names, files of this kind are recognised
    signatures = ("row_factors", "column_factors")
    reads = frozenset({"row_factors", "column_factors"})
    kind: Literal["row_column"] = "row_column"

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> RowColumnAdapter | None:
        """A fresh adapter, or None for a layer that cannot have one."""
        if not layer.takes_factors:
            return None
        return RowColumnAdapter(layer, torch.zeros(layer.shape[0]), torch.zeros(layer.shape[1]))

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        """Whether a file's tensors can belong to this layer."""
        rows, columns = tensors.get("row_factors"), tensors.get("column_factors")
        if rows is None or columns is None or len(layer.shape) < 2:
            return False
        return (rows.numel(), columns.numel()) == layer.shape[:2]

    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> RowColumnAdapter:
        """The adapter of a file."""
        return RowColumnAdapter(layer, tensors["row_factors"].flatten(), tensors["column_factors"].flatten())
