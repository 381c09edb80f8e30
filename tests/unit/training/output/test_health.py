"""Did it train at all? What the report and `inspect` say of runs that went wrong in known ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorasmith import api
from lorasmith.adapters.lora_adapter import LoRAAdapter
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.timesteps.uniform import Uniform
from lorasmith.training.config import load_config
from lorasmith.training.output.report.explanations import explanation_of
from lorasmith.training.output.report.health import Health, answer, health_of
from lorasmith.training.output.report.phrases import phrases_with_trigger
from lorasmith.training.output.report.record import Record, read
from lorasmith.training.output.training_facts import timesteps_seen
from lorasmith.training.session import train
from lorasmith.training.step.objectives.denoising import Denoising


@pytest.fixture
def config(tmp_path: Path, random_base: Callable[..., Path], pictures: Callable[..., Path]) -> dict[str, Any]:
    return {
        "base": str(random_base()),
        "output": str(tmp_path / "run"),
        "steps": 4,
        "trigger": "garp",
        "adapter": {"rank": 4, "alpha": 2},
        "data": {"images": str(pictures(4)), "resolution": 64, "cache_dir": str(tmp_path / "cache")},
        "log": {"tensorboard": False},
    }


def record_of(tmp_path: Path, *events: dict[str, Any], **files: Any) -> Record:
    return Record(tmp_path, list(events), **files)


def texts(health: Health, severity: str) -> str:
    return " ".join(finding.text for finding in health.findings if finding.severity == severity)


def test_a_run_that_trains_says_so(config: dict[str, Any]) -> None:
    folder = train(load_config(config), accept_remarks=True).folder
    facts = api.inspect(folder)
    record = read(folder)
    count = record.summary_value("adapter", "layers")
    assert facts["adapters that got a gradient"] == f"{count} of {count}"
    assert facts["effective learning rate"].endswith("x 0.5 (alpha / rank) = 5e-05")
    assert facts["clipped steps"].startswith("0 of 4")
    assert facts["the trigger is read as"].startswith("garp: ")
    assert not [finding for finding in facts["findings"] if finding["severity"] == "serious"]
    page = (folder / "report.html").read_text("utf-8")
    assert "Did it train?" in page
    unexplained = [label for label in health_of(record).facts if not explanation_of(label)]
    assert unexplained == []
    assert "How strongly a step pulls at the weights." in page


@pytest.mark.slow
def test_the_change_of_a_weight_is_that_of_the_file(config: dict[str, Any]) -> None:
    folder = train(load_config(config), accept_remarks=True).folder
    change = read(folder).of("facts")[-1]["change"]["unet"]

    from safetensors.torch import load_file

    from lorasmith.families.load import load

    tensors = load_file(folder / "run.safetensors")
    modules = load(config["base"], dtype=torch.float32, device=torch.device("cpu")).named_layers(["unet"])
    squared, size = 0.0, 0.0
    for name, (parent, attribute) in modules.items():
        key = "lora_" + name.replace(".", "_")
        if f"{key}.lora_up.weight" not in tensors:
            continue
        weight = getattr(parent, attribute, None)
        weight = (parent[int(attribute)] if weight is None else weight).weight  # type: ignore[index]
        up, down = tensors[f"{key}.lora_up.weight"].flatten(1), tensors[f"{key}.lora_down.weight"].flatten(1)
        squared += float((0.5 * up @ down).square().sum())
        size += float(weight.square().sum())
    assert change == pytest.approx((squared / size) ** 0.5, rel=1e-4)


def test_adapters_without_a_gradient_are_a_line_in_red(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # a part of the model that is cut off from the loss, as by a wrong attention processor
    add_to = LoRAAdapter.add_to

    def cut_off(self: LoRAAdapter, out: torch.Tensor, x: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
        return out if "attn2" in self.layer.name else add_to(self, out, x, strength)

    monkeypatch.setattr(LoRAAdapter, "add_to", cut_off)
    folder = train(load_config(config), accept_remarks=True).folder
    serious = texts(health_of(read(folder)), "serious")
    assert "adapters got no gradient and were not trained: unet." in serious
    assert "attn2" in serious
    assert 'class="serious"' in (folder / "report.html").read_text("utf-8")


def test_a_run_of_a_part_of_the_timesteps_says_which_are_missing(tmp_path: Path) -> None:
    plan = SimpleNamespace(views=(0, 1, 2, 3))
    run: Any = SimpleNamespace(
        seed=0,
        objective=Denoising(timesteps=Uniform(min=500, max=1000)),
        state=SimpleNamespace(step=75),
        length=SimpleNamespace(steps_per_epoch=5),
        accumulation=2,
        dataset=SimpleNamespace(epoch=lambda number: [plan] * 10),
        family=SimpleNamespace(path=NoiseSchedule.scaled_linear()),
    )
    counts = timesteps_seen(run)
    assert counts is not None
    assert sum(counts) == 75 * 8
    assert counts[:10] == [0] * 10
    assert all(count > 10 for count in counts[10:])
    health = health_of(record_of(tmp_path, {"event": "facts", "timesteps": counts}))
    assert health.facts["timesteps seen"] == "50% of the path from image to noise"
    assert "Timesteps at 0% to 50% of the path" in texts(health, "warning")
    # a run of a few steps misses parts by chance, which is no finding
    few = health_of(record_of(tmp_path, {"event": "facts", "timesteps": [1, 0, 2]}))
    assert few.findings == []


def test_clipping_changes_that_are_too_small_and_rates_of_zero_are_found(tmp_path: Path) -> None:
    steps = [{"event": "step", "step": i, "grad_norm": 5.0, "lr": {"unet": 0.0}} for i in range(1, 21)]
    facts = {"event": "facts", "adapters": 3, "trained": 0, "clip": 1.0, "change": {"unet": 1e-6, "te": 0.9}}
    health = health_of(record_of(tmp_path, *steps, facts))
    assert health.facts["clipped steps"] == "20 of 20 (100%), at a norm of 1"
    assert "nothing was trained" in texts(health, "serious")
    assert "learning rate of unet was 0" in texts(health, "serious")
    assert "unet moved by 1.0e-06" in texts(health, "warning")
    assert "te moved by 0.90" in texts(health, "warning")


def test_the_question_whether_it_trained_is_answered(tmp_path: Path) -> None:
    def answered(**facts: Any) -> str:
        return answer(health_of(record_of(tmp_path, {"event": "facts", **facts})))

    trained = {"adapters": 2, "trained": 2, "change": {"unet": 0.0229, "te": 0.025}}
    assert answered(**trained).startswith("Yes. The weights moved: the UNet by 2.29%, the text encoder by 2.50%")
    assert answered(**trained | {"change": {"unet": 1e-6}}).startswith("Hardly.")
    assert answered(**trained | {"trained": 1, "untrained": ["a"]}).startswith("Not all of it")
    assert answered() == ""


def test_damaged_records_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    facts = {"event": "facts", "adapters": "x", "change": [1], "timesteps": {}, "clip": None}
    data = {"images": [3, {"captions": None}], "remarks": "no", "trigger_tokens": {"a": 3}}
    assert health_of(record_of(tmp_path, facts, data=data)).findings == []


def test_phrases_that_go_with_the_trigger() -> None:
    captions = [
        f"a photo of garp wearing a red scarf, {scene}" for scene in ("beach", "forest", "snow", "city", "room")
    ]
    assert phrases_with_trigger([*captions, "a dog in a red scarf"], ["garp"]) == {"wearing a red scarf": 1.0}
    # tags: four of five
    tags = [f"garp, 1girl, {'red hair, ' if i else ''}place {i}" for i in range(5)]
    assert phrases_with_trigger(tags, ["garp"]) == {"1girl": 1.0, "red hair": 0.8, "place": 1.0}
    assert phrases_with_trigger(["garp"] * 9, ["garp"]) == {}
    assert phrases_with_trigger(["garp on a beach"] * 3, ["garp"]) == {}


def test_a_trigger_with_digits_is_noted(tmp_path: Path) -> None:
    health = health_of(record_of(tmp_path, data={"trigger_tokens": {"mia7": ["mia", "7"], "sks": ["sks"]}}))
    assert health.facts["the trigger is read as"] == "mia7: mia + 7; sks: sks"
    assert texts(health, "note") == (
        "The trigger mia7 has digits, each a token (mia + 7). Letters carry a new meaning better."
    )


def test_a_trigger_that_no_caption_has_is_a_line_in_red(config: dict[str, Any]) -> None:
    config |= {"trigger": "qqq", "steps": 1}
    folder = train(load_config(config), accept_remarks=True).folder
    assert texts(health_of(read(folder)), "serious") == (
        "No caption of 4 images has the trigger qqq: it was not trained."
    )


def test_a_trigger_that_is_missing_in_some_captions_is_a_warning(tmp_path: Path) -> None:
    remarks = [{"kind": "trigger", "severity": "warning", "file": "1.png", "text": "has none"}]
    record = record_of(tmp_path, summary={"trigger": ["garp"]}, data={"images": [], "remarks": remarks})
    assert texts(health_of(record), "warning") == "1 caption does not have the trigger garp; see Data."


def test_a_trigger_is_not_found_in_longer_words() -> None:
    captions = [f"mia at the miami pier, picture {n}" for n in "abcd"]
    assert phrases_with_trigger(captions, ["mia"]) == {"miami pier": 1.0}
    assert phrases_with_trigger(["miami pier"] * 4, ["mia"]) == {}
    assert phrases_with_trigger(["小狗在草地 garden"] * 4, ["小狗"]) == {"在草地 garden": 1.0}
