"""From the options of loss, noise and timesteps to our `objective`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorasmith.core.errors import Problem

LOSSES = {"l2": "mse", "l1": "l1", "huber": "huber", "smooth_l1": "smooth_l1"}


def convert_objective(
    values: Mapping[str, Any], subsets: Sequence[Mapping[str, Any]], problems: list[Problem]
) -> dict[str, Any]:
    """The table `objective`, with what differs from our defaults. `subsets`: the converted `data.subsets`."""
    check_combinations(values, problems)
    table: dict[str, Any] = {}

    # Only what differs from our defaults is written, so that a converted config stays short.
    low, high = values["min_timestep"], values["max_timestep"]
    if low or high not in (None, 1000):
        table["timesteps"] = {"kind": "uniform", "min": low or 0, "max": 1000 if high is None else high}
    noise = convert_noise(values)
    if noise:
        table["noise"] = noise
    loss = LOSSES[str(values["loss_type"]).lower()]
    if loss in ("huber", "smooth_l1"):
        table["loss"] = {
            "kind": loss,
            "c": values["huber_c"],
            "scale": values["huber_scale"],
            "schedule": values["huber_schedule"].lower(),
        }
    elif loss != "mse":
        table["loss"] = loss
    weightings = convert_weightings(values)
    if weightings:
        table["weightings"] = weightings

    # The original multiplies the loss by the mask and then averages over the whole image.
    if any(subset.get("masks") for subset in subsets):
        table["mask_mean"] = "image"
    return {"kind": "denoising", **table} if table else {}


def check_combinations(values: Mapping[str, Any], problems: list[Problem]) -> None:
    """Combinations of options that the original refuses, too."""
    v_prediction = values["v_parameterization"]
    if values["adaptive_noise_scale"] and not values["noise_offset"]:
        found = "has an effect together with noise_offset only"
        problems.append(Problem("adaptive_noise_scale", found, remedy="set noise_offset"))
    if values["scale_v_pred_loss_like_noise_pred"] and not v_prediction:
        remedy = "set v_parameterization, or remove it"
        problems.append(Problem("scale_v_pred_loss_like_noise_pred", "requires v-prediction", remedy=remedy))
    if values["v_pred_like_loss"] and v_prediction:
        found = "cannot be combined with v_parameterization: it requires epsilon-prediction"
        problems.append(Problem("v_pred_like_loss", found, remedy="remove one of them"))


def convert_noise(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Changes of the noise, in the original's order."""
    changes: list[dict[str, Any]] = []
    if values["noise_offset"]:
        changes.append(
            {
                "kind": "offset",
                "strength": values["noise_offset"],
                "random": bool(values["noise_offset_random_strength"]),
                "adaptive": values["adaptive_noise_scale"] or 0.0,
            }
        )
    if values["multires_noise_iterations"]:
        changes.append(
            {
                "kind": "multires",
                "levels": values["multires_noise_iterations"],
                "discount": values["multires_noise_discount"],
            }
        )
    if values["ip_noise_gamma"]:
        changes.append(
            {
                "kind": "input_perturbation",
                "gamma": values["ip_noise_gamma"],
                "random": bool(values["ip_noise_gamma_random_strength"]),
            }
        )
    return changes


def convert_weightings(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Weights over timesteps, in the original's order."""
    weightings: list[dict[str, Any]] = []
    if values["min_snr_gamma"]:
        weightings.append({"kind": "min_snr", "gamma": values["min_snr_gamma"]})
    if values["scale_v_pred_loss_like_noise_pred"]:
        weightings.append({"kind": "v_scale"})
    if values["v_pred_like_loss"]:
        weightings.append({"kind": "v_like", "strength": values["v_pred_like_loss"]})
    if values["debiased_estimation_loss"]:
        weightings.append({"kind": "debiased"})
    return weightings
