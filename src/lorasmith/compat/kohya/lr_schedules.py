"""From the options of the learning rate schedule to our `lr_schedule`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.compat.kohya.arguments import KeyValueArguments
from lorasmith.core.errors import Problem, did_you_mean
from lorasmith.core.launch import find_launch
from lorasmith.core.registry import registered
from lorasmith.training.step.lr_schedules import LrSchedule

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
"""The original's names to our kinds."""
SCHEDULE_FREE = "schedulefree"
"""The ending of the names of optimizers that need no schedule, and get none, as in the original."""


def convert_schedule(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The table `lr_schedule`."""
    name = str(values["lr_scheduler"]).lower()
    optimizer = str(values["optimizer_type"] or "")
    arguments = KeyValueArguments.read("lr_scheduler_args", values["lr_scheduler_args"], problems)
    if optimizer.lower().endswith(SCHEDULE_FREE):
        if name != "constant":
            notes.append(f"lr_scheduler is ignored: {optimizer} does not use a schedule, as in the original")
        return {"kind": "constant"}
    if values["lr_scheduler_type"]:
        ranks = find_launch().count
        if ranks > 1:
            notes.append(f"lr_scheduler_type: it takes one step for each step; the original takes {ranks}")
        return {"kind": "class", "name": values["lr_scheduler_type"], "args": arguments.take_literals()}
    if name == "piecewise_constant":
        return convert_step_rules(arguments, problems)
    return convert_named_schedule(name, values, arguments, notes, problems)


def convert_named_schedule(
    name: str, values: Mapping[str, Any], arguments: KeyValueArguments, notes: list[str], problems: list[Problem]
) -> dict[str, Any]:
    """A schedule of `SCHEDULES` with its options and arguments."""
    kind = SCHEDULES.get(name)
    if kind is None:
        found = f'"{name}" is not supported'
        problems.append(Problem("lr_scheduler", found, ", ".join(SCHEDULES), did_you_mean(name, SCHEDULES)))
        return {}

    # The original stops here. Since the warmup was probably intended, it is applied.
    warmup = steps_of_schedule(values["lr_warmup_steps"])
    if warmup and name == "constant":
        notes.append("lr_warmup_steps: this is an error in the original; use constant_with_warmup if it is intended")
    table: dict[str, Any] = {"kind": kind, "warmup": warmup}
    table |= convert_shape(name, values, problems)
    fields = [field for field in registered(LrSchedule)[kind].model_fields if field != "kind"]
    table |= convert_arguments(name, arguments, fields, problems)

    # These options have a meaning for some schedules only; the original ignores them for the others.
    for option, field in (("lr_decay_steps", "decay"), ("lr_scheduler_timescale", "timescale")):
        value = steps_of_schedule(values[option])
        if field in fields and value is not None:
            table[field] = value
        elif value:
            notes.append(f"{option} is ignored: {name} does not use it")
    end = values["lr_scheduler_min_lr_ratio"]
    if name == "warmup_stable_decay" and end is not None:
        table["end"] = end
    return table


def steps_of_schedule(steps: int | float | None) -> int | float | None:
    """Steps of the original's schedule, which counts one for each process, as steps of the optimizer.

    Fractions of the run are the same for both.
    """
    ranks = find_launch().count
    if not isinstance(steps, int) or ranks == 1:
        return steps
    return round(steps / ranks)


def convert_shape(name: str, values: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """Cycles, power or final value, of schedules that have them."""
    cycles = values["lr_scheduler_num_cycles"]
    if name == "cosine_with_restarts":
        return {"cycles": max(1, int(cycles))}
    if name == "polynomial":
        return {"power": values["lr_scheduler_power"]}
    if "min_lr" in name:
        if cycles != 1:
            problems.append(Problem("lr_scheduler_num_cycles", f"{cycles:g} with {name}", "1"))
        return {"end": values["lr_scheduler_min_lr_ratio"] or 0.0}
    return {}


def convert_arguments(
    name: str, arguments: KeyValueArguments, fields: list[str], problems: list[Problem]
) -> dict[str, Any]:
    """The values of lr_scheduler_args, which set fields of our kind directly."""
    table: dict[str, Any] = {}
    for key, value in arguments.take_literals().items():
        if key in fields:
            table[key] = value
        else:
            found = f"{name} does not have this argument here"
            problems.append(Problem(f"lr_scheduler_args.{key}", found, ", ".join(fields)))
    return table


def convert_step_rules(arguments: KeyValueArguments, problems: list[Problem]) -> dict[str, Any]:
    """diffusers' `step_rules`: "1:10,0.1:20,0.01" is the factor up to step 10, up to step 20, and after that."""
    rules = arguments.take_text("step_rules")
    pieces: list[list[float]] = []
    last: list[float] = []
    try:
        for rule in rules.split(","):
            factor, colon, end = rule.partition(":")
            if colon:
                pieces.append([float(factor), steps_of_schedule(int(end)) or 0])
            else:
                last.append(float(factor))
    except ValueError:
        pieces = []
    if len(last) != 1 or not pieces:
        problems.append(Problem("lr_scheduler_args.step_rules", f'found "{rules}"', '"1:10,0.1:20,0.01"'))
        return {}
    return {"kind": "piecewise_constant", "pieces": pieces, "end": last[0]}
