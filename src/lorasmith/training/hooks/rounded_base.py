"""The model as a program has it that stores the denoiser in few bits and adds the LoRA into the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lorasmith.adapters.rounding import STORED, rounded
from lorasmith.core.errors import LorasmithError
from lorasmith.families.eight_bit import KINDS

if TYPE_CHECKING:
    from lorasmith.training.run import Run


def check_rounding(run: Run, kind: str) -> None:
    """Raises LorasmithError if the numbers of `kind` cannot be held in this run's weights."""
    computed = run.family.dtype
    if kind == "fp16" and computed == torch.bfloat16:
        raise LorasmithError(
            'preview.rounded is "fp16", but this run computes in bf16, which has fewer digits than fp16; '
            'set precision = "fp32" or "fp16", or preview.rounded = "fp8"'
        )
    eight_bit = tuple(KINDS.values())
    if any(isinstance(module, eight_bit) for module in run.family.denoiser.modules()):
        raise LorasmithError(
            "preview.rounded needs the weights of the base, and memory level 4 holds them in 8 bits; "
            "leave preview.rounded out, or set memory to 3 or lower"
        )


@contextmanager
def on_rounded_base(run: Run, kind: str, strength: Mapping[str, float]) -> Iterator[None]:
    """Inside the block the denoiser's weights are rounded, with its adapters added into them and rounded again.

    `strength`: of each component. Changes of norms and biases are left out. Text encoders keep their adapters beside
    exact weights. Needs a second copy of the denoiser's matrices while it lasts.
    """
    stored = STORED[kind]
    component = run.family.denoiser_component
    weights = _matrices(run)
    saved = [weight.detach().clone() for weight in weights]
    beside = {name: 0.0 if name == component else value for name, value in strength.items()}
    try:
        with torch.no_grad():
            # norms and biases stay in more bits in these programs
            for weight in weights:
                weight.copy_(rounded(weight, stored))
            _add_adapters(run, component, strength.get(component, 0.0), stored)
        with run.adapters.at(beside):
            yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, saved, strict=True):
                weight.copy_(value)


def _matrices(run: Run) -> list[torch.nn.Parameter]:
    """The denoiser's own matrices and kernels, without those of adapters."""
    trained = {id(parameter) for adapter in run.adapters.adapters.values() for parameter in adapter.parameters()}
    parameters = [parameter for parameter in run.family.denoiser.parameters() if parameter.ndim > 1]
    return [parameter for parameter in parameters if id(parameter) not in trained]


def _add_adapters(run: Run, component: str, strength: float, stored: torch.dtype) -> None:
    for name, adapter in run.adapters.adapters.items():
        if adapter.layer.component == component and adapter.layer.kind != "norm":
            changed = adapter.weight(run.adapters.weight_beside(name), strength)
            run.adapters.weight_of(name).copy_(rounded(changed, stored))
