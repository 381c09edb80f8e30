"""From the options of loss, noise and timesteps to our `objective`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.core.errors import Problem

LOSSES = {"l2": "mse", "l1": "l1", "huber": "huber", "smooth_l1": "smooth_l1"}


def convert_objective(values: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The table `objective`, with what is not default."""
    check(values, problems)
    table: dict[str, Any] = {}
    low, high = values["min_timestep"], values["max_timestep"]
    if low or (high is not None and high != 1000):
        table["timesteps"] = {"kind": "uniform", "min": low or 0, "max": 1000 if high is None else high}
    noise = noises(values)
    if noise:
        table["noise"] = noise
    loss = LOSSES[str(values["loss_type"]).lower()]
    if loss in ("huber", "smooth_l1"):
        own = {"c": values["huber_c"], "scale": values["huber_scale"], "schedule": values["huber_schedule"].lower()}
        table["loss"] = {"kind": loss, **own}
    elif loss != "mse":
        table["loss"] = loss
    weightings = weights(values)
    if weightings:
        table["weightings"] = weightings
    return {"kind": "denoising", **table} if table else {}


def check(values: Mapping[str, Any], problems: list[Problem]) -> None:
    """What the original refuses, too."""
    v = values["v_parameterization"]
    if values["adaptive_noise_scale"] and not values["noise_offset"]:
        problems.append(Problem("adaptive_noise_scale", "counts with noise_offset only", remedy="set noise_offset"))
    if values["scale_v_pred_loss_like_noise_pred"] and not v:
        remedy = "set v_parameterization, or leave it out"
        problems.append(Problem("scale_v_pred_loss_like_noise_pred", "is for v-prediction", remedy=remedy))
    if values["v_pred_like_loss"] and v:
        remedy = "leave it out with v_parameterization"
        problems.append(Problem("v_pred_like_loss", "is for epsilon-prediction", remedy=remedy))


def noises(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Changes of the noise, in the original's order."""
    found: list[dict[str, Any]] = []
    if values["noise_offset"]:
        adaptive = values["adaptive_noise_scale"] or 0.0
        random = bool(values["noise_offset_random_strength"])
        found.append({"kind": "offset", "strength": values["noise_offset"], "random": random, "adaptive": adaptive})
    if values["multires_noise_iterations"]:
        levels = values["multires_noise_iterations"]
        found.append({"kind": "multires", "levels": levels, "discount": values["multires_noise_discount"]})
    if values["ip_noise_gamma"]:
        random = bool(values["ip_noise_gamma_random_strength"])
        found.append({"kind": "input_perturbation", "gamma": values["ip_noise_gamma"], "random": random})
    return found


def weights(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Weights over t, in the original's order."""
    found: list[dict[str, Any]] = []
    if values["min_snr_gamma"]:
        found.append({"kind": "min_snr", "gamma": values["min_snr_gamma"]})
    if values["scale_v_pred_loss_like_noise_pred"]:
        found.append({"kind": "v_scale"})
    if values["v_pred_like_loss"]:
        found.append({"kind": "v_like", "strength": values["v_pred_like_loss"]})
    if values["debiased_estimation_loss"]:
        found.append({"kind": "debiased"})
    return found
