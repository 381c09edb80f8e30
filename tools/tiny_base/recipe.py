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


def recipe_of_29_november() -> dict[str, Any]:
    """The recipe garp of 29 November 2026, from which docs/measurements/quality.md says what each change does: rank 16,
    120 steps of 8 at 1.6e-3."""
    table = garp_recipe()
    table["steps"] = 120
    table["data"]["batch_size"] = 8
    table["adapter"]["rank"] = 16
    table["optimizer"] |= {"lr": 1.6e-3, "text_lr": 1.6e-3}
    return table


def unet_recipe() -> dict[str, Any]:
    """Rank 16 on all blocks of the UNet, and nothing else trained, for 200 steps of 8 at 1.2e-3 with min-SNR: what the
    comparisons in docs/measurements start from, whatever the demo trains."""
    table = recipe_of_29_november()
    table["optimizer"] = {"kind": "adamw", "lr": LR}
    table["adapter"].pop("layers", None)
    return table | MIN_SNR | {"steps": STEPS}
