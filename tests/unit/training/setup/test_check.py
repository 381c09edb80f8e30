"""`check`: says what a run then does, finds every problem, loads no weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lorasmith
from lorasmith.cli.check import print_result
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.doctor import Finding
from lorasmith.training.setup.build import build_run


@pytest.fixture
def base(random_base: Callable[..., Path]) -> str:
    return str(random_base("sd1"))


@pytest.fixture
def table(base: str, pictures: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    return {
        "base": base,
        "output": str(tmp_path / "run"),
        "trigger": ["garp"],
        "epochs": 3,
        "data": {"images": str(pictures(7)), "resolution": 64, "batch_size": 2, "validation": {"split": 0.3}},
        "adapter": {"rank": 4, "alpha": 2, "layers": "full", "overrides": [{"layers": "*mid_block*", "rank": 1}]},
        "optimizer": {"lr": 1e-3, "text_lr": 1e-4},
    }


@pytest.mark.slow
def test_it_says_what_the_run_then_is(table: dict[str, Any], tmp_path: Path) -> None:
    found = lorasmith.check(table)
    assert found.ok
    assert not (tmp_path / "run").exists()
    run = build_run(load_config(table))
    run.events.close()
    for component in ("unet", "te"):
        adapters = [a for a in run.adapters.adapters.values() if a.layer.component == component]
        assert found.adapter["layers"][component] == len(adapters)
        trained = sum(p.numel() for p in run.adapters.parameters(component))
        assert found.adapter["parameters"][component] == trained
    assert found.length["steps"] == run.length.steps
    assert found.length["epochs"] == 3
    assert found.data["images"] == len(run.dataset.records)
    assert found.data["validation"] == len(run.dataset.validation) > 0
    run.adapters.detach()


def test_the_effective_rate_is_scaled_by_alpha_over_rank(table: dict[str, Any]) -> None:
    rates = lorasmith.check(table).rates
    assert rates["unet"] == {"lr": 1e-3, "scale": 0.5, "effective": 5e-4}
    assert rates["te"]["effective"] == pytest.approx(5e-5)


def test_a_part_that_is_not_trained_has_no_layers(table: dict[str, Any]) -> None:
    found = lorasmith.check(table, overrides=["optimizer.text_lr=0"])
    assert set(found.adapter["layers"]) == {"unet"}


def test_one_fault_does_not_hide_another(table: dict[str, Any], tmp_path: Path) -> None:
    images = Path(table["data"]["images"])
    (images / "03.png").write_bytes(b"")
    found = lorasmith.check(table, overrides=["base=no-such-base", f"output={tmp_path}"])
    assert not found.ok
    assert [p.where for p in found.errors if "03.png" in p.where]
    assert [p for p in found.errors if p.where == "base" and "no-such-base" in p.found]


def test_problems_of_the_config_are_in_the_answer(table: dict[str, Any]) -> None:
    found = lorasmith.check(table, overrides=["adapter.ranc=3", "epochs=0"])
    assert {p.where for p in found.errors} == {"adapter.ranc", "epochs"}
    assert found.to_dict()["ok"] is False


def test_a_layer_choice_that_fits_nothing_is_an_error(table: dict[str, Any]) -> None:
    found = lorasmith.check(table, overrides=["adapter.layers=atention"])
    assert [p.where for p in found.errors] == ["adapter.layers"]


def test_validation_without_images_is_a_warning(table: dict[str, Any]) -> None:
    found = lorasmith.check(table, overrides=["validation.every_epochs=1", "data.validation.split=0"])
    assert found.ok
    assert "validation" in [p.where for p in found.warnings]


def test_a_scorer_that_is_not_there_is_found_before_anything_is_written(
    table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorasmith.evaluation.pretrained.hub_is_reachable", lambda: False)
    scorer = {"kind": "clip", "model": str(tmp_path / "none")}
    table["hooks"] = [{"kind": "scores", "class_word": "dog", "scorer": scorer}]
    (error,) = lorasmith.check(table).errors
    assert error.where == "hooks"
    assert "no CLIP model can be loaded" in error.found
    with pytest.raises(LorasmithError, match="no CLIP model can be loaded"):
        lorasmith.train(table)
    assert not (Path(table["output"]) / "config.toml").exists()


def test_a_run_in_the_way_is_a_warning(
    table: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.toml").touch()
    found = lorasmith.check(table)
    assert found.ok
    assert [p.where for p in found.warnings if "already holds a run" in p.found] == ["output"]
    print_result(found)
    assert "A run would start with another output" in " ".join(capsys.readouterr().out.split())


def test_measuring_makes_real_steps_and_leaves_nothing(table: dict[str, Any], tmp_path: Path) -> None:
    found = lorasmith.check(table, measure=True)
    assert found.measured is not None
    assert found.measured.hours * 3600 == pytest.approx(found.measured.seconds_per_step * found.length["steps"])
    assert found.measured.peak_memory > 50 << 20
    assert found.measured.loss is not None
    assert not (tmp_path / "run").exists()


def test_remarks_on_images_come_even_where_another_cannot_be_read(table: dict[str, Any]) -> None:
    images = Path(table["data"]["images"])
    (images / "03.png").write_bytes(b"")
    (images / "02.txt").write_text("a photo of something")
    (images / "05.txt").unlink()
    found = lorasmith.check(table, overrides=["data.validation.split=0"])
    assert [Path(p.where).name for p in found.errors] == ["03.png"]
    assert {(p.path.name, p.kind) for p in found.images} >= {("02.png", "trigger"), ("images", "no_caption")}
    assert found.data["images"] == 6


@pytest.mark.slow_except("model.*")
@pytest.mark.parametrize("missing", ["first_stage_model.", "cond_stage_model.", "model.diffusion_model.middle_block.2"])
def test_an_incomplete_base_is_an_error_as_in_training(missing: str, table: dict[str, Any], tmp_path: Path) -> None:
    base = Path(f"{table['base']}.safetensors")
    with safe_open(base, "pt") as file:
        metadata = file.metadata()
    cut = {name: tensor for name, tensor in load_file(base).items() if not name.startswith(missing)}
    save_file(cut, tmp_path / "cut.safetensors", metadata)
    table["base"] = str(tmp_path / "cut.safetensors")

    errors = lorasmith.check(table).errors
    assert [problem.where for problem in errors] == ["base"]
    with pytest.raises(LorasmithError) as raised:
        build_run(load_config(table))
    assert str(raised.value) == errors[0].found
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["a:b", "what?", "a*b", "a/b", "tab\t", "..", "x" * 256, "ü" * 128])
def test_names_that_no_file_system_takes(name: str, table: dict[str, Any]) -> None:
    assert [problem.where for problem in lorasmith.check(table | {"name": name}).errors] == ["name"]
    with pytest.raises(ConfigError, match="name: "):
        load_config(table | {"name": name})


def test_the_name_of_the_output_folder_is_checked_too(table: dict[str, Any], tmp_path: Path) -> None:
    odd = str(tmp_path / "12:30")
    errors = lorasmith.check(table | {"output": odd}).errors
    assert [problem.where for problem in errors] == ["name"]
    assert "the name of the output folder" in errors[0].found
    assert lorasmith.check(table | {"output": odd, "name": "mia"}).errors == []


@pytest.mark.slow_except("file", "read-only")
@pytest.mark.parametrize("kind", ["file", "below a file", "dangling link", "long", "read-only"])
def test_an_output_that_cannot_be_made_is_an_error(
    kind: str, table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    outputs = {"file": "file", "below a file": "file/run", "dangling link": "link/run", "long": "x" * 300 + "/run"}
    if kind == "read-only":  # root may write everywhere
        monkeypatch.setattr("os.access", lambda path, mode: False)
    output = tmp_path / outputs.get(kind, "run")
    errors = lorasmith.check(table | {"output": str(output), "name": "mia"}).errors
    assert [problem.where for problem in errors] == ["output"]


def test_the_device_is_named(table: dict[str, Any]) -> None:
    assert lorasmith.check(table | {"device": "cpu"}).device.startswith("cpu (")
    assert [p.where for p in lorasmith.check(table | {"device": "gpu"}).errors] == ["device"]


def test_a_cpu_beside_a_gpu_is_a_warning(table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("gpu", "there is an NVIDIA GPU, but this torch is built for the CPU only", "problem", "install")
    monkeypatch.setattr("lorasmith.training.doctor.explain_missing_device", lambda *_: finding)
    monkeypatch.setattr("lorasmith.training.setup.setting_remarks.pick_device", lambda _: torch.device("cpu"))
    assert [p.found for p in lorasmith.check(table).warnings if p.where == "device"] == [finding.value]
    assert not [p for p in lorasmith.check(table | {"device": "cpu"}).warnings if p.where == "device"]
