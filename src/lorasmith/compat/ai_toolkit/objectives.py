"""How ai-toolkit draws t and weighs the loss, as our `objective`.

The original draws an index into a table of 1000 times that begins at the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.compat.flow_schemes import shifted
from lorasmith.core.errors import Problem

LAST = 999
"""The last index of the table."""
PREFERENCES = {"balanced": "none", "content": "noise", "style": "data"}
LOSSES: Mapping[str, Any] = {
    "mse": None,
    "mae": "l1",
    "pseudo_huber": {"kind": "smooth_l1", "c": 0.01, "schedule": "constant"},
}
WEIGHTED = "weighted"
"""The type whose times are uniform, with a weight from a table that its author measured."""
UNIFORM = ("linear", WEIGHTED)
SHIFTS = ("shift", "flux_shift", "lumina2_shift")
"""Types whose times are moved by the shift of the base."""


def convert_objective(
    values: Mapping[str, Any], *, flow: bool, notes: list[str], problems: list[Problem]
) -> dict[str, Any]:
    """The table `objective`. `flow`: the base is one of flow matching."""
    table: dict[str, Any] = {"kind": "denoising"}
    table["timesteps"] = flow_timesteps(values, problems) if flow else ddpm_timesteps(values)
    weightings = convert_weightings(values, flow=flow, problems=problems)
    if weightings:
        table["weightings"] = weightings
    loss = str(values["train.loss_type"]).lower()
    if loss not in LOSSES:
        problems.append(Problem("train.loss_type", f'found "{loss}"', ", ".join(LOSSES)))
    elif LOSSES[loss] is not None:
        table["loss"] = LOSSES[loss]
    if loss == "pseudo_huber":
        notes.append("train.loss_type: the loss is twice that of the original, which AdamW does not notice")
    if "flex_curve" in weightings:
        notes.append("train.timestep_type = weighted: the weights are within 2.1 % of the original's table")
    if values["train.noise_offset"]:
        table["noise"] = [{"kind": "offset", "strength": values["train.noise_offset"]}]
    return table


def span(values: Mapping[str, Any], first: int) -> dict[str, int]:
    """`min` and `max` of t from the range of indices, whose first and last one are left out by `first`."""
    low = max(values["train.min_denoising_steps"], 0)
    high = min(values["train.max_denoising_steps"], LAST)
    return {"min": max(LAST - high + first, 0), "max": min(LAST - low - first + 1, 1000)}


def ddpm_timesteps(values: Mapping[str, Any]) -> dict[str, Any]:
    """t of SD 1.x, 2.x and SDXL; with the default range, the original never draws the last and the first two."""
    preference = PREFERENCES[values["train.content_or_style"]]
    if preference == "none":
        return {"kind": "uniform", **span(values, 1)}
    return {"kind": "quantile", "prefer": preference, **span(values, 0)}


def flow_timesteps(values: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """t of SD3 and Flux, by `timestep_type`."""
    kind = str(values["train.timestep_type"]).lower()
    if values["train.linear_timesteps"] or values["train.linear_timesteps2"]:
        kind = "linear"
    preference = PREFERENCES[values["train.content_or_style"]]
    of = "logit_normal" if kind == "sigmoid" else "uniform"
    plain = {"kind": "quantile", "of": of, "prefer": preference, **span(values, 0)}
    whole = plain["min"] == 0 and plain["max"] == 1000
    if preference == "none" and (whole or of == "uniform"):
        plain = {"kind": of} if whole else {"kind": of, "min": plain["min"], "max": plain["max"]}
    if kind in ("sigmoid", *UNIFORM):
        return plain
    if kind in SHIFTS:
        return shifted(plain, "model")
    allowed = ", ".join(("sigmoid", *UNIFORM, *SHIFTS))
    problems.append(Problem("train.timestep_type", f'"{kind}" is not supported', allowed, "use sigmoid or linear"))
    return plain


def convert_weightings(values: Mapping[str, Any], *, flow: bool, problems: list[Problem]) -> list[Any]:
    """The weights over t, which differ between the two paths."""
    gamma = values["train.min_snr_gamma"]
    if flow:
        if gamma:
            found = "the original stops at it: flow matching has no table of signal-to-noise ratios"
            problems.append(Problem("train.min_snr_gamma", found, remedy="remove it"))
        weightings: list[Any] = ["x0"] if values["train.t0_loss_target"] else []
        # its table comes first in the original, whatever else is set
        if str(values["train.timestep_type"]).lower() == WEIGHTED:
            return [*weightings, "flex_curve"]
        if values["train.linear_timesteps2"]:
            return [*weightings, {"kind": "bell", "half": True}]
        return [*weightings, "bell"] if values["train.linear_timesteps"] else weightings
    if values["train.t0_loss_target"]:
        problems.append(Problem("train.t0_loss_target", "needs flow matching", remedy="remove it"))
    return [{"kind": "min_snr", "gamma": gamma}] if gamma else []
