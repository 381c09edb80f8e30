"""Runs that have converged end early, as finished runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lorasmith
from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.hooks.stop_dvar import Dvar
from lorasmith.training.hooks.validate import Validation
from lorasmith.training.output.report.record import read
from lorasmith.training.session import train


@pytest.fixture
def config(tmp_path: Path, random_base: Callable[..., Path], pictures: Callable[..., Path]) -> dict[str, Any]:
    return {
        "base": str(random_base()),
        "output": str(tmp_path / "run"),
        "steps": 12,
        "trigger": "garp",
        "data": {"images": str(pictures(4)), "resolution": 64},
        "adapter": {"rank": 1, "layers": ["*attn2.to_k"]},
        "log": {"tensorboard": False},
    }


def set_held_out_losses(monkeypatch: pytest.MonkeyPatch, lowest_at: int) -> None:
    def losses(self: Validation, run: Any, t: int) -> list[float]:
        level = 0.2 + 0.01 * abs(run.state.step - lowest_at)
        return [level + 0.1 * i for i in range(4)]

    monkeypatch.setattr(Validation, "_losses", losses)


def test_patience_ends_a_run_that_overfits(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    set_held_out_losses(monkeypatch, lowest_at=3)
    config["data"]["validation"] = {"split": 0.5}
    config |= {"validation": {"every_steps": 1}, "hooks": [{"kind": "patience", "validations": 2}]}
    config |= {"export": {"every_steps": 5}}
    result = train(load_config(config), accept_remarks=True)
    # steps 4 and 5 are worse than step 3; the next step is the last one
    assert (result.finished, result.steps) == (True, 6)
    assert result.file is not None
    assert result.file.is_file()
    record = read(result.folder)
    assert record.finished
    assert record.of("converged")[0]["reason"] == "2 validations in a row are worse than that of step 3"
    assert record.best is not None
    assert record.best["best_step"] == 3

    # a resumed run is at its end
    again = train(load_config(config), resume=result.folder)
    assert (again.finished, again.steps) == (True, 6)


@pytest.mark.slow
def test_patience_lets_a_run_go_on_that_improves(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    set_held_out_losses(monkeypatch, lowest_at=99)
    config["data"]["validation"] = {"split": 0.5}
    config |= {"validation": {"every_steps": 1}, "hooks": [{"kind": "patience", "validations": 2}]}
    assert train(load_config(config), accept_remarks=True).steps == 12


def test_patience_without_held_out_images_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises(LorasmithError, match="patience needs held-out images"):
        train(load_config(config | {"hooks": ["patience"]}), accept_remarks=True)
    # nothing is in the way of the next try
    assert not (Path(config["output"]) / "config.toml").exists()
    assert [str(error) for error in lorasmith.check(config | {"hooks": ["patience"]}).errors] == [
        "hooks: patience needs held-out images; set data.validation.split = 0.1"
    ]


@pytest.mark.slow_except("True-9")
@pytest.mark.parametrize(("stop", "steps"), [(True, 9), (False, 12)])
def test_dvar_ends_a_run_whose_fixed_loss_is_flat(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stop: bool, steps: int
) -> None:
    # ratios of the variances: 0.229 after step 6 (0.6 0.5 0.4 of 0.9 to 0.4), 0.167 after 7, 0.047 after 8
    monkeypatch.setattr(Dvar, "fixed_loss", lambda self, run: max(1.0 - 0.1 * run.state.step, 0.3))
    config |= {"hooks": [{"kind": "dvar", "every_steps": 1, "window": 3, "stop": stop}]}
    result = train(load_config(config), accept_remarks=True)
    assert (result.finished, result.steps) == (True, steps)
    events = read(result.folder).of("converged")
    assert [(event["step"], event["criterion"], event["stops"]) for event in events] == [(8, "dvar", stop)]


def test_the_fixed_loss_changes_only_with_the_weights(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config |= {"steps": 3, "optimizer": {"lr": 1e-12}, "hooks": [{"kind": "dvar", "every_steps": 1}]}
    events = read(train(load_config(config), accept_remarks=True).folder).of("fixed_loss")
    values = [event["loss"] for event in events]
    assert len(values) == 2
    assert values[0] == pytest.approx(values[1], rel=1e-5)
