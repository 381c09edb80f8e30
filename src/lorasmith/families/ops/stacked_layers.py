"""Linear layers of one input, with their LoRA adapters, as one matrix product.

The weights of q, k and v stand in one matrix. Beside each weight stand the columns of `up`, so that the product with
[x, down x] gives the layer and its adapter at once, and the product with the output's gradient gives the gradients of
x and of down x at once. The weights are moved into that matrix, not copied: the layers' own weights become views of
it.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lorasmith.adapters.adapter import Product
from lorasmith.families.ops import kernels
from lorasmith.families.ops.linear_form import LinearForm, linear_form
from lorasmith.families.ops.weight_changes import ChangeBatch, ChangeEntry, batches_of

ALIGNMENT = 8
"""Columns are added in this multiple, for the tensor cores."""
BLOCK = 1024
Key = tuple[Any, ...]


def forms_of(layers: Sequence[nn.Module], x: Tensor) -> list[LinearForm] | None:
    """The linear forms of layers that `stack` can take together for the input `x`; None: call them one by one."""
    if not kernels.usable(x):
        return None
    forms: list[LinearForm] = []
    for layer in layers:
        form = linear_form(layer)
        if form is None or form.weight.dtype != x.dtype or form.weight.device != x.device:
            return None
        if form.change is not None and not _Pass.takes_changes():
            return None
        forms.append(form)
    return forms


def stack(forms: Sequence[LinearForm]) -> StackedLayers:
    """The layers as one; the same object in each step, as long as the same adapters are on them."""
    first = forms[0].layer
    stacks = _STACKS.setdefault(first, {})
    known = stacks.get(_key_of(forms))
    if known is None:
        known = StackedLayers(forms)
        if known.moved:
            # the others stand on weights that are not the layers' any more
            stacks.clear()
        stacks[_key_of([form.renewed() for form in forms])] = known
    return known


_STACKS: WeakKeyDictionary[nn.Module, dict[Key, StackedLayers]] = WeakKeyDictionary()
"""By the first layer: with its adapters and, while they are switched off, without."""


def _key_of(forms: Sequence[LinearForm]) -> Key:
    """What must stay for a `StackedLayers` to stay valid: where weights and factors are, and the scales."""
    key: list[Any] = []
    for form in forms:
        key += [form.weight.data_ptr(), form.weight.shape, 0 if form.bias is None else form.bias.data_ptr()]
        key.append(None if form.change is None else id(form.change))
        for product in form.products:
            key += [product.up.data_ptr(), product.down.data_ptr(), product.down.shape[0], product.scale]
            key.append(0 if product.factor is None else product.factor.data_ptr())
    return tuple(key)


class StackedLayers:
    """Layers with the same input. `outputs` and `ranks` of each; `room`: columns beside the weights.

    `extended`: (sum of outputs, in + room), weights and scaled up factors; `downs`: (room, in). Both are in the
    layers' dtype; `refresh` writes the adapters' factors, which are float32, into them. `rank_scales`: (room, 1), by
    what it has multiplied each column of up.
    """

    def __init__(self, forms: Sequence[LinearForm]) -> None:
        self.width = forms[0].weight.shape[1]
        self.outputs = [form.weight.shape[0] for form in forms]
        self.ranks = [form.rank for form in forms]
        self.products = [_without_graph(form.products) for form in forms]
        self.room = -(-sum(self.ranks) // ALIGNMENT) * ALIGNMENT
        self.bias = self._stacked_bias(forms)

        like = forms[0].weight.detach()
        adjacent = None if self.room else _adjacent([form.weight for form in forms])
        self.moved = adjacent is None
        if adjacent is not None:
            self.extended = adjacent
        else:
            self.extended = like.new_zeros(sum(self.outputs), self.width + self.room)
            self._move_weights(forms)
        self.downs = like.new_zeros(self.room, self.width)
        self.rank_scales = like.new_zeros(self.room, 1, dtype=torch.float32)
        self.factors = FactorTable(self._factor_entries(), like)
        self.changes: Tensor | None = None
        if any(form.change is not None for form in forms):
            self.changes = like.new_zeros(sum(self.outputs), self.width)
        self.change_entries = self._change_entries(forms)

    def _stacked_bias(self, forms: Sequence[LinearForm]) -> Tensor | None:
        biases = [form.bias for form in forms]
        given = [bias for bias in biases if bias is not None]
        if not given:
            return None
        if len(biases) == 1:
            return given[0].detach()
        whole = given[0].new_zeros(sum(self.outputs))
        for rows, bias in zip(self.rows(), biases, strict=True):
            if bias is not None:
                whole[rows] = bias.detach()
        return whole

    def _move_weights(self, forms: Sequence[LinearForm]) -> None:
        """Make the weights of the layers views of `extended`."""
        for rows, form in zip(self.rows(), forms, strict=True):
            layer: Any = form.layer
            place = self.extended[rows, : self.width]
            place.copy_(form.weight.detach())
            layer.weight.data = place.view(place.shape + layer.weight.shape[2:])

    def _factor_entries(self) -> list[FactorEntry]:
        entries: list[FactorEntry] = []
        for products, rows, ranks in zip(self.products, self.rows(), self.rank_columns(), strict=True):
            start = ranks.start
            for product in products:
                rank = product.down.shape[0]
                own = slice(start, start + rank)
                targets = (self.downs[own], self.extended[rows, self.width + start :], self.rank_scales[own])
                entries.append(FactorEntry(product, targets))
                start += rank
        return entries

    def _change_entries(self, forms: Sequence[LinearForm]) -> list[ChangeEntry | None]:
        entries: list[ChangeEntry | None] = []
        for form, rows in zip(forms, self.rows(), strict=True):
            if form.change is None or self.changes is None:
                entries.append(None)
            else:
                weight = self.extended[rows, : self.width]
                entries.append(ChangeEntry(form.change, weight, self.changes[rows]))
        return entries

    def compute_changes(self) -> list[Tensor | None]:
        """The change of each layer's weight, as a function of its adapter's parameters; None if there is none. Also
        written into `changes`."""
        current = _Pass.current
        if current is None or self.changes is None:
            return [None] * len(self.outputs)
        return [None if entry is None else current.change(entry) for entry in self.change_entries]

    @property
    def is_adapted(self) -> bool:
        """Whether one of the layers has an adapter."""
        return self.room > 0 or self.changes is not None

    @property
    def product_count(self) -> int:
        """The number of products of all layers."""
        return sum(len(products) for products in self.products)

    def rows(self) -> list[slice]:
        """The rows of each layer in `extended`."""
        return _slices(self.outputs)

    def rank_columns(self) -> list[slice]:
        """The columns of each layer among those beside the weights."""
        return _slices(self.ranks)

    def refresh(self) -> None:
        """Write the adapters' factors, which each training step changes, into `extended` and `downs`."""
        if _Pass.current is not None and self.is_adapted:
            _Pass.current.used.append(self)
            if self in _Pass.current.fresh:
                return
        if self.room:
            self.factors.write()


