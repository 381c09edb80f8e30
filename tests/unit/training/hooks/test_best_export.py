"""The best weights of a run are kept as a file, with why."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from lorasmith.core.errors import ConfigError
from lorasmith.core.quality import Values, numbers_of, to_json
from lorasmith.training.config import load_config
from lorasmith.training.hooks.scores import Scores
from lorasmith.training.hooks.validate import Validation
from lorasmith.training.output.report.inspect_run import inspect_run
from lorasmith.training.output.report.record import read
from lorasmith.training.output.report.use import file_to_use
from lorasmith.training.session import train


@pytest.fixture
def config(tmp_path: Path, random_base: Callable[..., Path], pictures: Callable[..., Path]) -> dict[str, Any]:
    return {
        "base": str(random_base()),
        "output": str(tmp_path / "run"),
        "steps": 6,
        "trigger": "garp",
        "data": {"images": str(pictures(6)), "resolution": 64, "validation": {"split": 0.67}},
        "log": {"tensorboard": False},
        "validation": {"every_steps": 1},
        "export": {"every_steps": 2},
        "best": {"by": "loss"},
    }


def set_losses(monkeypatch: pytest.MonkeyPatch, by_step: dict[int, float]) -> None:
    """Let held-out images have known losses after each step; they differ from each other, but not in their course."""

    def losses(self: Validation, run: Any, t: int) -> list[float]:
        return [by_step[run.state.step] + 0.1 * i + 0.0001 * (i % 2) * run.state.step for i in range(4)]

    monkeypatch.setattr(Validation, "_losses", losses)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_a_run_that_overfits_keeps_the_weights_from_before(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_losses(monkeypatch, {0: 0.2, 1: 0.18, 2: 0.15, 3: 0.14, 4: 0.16, 5: 0.17, 6: 0.19})
    result = train(load_config(config), accept_remarks=True)

    # the file is that of step 3, which is no export; every validation is judged in a run as short as this
    why = json.loads(metadata_of(result.folder / "run-best.safetensors")["lorasmith.best"])
    assert (why["best_step"], why["weak"], why["images"]) == (3, False, 4)
    provenance = json.loads(metadata_of(result.folder / "run-best.safetensors")["lorasmith.run"])
    assert provenance["step"] == 3

    record = read(result.folder)
    assert record.best is not None
    assert record.best["best_step"] == 3
    assert "later ones are worse, step 6 by 0.05" in record.best["reason"]
    # the report tells to use it
    used = file_to_use(record)
    assert used is not None
    assert used["file"] == "run-best.safetensors"
    assert "These are the best weights" in (result.folder / "report.html").read_text("utf-8")


def test_a_loss_that_is_not_a_number_ends_no_run_and_is_never_the_best(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_losses(monkeypatch, {0: 0.2, 1: 0.18, 2: 0.15, 3: math.nan, 4: math.inf, 5: math.nan, 6: math.nan})
    result = train(load_config(config), accept_remarks=True)
    assert result.finished
    best = read(result.folder).best
    assert best is not None
    assert best["best_step"] == 2

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in events.jsonl is no JSON")

    for line in (result.folder / "events.jsonl").read_text("utf-8").splitlines():
        json.loads(line, parse_constant=refuse)
    serious = [entry["text"] for entry in inspect_run(result.folder)["findings"] if entry["severity"] == "serious"]
    assert serious == [
        "The loss on held-out images is not a number since step 3: the weights from then on are of no use."
    ]


@pytest.mark.slow
def test_a_run_that_improves_to_its_end_keeps_its_last_weights(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_losses(monkeypatch, {step: 0.2 - 0.01 * step for step in range(7)})
    result = train(load_config(config), accept_remarks=True)
    best = read(result.folder).best
    assert best is not None
    assert best["best_step"] == 6
    with safe_open(result.folder / "run-best.safetensors", "pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with safe_open(result.folder / "run.safetensors", "pt") as file:
        assert all((file.get_tensor(name) == tensor).all() for name, tensor in kept.items())


@pytest.mark.slow
def test_an_export_between_two_validations_is_judged(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    set_losses(monkeypatch, dict.fromkeys(range(7), 0.2))
    config |= {"validation": {"every_epochs": 99}, "best": {"most": 1, "file": False, "by": "loss"}}
    record = read(train(load_config(config), accept_remarks=True).folder)
    assert [event["step"] for event in record.of("best")] == [2, 4, 6]
    assert not (record.folder / "run-best.safetensors").exists()
    assert record.best is not None
    assert record.best.get("file") is None
    assert record.of("best")[-1]["best_step"] == 6


@pytest.mark.slow
def test_a_resumed_run_judges_what_it_judged_before(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    set_losses(monkeypatch, {0: 0.2, 1: 0.18, 2: 0.15, 3: 0.14, 4: 0.16, 5: 0.17, 6: 0.19})
    train(load_config(config | {"steps": 4}), accept_remarks=True)
    result = train(load_config(config), resume=Path(config["output"]))
    events = read(result.folder).of("best")
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[-1]["best_step"] == 3
    assert events[-1]["file"] == "run-best.safetensors"


@pytest.mark.slow
def test_unless_asked_for_the_held_out_loss_replaces_no_weights(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del config["best"]
    set_losses(monkeypatch, {0: 0.2, 1: 0.18, 2: 0.15, 3: 0.14, 4: 0.16, 5: 0.17, 6: 0.19})
    result = train(load_config(config), accept_remarks=True)

    assert not (result.folder / "run-best.safetensors").exists()
    record = read(result.folder)
    used = file_to_use(record)
    assert used is not None
    assert used["file"] == "run.safetensors"
    assert record.best is not None
    assert (record.best["best_step"], record.best["remark"]) == (3, True)
    page = (result.folder / "report.html").read_text("utf-8")
    assert "has risen since step 3" in page
    assert "Best weights" not in page
    assert inspect_run(result.folder)["held-out loss"].startswith("step 3: loss ")


@pytest.mark.slow
def test_the_weights_of_the_highest_likeness_are_kept_where_it_is_measured(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    likeness = {2: 0.5, 4: 0.7, 6: 0.4}

    def act(self: Scores, run: Any) -> None:
        self._export_is_new = False
        rows = tuple(tuple(likeness[run.state.step] + 0.01 * seed for seed in range(4)) for _ in range(2))
        values = {"likeness": Values(rows)}
        own = {name: value.to_json() for name, value in values.items()}
        run.events.write("scores", run.state.step, numbers=to_json(numbers_of(values)), values=own)

    monkeypatch.setattr(Scores, "act", act)
    # held-out images say the opposite, and are not asked
    set_losses(monkeypatch, {step: 0.2 + 0.01 * step for step in range(7)})
    del config["best"]
    config["hooks"] = [{"kind": "scores", "scorer": {"kind": "judge"}, "class_word": "dog"}]
    result = train(load_config(config), accept_remarks=True)

    record = read(result.folder)
    assert [event["step"] for event in record.of("scores")] == [2, 4, 6]
    why = json.loads(metadata_of(result.folder / "run-best.safetensors")["lorasmith.best"])
    assert (why["by"], why["best_step"], why["pictures"], why["weak"]) == ("likeness", 4, 8, False)
    assert record.best is not None
    assert "later ones are less alike, step 6 by 0.3000" in record.best["reason"]
    used = file_to_use(record)
    assert used is not None
    assert used["file"] == "run-best.safetensors"


def test_likeness_without_a_hook_that_measures_it_is_refused_before_training(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no hook measures it"):
        load_config(config | {"best": {"by": "likeness"}})


def test_without_held_out_images_nothing_is_judged(config: dict[str, Any]) -> None:
    del config["data"]["validation"], config["validation"], config["best"]
    assert load_config(config).best is None
    with pytest.raises(ConfigError, match="none are held out"):
        load_config(config | {"best": {}})
