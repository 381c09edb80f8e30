"""Products with frozen weights and LoRA adapters for CUDA, in as few and as large launches as possible.

y = x W^T + b + scale (x down^T) up^T. Nothing is stored for the backward pass but what it cannot compute again
cheaply. Gradients of the factors leave the products in float32, as the factors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lorasmith.families.ops import layer_norm
from lorasmith.families.ops.stacked_layers import LinearForm, StackedLayers


def project(stack: StackedLayers, forms: Sequence[LinearForm], x: Tensor) -> tuple[Tensor, ...]:
    """The outputs of layers with the input x, (..., in)."""
    return _Project.apply(x, stack, *_trained(stack, forms))  # type: ignore[return-value]


def add_norm_project(
    norm: Any, stack: StackedLayers, forms: Sequence[LinearForm], x: Tensor, branch: Tensor | None
) -> tuple[Tensor, ...]:
    """x + branch, and the outputs of layers with its LayerNorm as input."""
    return _AddNormProject.apply(x, branch, norm, stack, *_trained(stack, forms))  # type: ignore[return-value]


def _trained(stack: StackedLayers, forms: Sequence[LinearForm]) -> tuple[Tensor | None, ...]:
    """What the outputs depend on beside the input: the changes of the layers' weights (None where there is none), and
    up and down of each product of each layer. Both are also in `stack`, where the kernels read them."""
    stack.refresh()
    products = [product for form in forms for product in form.products]
    return (*stack.compute_changes(), *(factor for product in products for factor in (product.up, product.down)))


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stack: StackedLayers, *trained: Tensor | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        flat = x.reshape(-1, stack.width)
        weight = stack.extended[:, : stack.width]
        out = _linear(flat, weight, stack.bias)
        hidden = None
        if stack.room:
            hidden = torch.mm(flat, stack.downs.T)
            out.addmm_(hidden, stack.extended[:, stack.width :].T)
        if stack.changes is not None:
            out.addmm_(flat, stack.changes.T)
        ctx.stack, ctx.shape = stack, x.shape
        ctx.save_for_backward(flat if stack.is_adapted else None, hidden)
        return tuple(part.view(*x.shape[:-1], -1) for part in out.split(stack.outputs, 1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        stack: StackedLayers = ctx.stack
        flat, hidden = ctx.saved_tensors
        flat_grads = _flat_grads(grads)
        if all(grad is None for grad in flat_grads):
            return (None, None, *_no_gradients(stack))

        # The gradients of x and of down x. That of x is contiguous, as attention's backward pass wants it.
        dx = hidden_grad = None
        if ctx.needs_input_grad[0]:
            dx = _times_weights(flat_grads, stack.extended[:, : stack.width], stack)
            if stack.changes is not None:
                dx = _times_weights(flat_grads, stack.changes, stack, dx)
        if stack.room:
            hidden_grad = _times_weights(flat_grads, stack.extended[:, stack.width :], stack)
        if dx is not None and hidden_grad is not None:
            dx.addmm_(hidden_grad, stack.downs)
        trained_grads = _trained_grads(stack, flat_grads, flat, hidden, hidden_grad)
        return (None if dx is None else dx.view(ctx.shape), None, *trained_grads)


class _AddNormProject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, norm: Any, stack: StackedLayers, *factors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        x = x.contiguous()
        extended_input = _empty_input(x, stack)
        total, stats = layer_norm.launch_forward(x, branch, norm.weight, norm.bias, norm.eps, extended_input)
        if stack.room:
            _write_hidden(extended_input, stack)
        out = _linear(extended_input, stack.extended, stack.bias)
        if stack.changes is not None:
            out.addmm_(extended_input[:, : stack.width], stack.changes.T)
        ctx.stack, ctx.norm, ctx.has_branch = stack, norm, branch is not None
        ctx.save_for_backward(total, stats)
        parts = tuple(part.view(*x.shape[:-1], -1) for part in out.split(stack.outputs, 1))
        return (total.view_as(total), *parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, residual: Tensor | None, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        stack: StackedLayers = ctx.stack
        total, stats = ctx.saved_tensors
        flat_grads = _flat_grads(grads)
        trained_grads = _no_gradients(stack)
        if all(grad is None for grad in flat_grads):
            return (residual, residual if ctx.has_branch else None, None, None, *trained_grads)

        # The gradients of the norm's output and of down x stand side by side, as their inputs did.
        extended_grad = _times_weights(flat_grads, stack.extended, stack)
        input_grad = extended_grad[:, : stack.width]
        if stack.changes is not None:
            _times_weights(flat_grads, stack.changes, stack, input_grad)
        if stack.is_adapted:
            # The norm's output is computed again: that is one pass, and it need not be stored.
            extended_input = _empty_input(total, stack)
            layer_norm.launch_forward(total, None, ctx.norm.weight, ctx.norm.bias, ctx.norm.eps, extended_input)
            flat, hidden, hidden_grad = extended_input[:, : stack.width], None, None
            if stack.room:
                _write_hidden(extended_input, stack)
                hidden, hidden_grad = extended_input[:, stack.width :], extended_grad[:, stack.width :]
                input_grad.addmm_(hidden_grad, stack.downs)
            trained_grads = _trained_grads(stack, flat_grads, flat, hidden, hidden_grad)
        dx = layer_norm.launch_backward(extended_grad, total, ctx.norm.weight, stats, residual)
        return (dx, dx if ctx.has_branch else None, None, None, *trained_grads)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight.T) if bias is None else torch.addmm(bias, x, weight.T)


def _empty_input(x: Tensor, stack: StackedLayers) -> Tensor:
    """Rows of the norm's output, with room for down x beside it."""
    return x.new_empty(x.numel() // stack.width, stack.width + stack.room)


def _write_hidden(extended_input: Tensor, stack: StackedLayers) -> None:
    torch.mm(extended_input[:, : stack.width], stack.downs.T, out=extended_input[:, stack.width :])


def _flat_grads(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if grad is None else grad.reshape(-1, grad.shape[-1]) for grad in grads]


def _times_weights(
    grads: Sequence[Tensor | None], weights: Tensor, stack: StackedLayers, total: Tensor | None = None
) -> Tensor:
    """The sum of the products of the layers' gradients, of which one is not None, with their rows of `weights`.

    `total`: where it is added to what is there.
    """
    for grad, rows in zip(grads, stack.rows(), strict=True):
        if grad is not None:
            total = _add_product(total, grad, weights[rows])
    assert total is not None
    return total


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b) if total is None else total.addmm_(a, b)


