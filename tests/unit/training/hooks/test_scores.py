"""The four numbers while training: what is measured when, and what a run without a change must give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.core.quality import values_from_json
from lorasmith.evaluation.judge_scorer import TinyJudge
from lorasmith.training.config import load_config
from lorasmith.training.output.report.record import read
from lorasmith.training.session import train

SCORES: dict[str, Any] = {
    "kind": "scores",
    "scorer": {"kind": "judge"},
    "class_word": "dog",
    "prompts": ["a photo of <TOK>", "a photo of a cat"],
    "count": 1,
    "steps": 2,
}


@pytest.fixture
def config(tmp_path: Path, random_base: Callable[..., Path], pictures: Callable[..., Path]) -> dict[str, Any]:
    images, others = pictures(4), pictures(1, size=(72, 80), name="others")
    return {
        "base": str(random_base()),
        "output": str(tmp_path / "run"),
        "steps": 3,
        "trigger": "garp",
        "data": {
            "subsets": [{"images": str(images)}, {"images": str(others), "hold_out": False}],
            "resolution": 64,
            "validation": {"split": 0.25},
        },
        "adapter": {"rank": 1, "layers": ["*attn2.to_k"]},
        "log": {"tensorboard": False},
        "export": {"every_steps": 2},
        "hooks": [SCORES],
    }


@pytest.mark.slow
def test_each_export_is_measured(config: dict[str, Any]) -> None:
    # the rate is so small that the run changes nothing that a picture or a loss could show
    config["optimizer"] = {"lr": 1e-30}
    record = read(train(load_config(config), accept_remarks=True).folder)
    events = record.of("scores")
    assert [event["step"] for event in events] == [2, 3]
    numbers = events[-1]["numbers"]
    assert set(numbers) == {
        "likeness", "text", "copying", "copying_loss", "drift_features", "drift_pixels", "drift_loss"
    }  # fmt: skip
    for name in ("copying_loss", "drift_features", "drift_pixels", "drift_loss"):
        # of one picture or image there is no interval
        assert numbers[name] == {"mean": 0.0, "low": None, "high": None}, name
    values = values_from_json(events[-1]["values"]["likeness"])
    assert values is not None
    # a prompt without the concept has no likeness
    assert [len(row) for row in values.rows] == [1, 1]
    folder = record.folder / events[-1]["folder"]
    assert len(list(folder.glob("*.png"))) == 2
    assert len(list((record.folder / "scores" / "base").glob("*.png"))) == 1

    page = (record.folder / "report.html").read_text("utf-8")
    assert "<h2>Four numbers</h2>" in page
    assert "drift, pixels" in page


def test_prompts_without_the_concept_are_an_error_before_anything_is_loaded(config: dict[str, Any]) -> None:
    config["hooks"] = [SCORES | {"prompts": ["a photo of a cat"]}]
    with pytest.raises(LorasmithError, match=r"hooks: scores: the prompts: <TOK> is in none of its prompts"):
        train(load_config(config), accept_remarks=True)
    assert not (Path(config["output"]) / "events.jsonl").exists()


def test_the_class_word_is_needed(config: dict[str, Any]) -> None:
    config["hooks"] = [{key: value for key, value in SCORES.items() if key != "class_word"}]
    with pytest.raises(LorasmithError, match="class_word"):
        load_config(config)


def test_what_fails_before_the_first_step_is_not_told_to_be_resumed_only(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: TinyJudge, device: object) -> None:
        raise LorasmithError("scorer.model: its files are damaged")

    monkeypatch.setattr(TinyJudge, "load", load)
    with pytest.raises(LorasmithError, match=r"damaged\nNothing was trained. Start again with --overwrite"):
        train(load_config(config), accept_remarks=True)
