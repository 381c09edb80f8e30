"""The arguments of the network as sd-scripts writes them into `ss_network_args`: names and values of its modules.

sd-scripts writes what was given as `--network_args`, as texts, and the dropout. Here they are derived from the
settings of the adapter that differ from the defaults; those that sd-scripts and LyCORIS do not have are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.adapters import AdapterConfig
from lorasmith.formats.metadata import KOHYA_MODULES

ALGORITHMS = {"oft": "diag-oft"}
"""LyCORIS' names of kinds that have another name here."""
NAMES: Mapping[str, str] = {
    "conv_rank": "conv_dim",
    "conv_alpha": "conv_alpha",
    "rank_dropout": "rank_dropout",
    "module_dropout": "module_dropout",
    "tucker": "use_tucker",
    "scalar": "use_scalar",
    "factor": "factor",
    "decompose_both": "decompose_both",
    "full_matrix": "full_matrix",
    "block_size": "block_size",
    "constraint": "constraint",
    "rank_stabilised": "rs_lora",
    "norms": "train_norm",
    "up_lr": "loraplus_unet_lr_ratio",
    "text_up_lr": "loraplus_text_encoder_lr_ratio",
    "unit": "unit",
}
"""Our settings to the names of arguments."""


def network_args(adapter: AdapterConfig) -> dict[str, str | float | None]:
    """The arguments of an adapter; `dropout` is a number or None, the others are texts."""
    kind = str(getattr(adapter, "kind", ""))
    arguments: dict[str, str | float | None] = {}
    if kind not in KOHYA_MODULES:
        arguments |= algorithm(kind, adapter)
    for field, name in NAMES.items():
        value = getattr(adapter, field, None)
        if value is not None and value != default_of(adapter, field):
            arguments[name] = str(value)
    return arguments | {"dropout": adapter.dropout or None}


def algorithm(kind: str, adapter: AdapterConfig) -> dict[str, str | float | None]:
    """The algorithm by LyCORIS' name. DoRA is an argument of the product that it rescales."""
    if kind != "dora":
        return {"algo": ALGORITHMS.get(kind, kind)}
    settings: dict[str, str | float | None] = {"algo": str(getattr(adapter, "over", "lora")), "dora_wd": "True"}
    return settings | {"wd_on_output": str(getattr(adapter, "axis", "input") == "output")}


def default_of(adapter: AdapterConfig, field: str) -> Any:
    """The default of a setting."""
    return type(adapter).model_fields[field].default
