"""The change of one layer, as a torch module. `base.py` has the settings that build it, which need no torch."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorasmith.adapters.base import Dropouts, LayerSpec
from lorasmith.moved_modules import carry_old_members, new_member_name


@dataclass(frozen=True)
class Product:
    """The change scale * up @ down of a weight: up (out, rank, ...), down (rank, in, ...), both float32 parameters.

    `factor`: a further factor, a scalar on the device that may be another one in each step; None: 1.
    """

    up: Tensor
    down: Tensor
    scale: float
    factor: Tensor | None = None


@dataclass(frozen=True)
class SteppedPart:
    """Parameters that some steps train and others do not. `active`: scalar on the device, 1 in the former, else 0."""

    active: Tensor
    parameters: list[nn.Parameter]


class Adapter(nn.Module):
    """The change of one layer. A subclass gives `delta` and, where that is cheaper, `branch`.

    Parameters are float32. At the start, every adapter leaves its layer as it is. At strength s a layer's weight is
    W + s (W' - W), for every kind, as all user interfaces compute it.
    """

    tensor_names: ClassVar[dict[str, str]] = {}
    """Attributes that are saved, and the tensor name of each in kohya-like files, for example
    `{"down": "lora_down.weight", "up": "lora_up.weight"}`."""
    additive: ClassVar[bool] = True
    """Whether the change does not depend on the weight that it is added to, so that `branch` can be used."""
    factors: ClassVar[tuple[str, ...]] = ()
    """Attributes whose product is the change (absent ones are None)."""
    norm_limit_passes: ClassVar[int] = 1
    """How often `limit_norm` must shrink until the norm is within its bound; more than 1 where the change is not a
    product of `factors`."""
    dropout: Dropouts
    max_norm: float | None = None
    """Bound of the Frobenius norm of the change, enforced by `limit_norm`."""
    up_lr: float = 1.0
    """Factor of the learning rate of `up_parameters` (LoRA+)."""
    frozen: tuple[str, ...] = ()
    """Attributes that are never trained."""
    follows_noise: ClassVar[bool] = False
    """Whether training tells it the noise of each pass (`begin_pass`)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        carry_old_members(cls, "adapters.base.Adapter")

    def __init__(self, layer: LayerSpec) -> None:
        super().__init__()
        self.layer = layer
        self.dropout = Dropouts()

    def __getattr__(self, name: str) -> Any:
        """Parameters and buffers, as of every module, and the old names of methods, until version 0.3."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            new_name = new_member_name("adapters.base.Adapter", name)
            if new_name is None:
                raise
            return getattr(self, new_name)

    # The change

    def delta(self, base: Tensor | None = None) -> Tensor:
        """The change at strength 1, of the weight's shape, scale included.

        `base`: the weight, for kinds whose change depends on it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no additive form")

    def bias_delta(self) -> Tensor | None:
        """The change of the layer's bias at strength 1, or None; `branch` includes it."""
        return None

    def weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        """The changed weight, in float32."""
        base = base.float()
        return base + strength * self.delta(base)

    def forward_weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        """The changed weight of this forward pass, in float32: in training with dropouts."""
        base = base.float()
        return base + strength * self.dropout_delta(self.delta(base))

    def branch(self, x: Tensor) -> Tensor:
        """What is added to the layer's output for `x` at strength 1, in the dtype of `x`.

        Kinds that can compute it without the whole `delta` override this.
        """
        weight = self.dropout_delta(self.delta()).to(x.dtype)
        bias = self.bias_delta()
        return run_layer(self.layer, x, weight, None if bias is None else bias.to(x.dtype))

    def product_form(self) -> tuple[Tensor, Tensor, float] | None:
        """up (out, rank, ...), down (rank, in, ...) and the scale, if the change in this pass is scale * up @ down.

        None where it is anything else, or where something is drawn between the factors. Fused kernels use this form.
        """
        return None

    def products(self) -> list[Product]:
        """The products whose sum is the change in this pass; [] if it is anything else."""
        product = self.product_form()
        return [] if product is None else [Product(*product)]

    def batch_key(self) -> Hashable | None:
        """What adapters must have in common, beside their class and the shapes of their weights and parameters, so that
        `deltas` computes the changes of all at once; None: it does not, in this pass."""
        return None

    def deltas(self, parameters: Mapping[str, Tensor], bases: Sequence[Tensor]) -> Tensor:
        """The changes of several linear layers like this one, (layers, out, in) in float32.

        `parameters`: those of all adapters, by name, with the layers as the first dimension; `bases`: the weights.
        """
        raise NotImplementedError(f"{type(self).__name__} computes one change at a time")

    def factors_of(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """up (layers, out, rank) and down (layers, rank, in) with `deltas` as their products; None: it has none."""
        return None

    def add_to(self, out: Tensor, x: Tensor, strength: float = 1.0) -> Tensor:
        """`out`, the layer's output for `x`, with the change added. Kinds that can add in one pass override this."""
        change = self.branch(x)
        return out + (change if strength == 1 else change * strength)

    def changes_output(self, positions: int) -> bool:
        """Whether `output_change` is cheaper in this pass than a changed weight, and can be used in it.

        `positions`: for how many tokens or pixels the layer computes its outputs.
        """
        return False

    def output_change(self, x: Tensor, out: Tensor, base: Tensor) -> Tensor:
        """What is added to the layer's output at strength 1, for kinds whose change depends on the weight.

        `x`: the layer's input; `out`: its output without bias; `base`: its weight.
        """
        raise NotImplementedError(f"{type(self).__name__} changes the weight, not the output")

    # Training

    def begin_step(self, draw: float) -> None:
        """Called before each training step, with a number in [0, 1) that is the same for all layers of the step."""

    def use_same_operations(self, shared: dict[Any, Any]) -> None:
        """Run the same operations in each step from now on, as a CUDA graph requires: what `begin_step` changes must be
        tensors that stay in their place. `shared`: what adapters of one set have in common, by keys of their own."""

    def stepped_parts(self) -> list[SteppedPart]:
        """After `use_same_operations`: the parameters that only some steps train. Their gradients are made zero in the
        other steps, and the optimizer passes over them."""
        return []

    def begin_pass(self, position: Tensor, shared: dict[Any, Tensor]) -> None:
        """Called before each pass of the denoiser, if `follows_noise`. `position`: (B,), how far each sample is on the
        path, from 0 (data) to 1 (noise). `shared`: what the adapters of one pass have computed, so that no two compute
        the same. Must not wait for the device."""

    def factor_pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Factors whose plain product is the change: up (out, rank, ...) and down (rank, in, ...) of each summand."""
        return []

    @property
    def graph_safe(self) -> bool:
        """Whether every step can run the same operations, which a CUDA graph requires; see `use_same_operations`."""
        return self.dropout.module == 0

    def up_parameters(self) -> list[nn.Parameter]:
        """The factors that `up_lr` applies to; LoRA's is `up`."""
        return []

    def dropout_hidden(self, h: Tensor) -> Tensor:
        """Dropout of the values between the factors, (..., rank) or (B, rank, H, W); in training only.

        Single neurons are dropped with p = `dropout.neuron`, whole ranks of a sample with p = `dropout.rank`; the rest
        is scaled up.
        """
        if not self.training:
            return h
        if self.dropout.neuron:
            h = F.dropout(h, self.dropout.neuron)
        if self.dropout.rank:
            # one factor per sample and rank, whatever lies between: channels come second in images, last in tokens
            is_image = h.dim() == 4
            shape = (h.shape[0], h.shape[1], 1, 1) if is_image else (h.shape[0], *[1] * (h.dim() - 2), h.shape[-1])
            h = h * F.dropout(h.new_ones(shape), self.dropout.rank)
        return h

    def dropout_delta(self, delta: Tensor) -> Tensor:
        """Dropout of the change itself, for kinds with nothing between factors; in training only.

        Single entries are dropped with p = `dropout.neuron`, whole rows (outputs) with p = `dropout.rank`; the rest is
        scaled up.
        """
        if not self.training:
            return delta
        if self.dropout.neuron:
            delta = F.dropout(delta, self.dropout.neuron)
        if self.dropout.rank:
            rows = delta.new_ones(delta.shape[0], *[1] * (delta.dim() - 1))
            delta = delta * F.dropout(rows, self.dropout.rank)
        return delta

    @property
    def drops_entries(self) -> bool:
        """Whether `dropout_delta` drops anything in this pass."""
        return self.training and (self.dropout.neuron > 0 or self.dropout.rank > 0)

    def skip(self) -> bool:
        """Whether this pass leaves the adapter out, drawn with p = `dropout.module`; in training only."""
        return self.training and self.dropout.module > 0 and float(torch.rand(())) < self.dropout.module

    @torch.no_grad()
    def limit_norm(self, base: Tensor) -> None:
        """Shrink the factors until the norm of the change is at most `max_norm`, without waiting for the device."""
        if self.max_norm is None:
            return
        for _ in range(self.norm_limit_passes):
            norm = self.delta(base.float()).norm().clamp(min=1e-12)
            self.shrink((self.max_norm / norm).clamp(max=1.0))

    def shrink(self, ratio: Tensor) -> None:
        """Multiply the change by `ratio`, evenly over its factors."""
        present = [getattr(self, name) for name in self.factors if getattr(self, name) is not None]
        for parameter in present:
            parameter.mul_(ratio ** (1 / len(present)))

    # Files

    @property
    def alpha(self) -> float | None:
        """The alpha that files store, or None; readers of files scale by alpha / rank."""
        return None

    @property
    def rank(self) -> int | None:
        """What alpha is divided by, if the kind has ranks."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a file holds for this layer, by tensor name; with `alpha` if the kind has one."""
        saved: dict[str, Tensor] = {}
        for attribute, tensor_name in self.tensor_names.items():
            tensor: Tensor | None = getattr(self, attribute)
            if tensor is not None:
                saved[tensor_name] = tensor.detach()
        if self.alpha is not None:
            saved["alpha"] = torch.tensor(float(self.alpha))
        return saved


def batch_key_of(adapter: Adapter) -> Hashable | None:
    """`batch_key`, if the adapter's class has `deltas` of its own; one that inherits it may compute another change."""
    return adapter.batch_key() if "deltas" in vars(type(adapter)) else None


def run_layer(layer: LayerSpec, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output of a linear layer or a convolution for `x`, with another weight and bias."""
    if layer.kind == "linear":
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