def _without_graph(products: Sequence[Product]) -> tuple[Product, ...]:
    """The same products without their autograd graph.

    The factors of a 1x1 convolution are views of its parameters. A view that is kept from step to step keeps the node
    that accumulates the gradient, and with it the stream of the first step, which ends the capture of a CUDA graph.
    """
    return tuple(replace(product, up=product.up.detach(), down=product.down.detach()) for product in products)


def _slices(sizes: Sequence[int]) -> list[slice]:
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(starts)]


def _adjacent(weights: Sequence[Tensor]) -> Tensor | None:
    """The matrix whose rows are those of `weights`, if they stand below each other in one storage.

    Storages of their own can be neighbours in memory by chance; no view reaches from one into the next.
    """
    first = weights[0]
    storage = first.untyped_storage().data_ptr()
    if first.stride(1) != 1:
        return None
    expected = first.data_ptr()
    for weight in weights:
        if weight.untyped_storage().data_ptr() != storage:
            return None
        if weight.data_ptr() != expected or weight.stride() != first.stride():
            return None
        expected += weight.shape[0] * first.stride(0) * first.element_size()
    rows = sum(weight.shape[0] for weight in weights)
    return first.detach().as_strided((rows, first.shape[1]), first.stride())


@dataclass(frozen=True)
class FactorEntry:
    """A product, and where its down, its scaled up and its scale go."""

    product: Product
    targets: tuple[Tensor, Tensor, Tensor]

    def numbers(self, one: Tensor) -> list[int]:
        """Addresses and sizes, as the kernel reads them. `one`: the factor of products that have none."""
        product, (_, up_target, _) = self.product, self.targets
        factor = one if product.factor is None else product.factor
        addresses = [tensor.data_ptr() for tensor in (product.down, product.up, factor, *self.targets)]
        return [*addresses, *product.down.shape, product.up.shape[0], up_target.stride(0)]


