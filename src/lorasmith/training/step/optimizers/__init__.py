"""Optimizers: AdamW, 8-bit AdamW, and any class of torch or of another package.

Adapter weights are float32 and small, so the fused AdamW is the default on every device. It also skips a step on the
device if a gradient is not finite.
"""

from __future__ import annotations

import importlib
import inspect
from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field

from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.registry import Component

if TYPE_CHECKING:
    from torch import nn

Groups = list[dict[str, Any]]
"""Parameter groups with `params`, `lr` and `name`."""
FactorPair: TypeAlias = "tuple[nn.Parameter, nn.Parameter]"
"""Factors whose product is the change of a weight: up (out, rank, ...) and down (rank, in, ...)."""
SINGLE_RATE_PACKAGES = ("prodigyopt.", "dadaptation.")
"""Their optimizers find the learning rate by themselves, one for all groups."""
SELF_TUNING = ("prodigy", "dadapt", "dadaptation", "adafactor")
"""Parts of the names of optimizers, of any package, that find the learning rate by themselves."""
EXTRAS = {
    "prodigyopt": '"lorasmith[optimizers]"',
    "dadaptation": '"lorasmith[optimizers]"',
    "lion_pytorch": '"lorasmith[optimizers]"',
    "schedulefree": '"lorasmith[optimizers]"',
    "bitsandbytes": '"lorasmith[8bit]"',
}
"""What to install for a package that cannot be imported."""


class OptimizerConfig(Component, root="optimizer", default="adamw"):
    """Learning rates and the optimizer that uses them."""

    lr: float = Field(default=1e-4, ge=0)
    """The learning rate of every component without a rate of its own."""
    unet_lr: float | None = Field(default=None, ge=0)
    """The learning rate of the UNet; 0: the UNet is not trained. Default: `lr`."""
    text_lr: float = Field(default=0.0, ge=0)
    """The learning rate of the text encoders; 0: they are not trained."""
    text_weight_decay: float | None = Field(default=None, ge=0)
    """The weight decay of the text encoders, for optimizers that have one. Default: that of the other components."""
    clip: float = Field(default=1.0, ge=0)
    """The largest total norm of the gradients; larger ones are scaled down to it. 0: no clipping."""

    def rate(self, component: str) -> float:
        """The learning rate of a component: the denoiser or a text encoder."""
        if is_text_encoder(component):
            return self.text_lr
        return self.lr if self.unet_lr is None else self.unet_lr

    @property
    def finds_rate(self) -> bool:
        """Whether the optimizer finds the learning rate by itself, so that `lr` is a factor of it."""
        return False

    @abstractmethod
    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """The optimizer over groups of `params`, `lr` and `name`."""

    def build_for(self, groups: Groups, pairs: Sequence[FactorPair]) -> torch.optim.Optimizer:
        """The optimizer, for kinds that use which parameters are the factors of one product."""
        return self.build(groups)


class AdamW(OptimizerConfig):
    """AdamW (arXiv 1711.05101), fused."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        from lorasmith.training.step.eager_adamw import EagerAdamW

        return EagerAdamW(groups, **self.settings(groups))

    def settings(self, groups: Groups) -> dict[str, Any]:
        """The keyword arguments of torch's class."""
        # Set-up makes the learning rates tensors if steps are to be captured as CUDA graphs.
        captured = any(isinstance(group["lr"], torch.Tensor) for group in groups)
        return {
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "fused": True,
            "capturable": captured,
        }


class AdamW8bit(OptimizerConfig):
    """AdamW with 8-bit states (arXiv 2110.02861), by bitsandbytes."""

    kind: Literal["adamw8bit"] = "adamw8bit"
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        try:
            bitsandbytes: Any = importlib.import_module("bitsandbytes.optim")
        except ImportError:
            raise LorasmithError(
                'optimizer "adamw8bit" needs bitsandbytes: pip install "lorasmith[8bit]", or use kind = "adamw"'
            ) from None
        return bitsandbytes.AdamW8bit(groups, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


class AnyOptimizer(OptimizerConfig):
    """A class of `torch.optim` by its name, or any other by its dotted path, with `args` as its keyword arguments."""

    kind: Literal["class"] = "class"
    name: str
    args: dict[str, Any] = Field(default_factory=dict)

    @property
    def finds_rate(self) -> bool:
        return any(name in self.name.lower() for name in SELF_TUNING)

    def imported_names(self) -> tuple[str, ...]:
        # torch is imported anyway
        outside = "." in self.name and not self.name.startswith("torch.")
        return (self.name,) if outside else ()

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        optimizer_class = self._import_class()
        self._check_rates(groups)

        # Each group has its rate, but some classes want a rate for all groups as well.
        options: dict[str, Any] = {}
        lr_parameter = inspect.signature(optimizer_class).parameters.get("lr")
        if lr_parameter is not None and lr_parameter.default is inspect.Parameter.empty:
            options["lr"] = groups[0]["lr"]
        options |= self.args

        try:
            optimizer: Any = optimizer_class(groups, **options)
        except (TypeError, ValueError) as error:
            raise LorasmithError(f"optimizer.args: {self.name} does not take {self.args}: {error}") from None
        if has_eval_weights(optimizer):
            optimizer.train()
        return optimizer

    def _check_rates(self, groups: Groups) -> None:
        """Raises LorasmithError if the groups have several rates and the optimizer takes one."""
        rates = {group["lr"] for group in groups} - {0}
        if self.name.startswith(SINGLE_RATE_PACKAGES) and len(rates) > 1:
            rates_text = ", ".join(f"{rate:g}" for rate in sorted(rates))
            raise LorasmithError(
                f"optimizer: {self.name} finds the learning rate by itself and takes one for all components, not "
                f"{rates_text}; set lr and text_lr (and the lr of concepts) to 1.0, or text_lr to 0"
            )

    def _import_class(self) -> type[torch.optim.Optimizer]:
        """Raises LorasmithError if there is no such class."""
        if "." not in self.name:
            optimizer_class: Any = getattr(torch.optim, self.name, None)
            if optimizer_class is None:
                names = [name for name in dir(torch.optim) if name[0].isupper()]
                raise LorasmithError(
                    f'optimizer.name: torch.optim has no "{self.name}". {did_you_mean(self.name, names)} '
                    f"Others by dotted path, for example pytorch_optimizer.Lion. torch.optim has: {', '.join(names)}"
                )
            return optimizer_class

        module, name = self.name.rsplit(".", 1)
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            package = module.split(".")[0]
            requirement = EXTRAS.get(package, package.replace("_", "-"))
            raise LorasmithError(
                f'optimizer.name: "{self.name}" cannot be imported ({error}). To install it: pip install {requirement}'
            ) from None


@contextmanager
def averaged_weights(optimizer: Any) -> Generator[None]:
    """Inside the block the weights of a schedule-free optimizer are its averages. Afterwards they are as before, bit
    for bit. No effect on other optimizers."""
    if not has_eval_weights(optimizer):
        yield
        return

    # The optimizer's own way back rounds, so the trained values are put aside and put back. It writes in place: each
    # weight gets a copy, which those who read it inside the block may keep.
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    trained = [p.data for p in weights]
    for p in weights:
        p.data = p.data.clone()
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        for p, value in zip(weights, trained, strict=True):
            p.data = value


def has_eval_weights(optimizer: Any) -> bool:
    """Whether it trains other weights than those to evaluate, as schedule-free optimizers do (arXiv 2405.15682)."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
