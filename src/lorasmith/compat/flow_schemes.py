"""Options of SD3 and Flux that the scripts of other trainers share: how t is drawn and how the loss is weighed over t.

sd-scripts and diffusers have the same function for both, chosen by `weighting_scheme`, and ai-toolkit has parts of it
under other names. Their t is one of a thousand; ours is any number, which differs by less than a thousandth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorasmith.compat.options import Option

SCHEMES = ("sigma_sqrt", "logit_normal", "mode", "cosmap")
"""The schemes that all scripts have. Others, such as `none` and `uniform`, change nothing."""
WEIGHTINGS = ("sigma_sqrt", "cosmap")
"""Schemes that are weightings of the loss. With them, t is uniform."""


@dataclass(frozen=True)
class Scheme:
    """A value of `weighting_scheme`, with the numbers that belong to some of them."""

    name: str
    mean: float = 0.0
    """Of `logit_normal`."""
    std: float = 1.0
    """Of `logit_normal`."""
    scale: float = 1.29
    """Of `mode`."""

    def sampler(self, *, from_noise: bool) -> dict[str, Any]:
        """The timestep sampler. `from_noise`: the script counts t from the noise, so that its mean has the other sign
        (the density of `mode` is symmetric)."""
        make = SAMPLERS.get(self.name)
        return make(self, from_noise) if make else {"kind": "uniform"}

    def weightings(self, *, of_x0: bool) -> list[str]:
        """The weightings of the loss. `of_x0`: the script compares x0, not the velocity."""
        return [*(["x0"] if of_x0 else []), *([self.name] if self.is_weighting else [])]

    @property
    def is_weighting(self) -> bool:
        return self.name in WEIGHTINGS


def _logit_normal(scheme: Scheme, from_noise: bool) -> dict[str, Any]:
    mean = -scheme.mean if from_noise and scheme.mean else scheme.mean
    return {"kind": "logit_normal", "mean": mean, "std": scheme.std}


def _mode(scheme: Scheme, from_noise: bool) -> dict[str, Any]:
    return {"kind": "mode", "scale": scheme.scale}


SAMPLERS: Mapping[str, Callable[[Scheme, bool], dict[str, Any]]] = {"logit_normal": _logit_normal, "mode": _mode}


def scheme_options(default: str, choices: Sequence[str]) -> tuple[Option, ...]:
    """The options that `read_scheme` reads, for a script with this default."""
    return (
        Option(
            "weighting_scheme",
            "text",
            default,
            to="objective.timesteps, objective.weightings",
            choices=tuple(choices),
            state="improved",
            note="`logit_normal` and `mode` say how t is drawn, `sigma_sqrt` and `cosmap` weigh the loss; t is any "
            "number, not one of 1000",
        ),
        Option("logit_mean", "float", 0.0, to="objective.timesteps.mean", note="of logit_normal"),
        Option("logit_std", "float", 1.0, to="objective.timesteps.std", note="of logit_normal"),
        Option("mode_scale", "float", 1.29, to="objective.timesteps.scale", note="of mode"),
    )


def read_scheme(values: Mapping[str, Any]) -> Scheme:
    """The scheme that a script's values name."""
    name = str(values["weighting_scheme"]).lower()
    return Scheme(name, values["logit_mean"], values["logit_std"], values["mode_scale"])


def shifted(sampler: dict[str, Any], factor: float | str) -> dict[str, Any]:
    """A sampler whose times are moved by a factor, or by the rule that `factor` names (`model`, `flux`)."""
    return sampler if factor == 1 else {"kind": "shifted", "of": sampler, "shift": factor}