def _factor_grads(
    stack: StackedLayers,
    grads: Sequence[Tensor | None],
    x: Tensor,
    hidden: Tensor | None,
    hidden_grad: Tensor | None,
) -> list[Tensor | None]:
    """The gradients of up (out, rank) and down (rank, in) of each product of each layer, in float32.

    `x`: (rows, in), the layers' input; `hidden`: (rows, room), down x; `hidden_grad`: its gradient. Both are None
    without products.
    """
    if hidden is None or hidden_grad is None:
        return [None, None] * stack.product_count
    down_grads = _product_in_float32(hidden_grad.T, x)
    result: list[Tensor | None] = []
    for grad, ranks, products in zip(grads, stack.rank_columns(), stack.products, strict=True):
        if grad is None:
            result += [None, None] * len(products)
        elif len(products) == 1:
            up_grad, scale = _product_in_float32(grad.T, hidden[:, ranks]), products[0].scale
            if products[0].factor is not None:
                scale = scale * products[0].factor
            is_one = isinstance(scale, float) and scale == 1
            result += [up_grad if is_one else up_grad.mul_(scale), down_grads[ranks]]
        elif products:
            # ranks in rows, so that those of one product are one piece of memory
            up_grads = _product_in_float32(hidden[:, ranks].T, grad).mul_(stack.rank_scales[ranks])
            counts = [product.down.shape[0] for product in products]
            for rows, down_grad in zip(up_grads.split(counts), down_grads[ranks].split(counts), strict=True):
                result += [rows.T, down_grad]
    return result


def _trained_grads(
    stack: StackedLayers,
    grads: Sequence[Tensor | None],
    x: Tensor | None,
    hidden: Tensor | None,
    hidden_grad: Tensor | None,
) -> list[Tensor | None]:
    """The gradients of all that `_trained` returns. `x` is None if no layer has an adapter."""
    if x is None:
        return _no_gradients(stack)
    return [*_change_grads(stack, grads, x), *_factor_grads(stack, grads, x, hidden, hidden_grad)]


def _change_grads(stack: StackedLayers, grads: Sequence[Tensor | None], x: Tensor) -> list[Tensor | None]:
    """The gradient of each layer's change of its weight, (out, in), in float32 or bf16. `x`: (rows, in)."""
    # fp16 would overflow in a sum over all rows
    multiply = _product_in_float32 if x.dtype == torch.float16 else torch.mm
    pairs = zip(grads, stack.change_entries, strict=True)
    return [None if grad is None or entry is None else multiply(grad.T, x) for grad, entry in pairs]


def _no_gradients(stack: StackedLayers) -> list[Tensor | None]:
    """None for all that `_trained` returns."""
    return [None] * (len(stack.outputs) + 2 * stack.product_count)


def _product_in_float32(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype == torch.float32 or not a.is_cuda:
        return torch.mm(a, b).float()
    return torch.mm(a, b, out_dtype=torch.float32)
