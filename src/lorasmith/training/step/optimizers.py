"""Optimizers: ours by name, any of torch's, or any class by its dotted path.

Adapter weights are float32 and small, so the fused AdamW is the default everywhere; it also skips a step on the device
when a gradient is not finite.
"""

from __future__ import annotations

import importlib
import inspect
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.registry import Component

Groups = list[dict[str, Any]]
ONE_RATE = ("prodigyopt.", "dadaptation.")
PACKAGES = dict.fromkeys(("prodigyopt", "dadaptation", "lion_pytorch", "schedulefree"), '"lorasmith[optimizers]"') | {
    "bitsandbytes": '"lorasmith[8bit]"'
}


class OptimizerConfig(Component, root="optimizer", default="adamw"):
    """Learning rates and the optimizer that uses them."""

    lr: float = Field(default=1e-4, ge=0)
    """For every part that has none of its own."""
    unet_lr: float | None = Field(default=None, ge=0)
    """The UNet's; 0 leaves the UNet as it is. Default: `lr`."""
    text_lr: float = Field(default=0.0, ge=0)
    """The text encoders'; 0 leaves them as they are."""
    clip: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this total norm; 0 is off."""

    def rate(self, component: str) -> float:
        """The learning rate of `unet` or of a text encoder."""
        if component == "unet":
            return self.lr if self.unet_lr is None else self.unet_lr
        return self.text_lr

    @abstractmethod
    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """The optimizer over groups of `params`, `lr` and `name`."""


class AdamW(OptimizerConfig):
    """AdamW (arXiv 1711.05101), fused."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        graphed = any(isinstance(group["lr"], torch.Tensor) for group in groups)
        options = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return torch.optim.AdamW(groups, fused=True, capturable=graphed, **options)


class AdamW8bit(OptimizerConfig):
    """AdamW with 8-bit states (arXiv 2110.02861), by bitsandbytes."""

    kind: Literal["adamw8bit"] = "adamw8bit"
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        try:
            from bitsandbytes.optim import AdamW8bit as Optimizer
        except ImportError:
            raise LorasmithError(
                'optimizer "adamw8bit" needs bitsandbytes: pip install "lorasmith[8bit]", or use kind = "adamw"'
            ) from None
        return Optimizer(groups, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


class AnyOptimizer(OptimizerConfig):
    """A class of `torch.optim` by its name, or any other by its dotted path, with `args` as its keyword arguments."""

    kind: Literal["class"] = "class"
    name: str
    args: dict[str, Any] = Field(default_factory=dict)

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        optimizer, rates = self._find(), {group["lr"] for group in groups} - {0}
        if self.name.startswith(ONE_RATE) and len(rates) > 1:
            said = ", ".join(f"{rate:g}" for rate in sorted(rates))
            raise LorasmithError(
                f"optimizer: {self.name} finds the learning rate by itself and takes one for all parts, not {said}; "
                "set lr and text_lr (and the lr of concepts) to 1.0, or text_lr to 0"
            )
        asks = inspect.signature(optimizer).parameters.get("lr")
        own = {"lr": groups[0]["lr"]} if asks is not None and asks.default is inspect.Parameter.empty else {}
        try:
            built: Any = optimizer(groups, **(own | self.args))
        except (TypeError, ValueError) as error:
            raise LorasmithError(f"optimizer.args: {self.name} does not take {self.args}: {error}") from None
        if switches(built):
            built.train()
        return built

    def _find(self) -> type[torch.optim.Optimizer]:
        if "." not in self.name:
            found = getattr(torch.optim, self.name, None)
            if found is None:
                names = [n for n in dir(torch.optim) if n[0].isupper()]
                raise LorasmithError(
                    f'optimizer.name: torch.optim has no "{self.name}". {did_you_mean(self.name, names)} '
                    f"Others by dotted path, for example pytorch_optimizer.Lion. torch.optim has: {', '.join(names)}"
                )
            return found
        module, name = self.name.rsplit(".", 1)
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            package = PACKAGES.get(module.split(".")[0], module.split(".")[0].replace("_", "-"))
            raise LorasmithError(
                f'optimizer.name: "{self.name}" cannot be imported ({error}). To install it: pip install {package}'
            ) from None


def switches(optimizer: Any) -> bool:
    """Whether it trains other weights than those to look at, as schedule-free ones do (arXiv 2405.15682)."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


@contextmanager
def averaged_weights(optimizer: Any) -> Iterator[None]:
    """With the weights to look at in place of those that are trained; afterwards these are as they were, to the bit."""
    if not switches(optimizer):
        yield
        return
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [p.data for p in weights]
    for p in weights:  # what is read meanwhile stays as it was read, so it must not be written over afterwards
        p.data = p.data.clone()
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        for p, before in zip(weights, kept, strict=True):
            p.data = before


def step_if_finite(optimizer: torch.optim.Optimizer, finite: torch.Tensor) -> None:
    """One optimizer step, left out where `finite` (scalar bool tensor) is false.

    Fused optimizers of torch take the decision on the device (the hook that torch's own GradScaler uses); for others it
    is read back, which waits for the device.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False) and optimizer.defaults.get("fused"):
        optimizer.grad_scale, optimizer.found_inf = None, 1.0 - finite.float()  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    elif bool(finite):
        optimizer.step()
