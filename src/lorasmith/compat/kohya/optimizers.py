"""From the options of optimizer and schedule to our `optimizer` and `lr_schedule`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.compat.kohya.arguments import Arguments
from lorasmith.core.errors import Problem, did_you_mean
from lorasmith.core.registry import registered
from lorasmith.training.step.lr_schedules import LrSchedule
from lorasmith.training.step.optimizers import OptimizerConfig

CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
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
"""Names of the original, in small letters, that are no kind of ours: class and arguments."""
FREE = "schedulefree"
"""How names of optimizers end that need no schedule, and get none, as in the original."""
SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
    "cosine_with_min_lr": "cosine",
    "cosine_warmup_with_min_lr": "cosine",
    "inverse_sqrt": "inverse_sqrt",
    "warmup_stable_decay": "warmup_stable_decay",
    "piecewise_constant": "piecewise_constant",
    "adafactor": "constant",
}
ADAPTIVE = ("prodigy", "dadapt")


def convert_optimizer(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The table `optimizer`."""
    arguments = Arguments.read("optimizer_args", values["optimizer_args"], problems)
    asked = values["optimizer_type"] or "AdamW"
    if values["use_8bit_adam"]:
        asked = "AdamW8bit"
    elif values["use_lion_optimizer"]:
        asked = "Lion"
    found = {key: arguments.literal(key) for key in list(arguments.texts)}
    table = kind_of(asked, found, problems)
    table |= rates(values, notes)
    if asked.lower() == "adafactor" and found.get("relative_step", True):
        notes.append("AdaFactor with relative_step makes its own learning rates: none of the config's counts")
    rate = max(value for key, value in table.items() if key.endswith("lr"))
    if asked.lower().startswith(ADAPTIVE) and rate <= 0.1:
        notes.append(f"{asked} finds the learning rate by itself and wants learning_rate = 1.0, not {rate:g}")
    return table


def kind_of(asked: str, arguments: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The optimizer's kind and its arguments."""
    name = asked.lower()
    kinds = registered(OptimizerConfig)
    ours = next((kind for kind in (name, name.replace("_", "")) if kind in kinds and kind != "class"), None)
    if ours is not None:
        fields = kinds[ours].model_fields
        if "args" in fields:
            return {"kind": ours, "args": arguments} if arguments else {"kind": ours}
        unknown = [key for key in arguments if key not in fields]
        if not unknown:
            return {"kind": ours, **arguments}
        if ours == "adamw":
            return {"kind": "class", "name": "AdamW", "args": arguments}
        allowed = ", ".join(f for f in fields if f not in OptimizerConfig.model_fields and f != "kind")
        problems += [
            Problem(f"optimizer_args.{key}", f"{asked} has no such argument here", allowed, did_you_mean(key, fields))
            for key in unknown
        ]
        return {"kind": ours}
    if name in CLASSES:
        path, own = CLASSES[name]
        return {"kind": "class", "name": path, "args": own | arguments}
    return {"kind": "class", "name": asked, "args": arguments}


def rates(values: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Learning rates by part. learning_rate holds for both unless they have their own."""
    rate = values["learning_rate"]
    text = values["text_encoder_lr"]
    if text and len(set(text)) > 1:
        notes.append(
            f"text_encoder_lr: only the first, {text[0]:g}, is used, for all text encoders, as in the original"
        )
    unet_rate = rate if values["unet_lr"] is None else values["unet_lr"]
    text_rate = text[0] if text else rate
    return {
        "lr": rate,
        "unet_lr": 0.0 if values["network_train_text_encoder_only"] else unet_rate,
        "text_lr": 0.0 if values["network_train_unet_only"] else text_rate,
        "clip": values["max_grad_norm"],
    }


def convert_schedule(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The table `lr_schedule`."""
    asked = str(values["lr_scheduler"]).lower()
    arguments = Arguments.read("lr_scheduler_args", values["lr_scheduler_args"], problems)
    if str(values["optimizer_type"] or "").lower().endswith(FREE):
        if asked != "constant":
            notes.append(f"lr_scheduler is left out: {values['optimizer_type']} has no schedule, as in the original")
        return {"kind": "constant"}
    if values["lr_scheduler_type"]:
        found = {key: arguments.literal(key) for key in list(arguments.texts)}
        return {"kind": "class", "name": values["lr_scheduler_type"], "args": found}
    if asked == "piecewise_constant":
        return pieces(arguments, problems)
    kinds = registered(LrSchedule)
    kind = SCHEDULES.get(asked)
    if kind is None or kind not in kinds:
        allowed = ", ".join(name for name, ours in SCHEDULES.items() if ours in kinds)
        problems.append(Problem("lr_scheduler", f'"{asked}" is not supported', allowed, did_you_mean(asked, SCHEDULES)))
        return {}
    warmup = values["lr_warmup_steps"]
    if warmup and asked == "constant":
        notes.append("lr_warmup_steps: the original stops here; use constant_with_warmup to say that you mean it")
    table: dict[str, Any] = {"kind": kind, "warmup": warmup}
    cycles = values["lr_scheduler_num_cycles"]
    if asked == "cosine_with_restarts":
        table["cycles"] = max(1, int(cycles))
    if asked == "polynomial":
        table["power"] = values["lr_scheduler_power"]
    if "min_lr" in asked:
        table["end"] = values["lr_scheduler_min_lr_ratio"] or 0.0
        if cycles != 1:
            problems.append(Problem("lr_scheduler_num_cycles", f"{cycles:g} with {asked}", "1"))
    extra = {
        "decay": values["lr_decay_steps"],
        "timescale": values["lr_scheduler_timescale"],
        "end": values["lr_scheduler_min_lr_ratio"] if asked == "warmup_stable_decay" else None,
    }
    fields = kinds[kind].model_fields
    for key in list(arguments.texts):
        if key in fields:
            table[key] = arguments.literal(key)
        else:
            allowed = ", ".join(f for f in fields if f != "kind")
            problems.append(Problem(f"lr_scheduler_args.{key}", f"{asked} has no such argument here", allowed))
    for name, field in (("lr_decay_steps", "decay"), ("lr_scheduler_timescale", "timescale")):
        if values[name] and field not in fields:
            notes.append(f"{name} is left out: {asked} has none")
    return table | {key: value for key, value in extra.items() if value is not None and key in fields}


def pieces(arguments: Arguments, problems: list[Problem]) -> dict[str, Any]:
    """diffusers' `step_rules`, "1:10,0.1:20,0.01": the factor up to step 10, up to step 20, and from there on."""
    rules = arguments.text("step_rules")
    parts = [part.partition(":") for part in rules.split(",")]
    try:
        found = [[float(factor), int(end)] for factor, sign, end in parts if sign]
        last = [float(factor) for factor, sign, _ in parts if not sign]
    except ValueError:
        found, last = [], []
    if len(last) != 1 or not found:
        problems.append(Problem("lr_scheduler_args.step_rules", f'found "{rules}"', '"1:10,0.1:20,0.01"'))
        return {}
    return {"kind": "piecewise_constant", "pieces": found, "end": last[0]}
