"""From `network_module` and `network_args` to our `adapter`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from lorasmith.adapters import AdapterConfig
from lorasmith.compat.kohya.arguments import KeyValueArguments
from lorasmith.compat.kohya.blocks import Blocks
from lorasmith.compat.kohya.lora_modules import (
    convert_dylora,
    convert_loha,
    convert_lokr,
    convert_lora,
    convert_lora_fa,
    convert_oft,
)
from lorasmith.compat.kohya.lycoris import convert_lycoris
from lorasmith.core.errors import Problem, did_you_mean
from lorasmith.core.registry import registered

Model = TypeVar("Model")
"""What a network module knows of the base: `Blocks` of a UNet, or the layers of a transformer."""
Converter: TypeAlias = Callable[[Mapping[str, Any], KeyValueArguments, Model, list[str]], dict[str, Any]]
"""Converts options, arguments and the model of a network module to a table, and adds notes."""

MODULES: Mapping[str, Converter[Blocks]] = {
    "networks.lora": convert_lora,
    "networks.lora_fa": convert_lora_fa,
    "networks.dylora": convert_dylora,
    "networks.oft": convert_oft,
    "networks.loha": convert_loha,
    "networks.lokr": convert_lokr,
    "lycoris.kohya": convert_lycoris,
}
"""Network modules of SD 1.x, 2.x and SDXL by name."""


def convert_network(
    values: Mapping[str, Any],
    modules: Mapping[str, Converter[Model]],
    model: Model,
    notes: list[str],
    problems: list[Problem],
) -> dict[str, Any]:
    """The table `adapter`. `modules`: those that train this model."""
    module = str(values["network_module"] or "")
    arguments = KeyValueArguments.read("network_args", values["network_args"], problems)
    convert = modules.get(module.lower())
    if convert is None:
        problems.append(module_problem(module, modules))
        return {}
    # Each converter takes the arguments that it knows; the others are unknown.
    table = convert(values, arguments, model, notes)
    notes += arguments.unknown_warnings()
    kind = table["kind"]
    kinds = registered(AdapterConfig)
    if kind not in kinds:
        remedy = f"use {next(iter(modules))}, or lycoris.kohya with another algo"
        problems.append(Problem("network_module", f'"{module}": the kind {kind} is not installed', remedy=remedy))
        return {}
    if values["scale_weight_norms"]:
        table["max_norm"] = values["scale_weight_norms"]

    # The converters return all settings; a kind has only some of them. Those that would change something get a note.
    fields = kinds[kind].model_fields
    for key, value in table.items():
        if key not in fields and value not in (None, 0, 0.0, False):
            notes.append(f"{key} is ignored: {kind} does not have it, neither in the original nor here")
    return {key: value for key, value in table.items() if key in fields and value is not None}


def module_problem(module: str, modules: Mapping[str, Any]) -> Problem:
    """The problem of a network module that is missing or unknown, or is made for other models."""
    unknown = "known network module" if modules is MODULES else "network module for this model"
    found = f'"{module}" is not a {unknown}' if module else "missing"
    return Problem("network_module", found, ", ".join(modules), did_you_mean(module, modules))
