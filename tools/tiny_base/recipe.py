"""The recipe that comparisons start from: that of the demo, without what would hide a difference."""

from __future__ import annotations

import tomllib
from typing import Any

from lorasmith.core.recipes import FOLDER as RECIPES

STEPS = 200
LR = 1.2e-3
MIN_SNR: dict[str, Any] = {"objective": {"weightings": [{"kind": "min_snr", "gamma": 5.0}]}}


def garp_recipe() -> dict[str, Any]:
    """The recipe garp without previews: what candidates for the demo change."""
    table = tomllib.loads((RECIPES / "garp.toml").read_text("utf-8"))
    del table["preview"]
    return table


def unet_recipe() -> dict[str, Any]:
    """The recipe garp for 200 steps at 1.2e-3 with min-SNR, with all blocks of the UNet and nothing else trained, and
    without previews: what the comparisons in docs/measurements start from, whatever the demo trains."""
    table = garp_recipe()
    table["optimizer"] = {"kind": "adamw", "lr": LR}
    table["adapter"].pop("layers", None)
    return table | MIN_SNR | {"steps": STEPS}