class FactorTable:
    """Where the factors of adapters are, and where they go; the addresses do not change, so CUDA graphs may hold it."""

    def __init__(self, entries: Sequence[FactorEntry], like: Tensor) -> None:
        self.entries = list(entries)
        # Only its dtype matters. `like` itself may be a weight, which this table would keep after it was moved.
        self._like = like.new_empty(1)
        self._one = torch.ones((), device=like.device)
        rows = [entry.numbers(self._one) for entry in entries]
        self._table = torch.tensor(rows, dtype=torch.int64, device=like.device)
        products = [entry.product for entry in entries]
        scales = [product.scale for product in products]
        self._scales = torch.tensor(scales, dtype=torch.float32, device=like.device)
        largest = max((factor.numel() for product in products for factor in (product.down, product.up)), default=0)
        self._grid = (len(rows), -(-largest // BLOCK))

    def write(self) -> None:
        """Cast all factors to their places, in one launch."""
        if self.entries:
            kernel = kernels.load("triton_factors").refresh
            kernel[self._grid](self._table, self._scales, self._like, BLOCK)


class _Pass:
    """One forward pass of a network: the stacks that it uses, and those whose factors were written at its start.

    `batches`: of the changes that the last pass used. All changes of a batch are computed when one of them is used.
    """

    current: _Pass | None = None

    def __init__(self, fresh: Sequence[StackedLayers], batches: Sequence[ChangeBatch], *, changes: bool) -> None:
        self.fresh = set(fresh)
        self.has_changes = changes
        self.used: list[StackedLayers] = []
        self._batches = {entry: batch for batch in batches for entry in batch.entries}
        self._changes: dict[ChangeEntry, Tensor] = {}

    @classmethod
    def takes_changes(cls) -> bool:
        """Whether layers may have changes of their weights as a whole now."""
        return cls.current is not None and cls.current.has_changes

    def change(self, entry: ChangeEntry) -> Tensor:
        """The change of an entry."""
        if entry not in self._changes:
            batch = self._batches.get(entry) or ChangeBatch([entry])
            self._changes.update(zip(batch.entries, batch.compute(), strict=True))
        return self._changes[entry]


@dataclass(frozen=True)
class _LastPass:
    """The stacks of the last pass of a network, the table of all their factors, and the batches of their changes."""

    stacks: list[StackedLayers]
    table: FactorTable | None
    batches: list[ChangeBatch]

    @classmethod
    def of(cls, used: list[StackedLayers]) -> _LastPass:
        """A pass with these stacks, of which there is at least one."""
        factors = [entry for stacked in used for entry in stacked.factors.entries]
        changes = [entry for stacked in used for entry in stacked.change_entries if entry is not None]
        table = FactorTable(factors, used[0].extended) if factors else None
        return cls(used, table, batches_of(changes))


_LAST_PASSES: WeakKeyDictionary[nn.Module, _LastPass] = WeakKeyDictionary()


@contextmanager
def one_refresh(network: nn.Module, x: Tensor, *, changes: bool = True) -> Generator[None, None, None]:
    """During a forward pass of a network: write the factors of all layers of its last pass in one launch, and compute
    changes of weights in batches.

    Layers that the last pass did not have do it one by one. `changes`: whether there is memory for the changes of all
    layers, which are as large as their weights; without it, such layers run one by one.
    """
    if not kernels.usable(x) or _Pass.current is not None:
        yield
        return
    if not changes:
        _forget_changes(network)
    last = _LAST_PASSES.get(network, _LastPass([], None, []))
    if last.table is not None:
        last.table.write()
    _Pass.current = _Pass(last.stacks, last.batches, changes=changes)
    try:
        yield
        used = _Pass.current.used
    finally:
        _Pass.current = None
    # a pass of the base, without adapters, writes nothing and leaves the table to the next pass with them: a table that
    # is made anew waits for the device, which no CUDA graph may
    if used and used != last.stacks:
        _LAST_PASSES[network] = _LastPass.of(used)


def _forget_changes(network: nn.Module) -> None:
    """Free the changes of all layers of the last pass, if there are any."""
    last = _LAST_PASSES.get(network)
    if last is None or not last.batches:
        return
    del _LAST_PASSES[network]
    for stacks in _STACKS.values():
        for key in [key for key, stacked in stacks.items() if stacked.changes is not None and stacked in last.stacks]:
            del stacks[key]
