"""From ai-toolkit's optimizer and learning rate schedule to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.compat.kohya.optimizers import find_optimizer
from lorasmith.core.errors import Problem

EPSILON = 1e-6
"""The original gives this to all kinds of Adam."""
CLASSES = {
    "adam": "Adam",
    "adam8": "bitsandbytes.optim.Adam8bit",
    "adam8bit": "bitsandbytes.optim.Adam8bit",
    "ademamix8bit": "bitsandbytes.optim.AdEMAMix8bit",
    "adagrad": "Adagrad",
}
"""Names of the original that are not sd-scripts' to classes."""
NAMES = {
    "adamw": "AdamW",
    "adamw8": "AdamW8bit",
    "adamw8bit": "AdamW8bit",
    "lion": "Lion",
    "lion8bit": "Lion8bit",
    "adafactor": "AdaFactor",
    "prodigy": "Prodigy",
    "dadaptation": "DAdaptAdam",
    "dadaptationadam": "DAdaptLion",
    "dadaptationlion": "DAdaptLion",
}
"""Names of the original to those of sd-scripts; the original makes DAdaptLion of dadaptationadam, too."""
SELF_TUNING = ("dadapt", "prodigy")
WITHOUT_EPSILON = ("lion", "lion8bit", "adafactor", "adagrad")
ADAFACTOR = {"relative_step": False, "scale_parameter": False, "warmup_init": False}


def convert_optimizer(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The table `optimizer`."""
    name = str(values["train.optimizer"]).lower()
    arguments: dict[str, Any] = dict(values["train.optimizer_params"] or {})
    if name not in WITHOUT_EPSILON:
        arguments.setdefault("eps", EPSILON)
    if name == "adafactor":
        arguments = ADAFACTOR | arguments
    if name in CLASSES:
        table: dict[str, Any] = {"kind": "class", "name": CLASSES[name], "args": arguments}
    elif name in NAMES:
        table = find_optimizer(NAMES[name], arguments, problems)
    else:
        problems.append(Problem("train.optimizer", f'"{name}" is not supported', ", ".join((*NAMES, *CLASSES))))
        table = {"kind": "adamw"}

    rates = {"lr": values["train.lr"], "unet_lr": values["train.unet_lr"], "text_lr": values["train.text_encoder_lr"]}
    rates = {key: values["train.lr"] if rate is None else rate for key, rate in rates.items()}
    if name.startswith(SELF_TUNING) and rates["lr"] < 0.1:
        notes.append(f"train.lr: 1 is used, as in the original: {name} finds the rate itself")
        rates = dict.fromkeys(rates, 1.0)
    if not values["train.train_unet"]:
        rates["unet_lr"] = 0.0
    if not values["train.train_text_encoder"]:
        rates["text_lr"] = 0.0
    return table | rates | {"clip": values["train.max_grad_norm"]}


def convert_schedule(values: Mapping[str, Any], steps: int, problems: list[Problem]) -> dict[str, Any]:
    """The table `lr_schedule`: torch's classes of these names, over the whole run."""
    name = str(values["train.lr_scheduler"]).lower()
    arguments: dict[str, Any] = dict(values["train.lr_scheduler_params"] or {})
    total = arguments.pop("total_iters", steps)
    if name == "constant_with_warmup":
        return {"kind": "constant", "warmup": arguments.pop("num_warmup_steps", 1000)}
    if name == "constant":
        factor = arguments.get("factor", 1.0)
        return {"kind": "constant"} if factor == 1 else torch_class("ConstantLR", arguments | {"total_iters": total})
    classes = {
        "cosine": ("CosineAnnealingLR", {"T_max": total}),
        "cosine_with_restarts": ("CosineAnnealingWarmRestarts", {"T_0": total}),
        "linear": ("LinearLR", {"total_iters": total}),
        "step": ("StepLR", {}),
    }
    if name not in classes:
        allowed = ", ".join((*classes, "constant", "constant_with_warmup"))
        problems.append(Problem("train.lr_scheduler", f'"{name}" is not supported', allowed))
        return {"kind": "constant"}
    class_name, defaults = classes[name]
    return torch_class(class_name, defaults | arguments)


def torch_class(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A schedule of torch by its class."""
    return {"kind": "class", "name": name, "args": arguments}
