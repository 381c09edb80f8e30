"""How sd-scripts draws t and weighs the loss of SD3 and Flux, as our `objective`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.compat.flow_schemes import read_scheme, shifted
from lorasmith.compat.kohya.objectives import LOSSES
from lorasmith.core.errors import Problem

X0_LOSS = "the loss is that of x0, as in the original; loss_type = l2 is the only one that can be converted then"


def convert_loss(values: Mapping[str, Any], problems: list[Problem], *, of_x0: bool) -> Any:
    """`objective.loss`; None for the squared error. `of_x0`: the original measures errors of x0."""
    loss = LOSSES[str(values["loss_type"]).lower()]
    if loss == "mse":
        return None
    if of_x0:
        problems.append(Problem("loss_type", f'found "{values["loss_type"]}"', "l2", X0_LOSS))
        return None
    if loss == "l1":
        return loss
    schedule = str(values["huber_schedule"]).lower()
    if schedule == "snr":
        found = f"snr cannot be used with loss_type = {values['loss_type']} for this model, as in the original"
        problems.append(Problem("huber_schedule", found, "exponential, constant"))
    return {"kind": loss, "c": values["huber_c"], "scale": values["huber_scale"], "schedule": schedule}


def sd3_objective(values: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The objective of `sd3_train_network`: the loss of x0, with t from `weighting_scheme` and `training_shift`."""
    low, high = values["min_timestep"] or 0, values["max_timestep"]
    span = {"min": low, "max": 1000 if high is None else high}
    scheme = read_scheme(values)
    sampler = scheme.sampler(from_noise=False)
    if values["training_shift"] == 1:
        sampler |= span
    else:
        sampler = shifted(sampler, values["training_shift"]) | span
    loss = convert_loss(values, problems, of_x0=True)
    return {"timesteps": sampler, "weightings": scheme.weightings(of_x0=True)} | ({"loss": loss} if loss else {})


def flux_objective(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The objective of `flux_train_network`."""
    table: dict[str, Any] = {"timesteps": flux_timesteps(values)}
    scheme = read_scheme(values)
    prediction = str(values["model_prediction_type"]).lower()
    if prediction == "additive":
        found = 'found "additive", for which the original compares a sum with noise - x0'
        problems.append(Problem("model_prediction_type", found, "raw, sigma_scaled", "use raw"))
    if prediction == "sigma_scaled":
        table["weightings"] = scheme.weightings(of_x0=True)
        notes.append(
            "model_prediction_type = sigma_scaled: the loss is that of x0; the original, whose default this is, "
            "compares x0 with noise - x0 by mistake. model_prediction_type = raw is what its guide recommends"
        )
    elif scheme.is_weighting:
        notes.append("weighting_scheme has no effect with model_prediction_type = raw, as in the original")
    loss = convert_loss(values, problems, of_x0=prediction == "sigma_scaled")
    if loss:
        table["loss"] = loss
    if values["ip_noise_gamma"]:
        random = bool(values["ip_noise_gamma_random_strength"])
        table["noise"] = [{"kind": "input_perturbation", "gamma": values["ip_noise_gamma"], "random": random}]
    return table


def flux_timesteps(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler of `timestep_sampling`."""
    sampling = str(values["timestep_sampling"]).lower()
    if sampling == "uniform":
        return {"kind": "uniform"}
    if sampling == "sigma":
        return shifted(read_scheme(values).sampler(from_noise=True), values["discrete_flow_shift"])
    sigmoid = {"kind": "logit_normal", "std": values["sigmoid_scale"]}
    factors = {"sigmoid": 1, "shift": values["discrete_flow_shift"], "flux_shift": "flux"}
    return shifted(sigmoid, factors[sampling])
