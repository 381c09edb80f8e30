"""The first losses of short runs stay what they were: a changed formula cannot pass for rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import loss_fingerprints as fingerprints

RECORDED: dict[str, list[float]] = json.loads(fingerprints.TARGET.read_text(encoding="utf-8"))
CASES = {case.name: case for case in fingerprints.cases()}
TOLERANCE = 1e-4
"""Relative. Rounding between CPUs moves these losses by less than 1e-5; the smallest change of a formula, by 1e-3."""


EVERYWHERE = ("new tokens and terms", "convolutions")
"""Cases that run by default with every family: together they train every layer of it that adapters take, and its texts.
All others compute the same of what any family gives them, and run with one family by default, with all in the slow
tests."""
AS_LYCORIS = ("boft", "dylora", "full", "glora", "ia3", "loha", "lokr", "norm", "oft")
"""Adapter kinds that run in the slow tests alone: tests/parity/test_adapters_lycoris.py compares their formulas with
LyCORIS' by default."""


def is_default(case: fingerprints.Case) -> bool:
    """Whether a case is none of those that can hardly fail alone."""
    name = case.name.removeprefix(f"{case.family} ")
    return name in EVERYWHERE or (case.family == fingerprints.FAMILIES[0] and name not in AS_LYCORIS)


def parameter_of(name: str) -> Any:
    return name if is_default(CASES[name]) else pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fingerprints")


def test_every_case_is_recorded_and_none_is_left_over() -> None:
    """After adding an adapter kind: `python -m tools.loss_fingerprints`."""
    assert RECORDED.keys() == CASES.keys()


@pytest.mark.parametrize("name", map(parameter_of, CASES))
def test_the_first_losses_are_the_recorded_ones(name: str, workspace: Path) -> None:
    losses = fingerprints.record(CASES[name], workspace)
    assert fingerprints.difference(losses, RECORDED[name]) < TOLERANCE, f"{losses} instead of {RECORDED[name]}"


def test_the_cases_that_are_named_here_are_recorded_with_every_family() -> None:
    """A name of `EVERYWHERE` that is renamed would leave the default tests."""
    names = (*EVERYWHERE, *AS_LYCORIS)
    assert {f"{family} {name}" for family in fingerprints.FAMILIES for name in names} <= CASES.keys()


def test_the_cases_of_one_family_have_different_losses() -> None:
    """A setting that changed nothing would hide a broken one. (DyLoRA, for example, must not train as LoRA.)"""
    for family in fingerprints.FAMILIES:
        losses = [tuple(values) for name, values in RECORDED.items() if name.startswith(f"{family} ")]
        assert len(set(losses)) == len(losses)
