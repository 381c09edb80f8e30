"""The recipe that comparisons start from: that of the demo, without what would hide a difference."""

from __future__ import annotations

import tomllib
from typing import Any

from lorasmith.core.recipes import FOLDER as RECIPES

STEPS = 200


def unet_recipe() -> dict[str, Any]:
    """The recipe garp for 200 steps, with the UNet alone trained and without previews: the recipe of the comparisons
    in docs/measurements that were made before the demo trained the text encoder too."""
    table = tomllib.loads((RECIPES / "garp.toml").read_text("utf-8"))
    del table["preview"]
    table["optimizer"].pop("text_lr", None)
    return table | {"steps": STEPS}
