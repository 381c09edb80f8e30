"""From `network_module` and `network_args` to our `adapter`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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

MODULES: dict[str, Callable[[Mapping[str, Any], KeyValueArguments, Blocks, list[str]], dict[str, Any]]] = {
    "networks.lora": convert_lora,
    "networks.lora_fa": convert_lora_fa,
    "networks.dylora": convert_dylora,
    "networks.oft": convert_oft,
    "networks.loha": convert_loha,
    "networks.lokr": convert_lokr,
    "lycoris.kohya": convert_lycoris,
}
"""Name of a network module to the function that converts its options, arguments and blocks, and adds notes."""


def convert_network(
    values: Mapping[str, Any], blocks: Blocks, notes: list[str], problems: list[Problem]
) -> dict[str, Any]:
    """The table `adapter`."""
    module = str(values["network_module"] or "")
    arguments = KeyValueArguments.read("network_args", values["network_args"], problems)
    convert = MODULES.get(module.lower())
    if convert is None:
        found = f'"{module}" is not a known network module' if module else "missing"
        problems.append(Problem("network_module", found, ", ".join(MODULES), did_you_mean(module, MODULES)))
        return {}
    # Each converter takes the arguments that it knows; the others are unknown.
    table = convert(values, arguments, blocks, notes)
    notes += arguments.unknown_warnings()
    kind = table["kind"]
    kinds = registered(AdapterConfig)
    if kind not in kinds:
        remedy = "use networks.lora, or lycoris.kohya with another algo"
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
