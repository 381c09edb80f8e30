"""From the options of the optimizer to our `optimizer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.compat.kohya.arguments import KeyValueArguments
from lorasmith.core.errors import Problem, did_you_mean
from lorasmith.core.registry import registered
from lorasmith.training.step.optimizers import OptimizerConfig

OPTIMIZER_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "lion": ("lion_pytorch.Lion", {}),
    "lion8bit": ("bitsandbytes.optim.Lion8bit", {}),
    "pagedlion8bit": ("bitsandbytes.optim.PagedLion8bit", {}),
    "pagedadamw": ("bitsandbytes.optim.PagedAdamW", {}),
    "pagedadamw8bit": ("bitsandbytes.optim.PagedAdamW8bit", {}),
    "pagedadamw32bit": ("bitsandbytes.optim.PagedAdamW32bit", {}),
    "sgdnesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "sgdnesterov8bit": ("bitsandbytes.optim.SGD8bit", {"momentum": 0.9, "nesterov": True}),
    "dadaptation": ("dadaptation.experimental.DAdaptAdamPreprint", {}),
    "dadaptadampreprint": ("dadaptation.experimental.DAdaptAdamPreprint", {}),
    "dadaptadagrad": ("dadaptation.DAdaptAdaGrad", {}),
    "dadaptadam": ("dadaptation.DAdaptAdam", {}),
    "dadaptadan": ("dadaptation.DAdaptAdan", {}),
    "dadaptadanip": ("dadaptation.experimental.DAdaptAdanIP", {}),
    "dadaptlion": ("dadaptation.DAdaptLion", {}),
    "dadaptsgd": ("dadaptation.DAdaptSGD", {}),
    "prodigy": ("prodigyopt.Prodigy", {}),
    "adafactor": ("transformers.optimization.Adafactor", {}),
    "radamschedulefree": ("schedulefree.RAdamScheduleFree", {}),
    "adamwschedulefree": ("schedulefree.AdamWScheduleFree", {}),
    "sgdschedulefree": ("schedulefree.SGDScheduleFree", {}),
}
"""The original's names (in lower case) of optimizers that are not kinds of ours: class and default arguments."""
SELF_TUNING = ("prodigy", "dadapt")
"""Beginnings of the names of optimizers that find their learning rate themselves."""


def convert_optimizer(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The table `optimizer`."""
    # Two old flags choose the optimizer, too; as in the original they count before optimizer_type.
    name = values["optimizer_type"] or "AdamW"
    if values["use_8bit_adam"]:
        name = "AdamW8bit"
    elif values["use_lion_optimizer"]:
        name = "Lion"
    arguments = KeyValueArguments.read("optimizer_args", values["optimizer_args"], problems).take_literals()
    table = find_optimizer(name, arguments, problems)
    table |= convert_learning_rates(values, notes)

    # Optimizers that set their own learning rate need a hint, because configs often have ordinary rates.
    if name.lower() == "adafactor" and arguments.get("relative_step", True):
        notes.append("AdaFactor with relative_step computes its learning rate itself: those of the config are not used")
    highest_rate = max(table["lr"], table["unet_lr"], table["text_lr"])
    if name.lower().startswith(SELF_TUNING) and highest_rate <= 0.1:
        notes.append(f"{name} finds the learning rate itself and expects learning_rate = 1.0, not {highest_rate:g}")
    return table


def find_optimizer(name: str, arguments: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The kind of the optimizer that the original calls `name`, with its arguments.

    In this order: a kind of ours, a class that the original has a name for, a class by its path.
    """
    lower_name = name.lower()
    kinds = registered(OptimizerConfig)
    # adamw_8bit is accepted for adamw8bit.
    for kind in (lower_name, lower_name.replace("_", "")):
        if kind in kinds and kind != "class":
            return convert_arguments(kind, name, arguments, problems)
    if lower_name in OPTIMIZER_CLASSES:
        path, defaults = OPTIMIZER_CLASSES[lower_name]
        return {"kind": "class", "name": path, "args": defaults | arguments}
    return {"kind": "class", "name": name, "args": arguments}


def convert_arguments(kind: str, name: str, arguments: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The arguments of the original's optimizer `name` as settings of our kind."""
    fields = registered(OptimizerConfig)[kind].model_fields
    if "args" in fields:
        return {"kind": kind, "args": arguments} if arguments else {"kind": kind}
    unknown = [key for key in arguments if key not in fields]
    if not unknown:
        return {"kind": kind, **arguments}

    # Our AdamW has the usual arguments only; torch's class accepts the others, too.
    if kind == "adamw":
        return {"kind": "class", "name": "AdamW", "args": arguments}
    allowed = ", ".join(field for field in fields if field not in OptimizerConfig.model_fields and field != "kind")
    for key in unknown:
        found = f"{name} does not have this argument here"
        problems.append(Problem(f"optimizer_args.{key}", found, allowed, did_you_mean(key, fields)))
    return {"kind": kind}


def convert_learning_rates(values: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Learning rates by component, and gradient clipping. learning_rate holds for components without their own."""
    learning_rate = values["learning_rate"]
    unet_rate = values["unet_lr"]
    text_rates = values["text_encoder_lr"]
    if text_rates and len(set(text_rates)) > 1:
        notes.append(
            f"text_encoder_lr: only the first, {text_rates[0]:g}, is used, for all text encoders, as in the original"
        )
    table = {
        "lr": learning_rate,
        "unet_lr": learning_rate if unet_rate is None else unet_rate,
        "text_lr": text_rates[0] if text_rates else learning_rate,
        "clip": values["max_grad_norm"],
    }

    # A learning rate of 0 means that the component is not trained.
    if values["network_train_text_encoder_only"]:
        table["unet_lr"] = 0.0
    if values["network_train_unet_only"]:
        table["text_lr"] = 0.0
    return table
