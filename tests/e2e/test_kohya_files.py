"""Files and states of sd-scripts: their names, their places, which stay, and going on from any of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from answers import Program, assert_clear
from safetensors.torch import load_file

from lorasmith.training.step import loop
from tests.garp import copy_photos

TRAIN = ["as", "train_network", "--pretrained_model_name_or_path=tiny-sd", "--train_data_dir=img", "--resolution=64"]
TRAIN += ["--network_module=networks.lora", "--network_dim=2", "--learning_rate=1e-3", "--seed=1"]
TRAIN += ["--output_dir=out", "--output_name=x", "--lr_scheduler=cosine", "--flip_aug", "--network_dropout=0.1"]
SAVING = ["--save_every_n_epochs=1", "--save_every_n_steps=2", "--save_state"]
"""Three images are three steps an epoch."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy_photos(tmp_path / "img/1_garp", 0, 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "out").iterdir()}


def with_states(*names: str) -> set[str]:
    return {f"{name}.safetensors" for name in names} | {f"{name}-state" for name in names}


def assert_equal(first: Path, second: Path) -> None:
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(t.abs().max() > 0 for key, t in one.items() if key.endswith("lora_up.weight"))


@pytest.mark.slow
def test_names_and_going_on_from_an_older_state(folder: Path, here: Program) -> None:
    """The names are the original's: no file of the last epoch, one of the last step if its turn is there."""
    command = [*TRAIN, *SAVING, "--max_train_steps=8"]
    assert here(*command).code == 0
    made = with_states("x", "x-000001", "x-000002", *(f"x-step{n:08d}" for n in (2, 4, 6, 8)))
    assert names(folder) == made | {"x"}
    position = json.loads((folder / "out/x-step00000004-state/train_state.json").read_text())
    assert position == {"current_epoch": 2, "current_step": 4}
    shown = (folder / "out/x/report.html").read_text()
    assert "../x.safetensors" in shown
    assert "../x-000001.safetensors" in shown

    whole = folder / "whole"
    (folder / "out").rename(whole)
    (folder / "out").mkdir()
    shutil.copytree(whole / "x", folder / "out/x")
    shutil.copytree(whole / "x-000001-state", folder / "out/x-000001-state")
    answer = here(*command, "--resume=out/x-000001-state")
    assert answer.code == 0, answer.err
    assert "continuing from step 3" in answer.err
    assert "put aside: step-00000008" in answer.err
    later = with_states("x", "x-000002", *(f"x-step{n:08d}" for n in (4, 6, 8)))
    assert names(folder) == later | {"x", "x-000001-state"}
    for name in ("x", "x-000002", "x-step00000004"):
        assert_equal(whole / f"{name}.safetensors", folder / f"out/{name}.safetensors")
    events = [json.loads(line) for line in (folder / "out/x/events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 9))


@pytest.mark.slow
def test_a_state_goes_on_under_another_name_and_for_longer(folder: Path, here: Program) -> None:
    """Without its run, too: it holds all that is needed."""
    assert here(*TRAIN, "--max_train_steps=4", "--save_state_on_train_end", "--lr_scheduler=constant").code == 0
    assert names(folder) == with_states("x") | {"x"}
    assert here(*TRAIN, "--max_train_steps=6", "--output_name=whole", "--lr_scheduler=constant").code == 0
    shutil.rmtree(folder / "out/x")
    more = ["--max_train_steps=6", "--output_name=y", "--lr_scheduler=constant"]
    assert here(*TRAIN, *more, "--resume=out/x-state").code == 0
    assert_equal(folder / "out/whole.safetensors", folder / "out/y.safetensors")
    steps = [json.loads(line) for line in (folder / "out/y/events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in steps if e["event"] == "step"] == [5, 6]
    other = here(*TRAIN, *more, "--resume=out/x-state", "--network_dim=3", "--output_name=z")
    assert_clear(other, "x-state", "another adapter")


@pytest.mark.slow
def test_old_files_and_states_go(folder: Path, here: Program) -> None:
    few = ["--save_last_n_epochs=1", "--save_last_n_steps=2", "--save_last_n_steps_state=1"]
    (folder / "out").mkdir()
    (folder / "out/x-000077.safetensors").write_bytes(b"of another run")
    assert here(*TRAIN, *SAVING, *few, "--max_train_steps=8").code == 0
    files = {"x.safetensors", "x-000002.safetensors", "x-step00000006.safetensors", "x-step00000008.safetensors"}
    states = {"x-state", "x-000002-state", "x-step00000008-state"}
    assert names(folder) == files | states | {"x", "x-000077.safetensors"}


@pytest.mark.slow
def test_files_stand_there_when_a_run_is_killed(folder: Path, here: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.train_step

    def dies(run: Any, *rest: Any) -> Any:
        if run.state.step == 5:
            raise SystemExit(9)
        return original(run, *rest)

    monkeypatch.setattr(loop, "train_step", dies)
    assert here(*TRAIN, *SAVING, "--max_train_steps=8").code == 9
    assert names(folder) == with_states("x-000001", "x-step00000002", "x-step00000004") | {"x"}
    monkeypatch.setattr(loop, "train_step", original)
    assert here(*TRAIN, *SAVING, "--max_train_steps=8", "--resume=out/x-step00000004-state").code == 0
    assert (folder / "out/x.safetensors").is_file()


def test_pickles_hold_the_tensors_alone(folder: Path, here: Program) -> None:
    more = ["--save_model_as=pt", "--save_precision=fp16", "--save_every_n_steps=1", "--max_train_steps=2"]
    answer = here(*TRAIN, *more)
    assert answer.code == 0, answer.err
    assert "out/x.pt" in answer.err
    assert names(folder) == {"x.pt", "x-step00000001.pt", "x-step00000002.pt", "x"}
    found, expected = torch.load("out/x.pt", weights_only=True), load_file("out/x/x.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert {t.dtype for t in found.values() if t.dim()} == {torch.float16}


@pytest.mark.slow
def test_a_run_begins_in_the_middle(folder: Path, here: Program) -> None:
    """From a file it ends with the weights of the uninterrupted run, where the optimizer remembers nothing: data,
    noise, dropouts, rates and numbers are those of its place in the run."""

    def steps(name: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in (folder / f"out/{name}/events.jsonl").read_text().splitlines()]
        return [{key: e[key] for key in ("step", "epoch", "lr", "samples")} for e in events if e["event"] == "step"]

    plain = ["--optimizer_type=SGD", "--learning_rate=0.1", "--max_train_steps=8"]
    assert here(*TRAIN, *SAVING, *plain).code == 0
    more = [*plain, "--network_weights=out/x-step00000004.safetensors", "--output_name=y"]
    answer = here(*TRAIN, *more, "--initial_step=4", "--save_every_n_epochs=1")
    assert answer.code == 0, answer.err
    assert steps("y") == steps("x")[4:]
    assert {n for n in names(folder) if n.startswith("y")} == {"y", "y.safetensors", "y-000002.safetensors"}
    assert_equal(folder / "out/x.safetensors", folder / "out/y.safetensors")
    late = here(*TRAIN, *more, "--initial_epoch=4")
    assert_clear(late, "first_epoch: step 9 is not within the run, which has 8 steps")


@pytest.mark.slow
def test_pictures_stand_where_the_original_has_them(folder: Path, here: Program) -> None:
    (folder / "p.txt").write_text("garp --w 64 --h 64 --s 2 --d 5\na dog --w 64 --h 64 --s 2\n")
    more = ["--sample_prompts=p.txt", "--sample_every_n_epochs=1", "--sample_at_first", "--max_train_steps=3"]
    assert here(*TRAIN, *more).code == 0
    found = sorted(path.name for path in (folder / "out/sample").iterdir())
    assert [re.sub(r"_\d{14}_", "_TIME_", name) for name in found] == [
        "x_e000000_00_TIME_5.png",
        "x_e000000_01_TIME_0.png",
        "x_e000001_00_TIME_5.png",
        "x_e000001_01_TIME_0.png",
    ]
    first = folder / "out/x/previews/step-00000003/00.png"
    assert (folder / "out/sample" / found[2]).read_bytes() == first.read_bytes()


def test_the_data_are_shown_in_place_of_training(folder: Path, here: Program) -> None:
    answer = here(*TRAIN, "--max_train_steps=3", "--debug_dataset")
    assert answer.code == 0, answer.err
    assert "first batches: out/x-dataset.jpg" in answer.err
    assert names(folder) == {"x-dataset.jpg"}
    (folder / "img/1_garp/bad.png").write_bytes(b"no picture")
    assert_clear(here(*TRAIN, "--max_train_steps=3", "--debug_dataset"), "bad.png")


@pytest.mark.slow
def test_hub_and_tracker(folder: Path, here: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hub that is a folder: files go up as they are made, and a run goes on from there, elsewhere."""
    logged: list[dict[str, Any]] = []

    class Hub:
        def __init__(self, token: str | None) -> None:
            assert token == "hf_secret"

        def create_repo(self, repo_id: str, **more: Any) -> None: ...

        def upload_file(self, *, path_or_fileobj: Path, path_in_repo: str, **more: Any) -> None:
            (folder / "hub").mkdir(exist_ok=True)
            shutil.copyfile(path_or_fileobj, folder / "hub" / path_in_repo)

        def upload_folder(self, *, folder_path: Path, path_in_repo: str, **more: Any) -> None:
            shutil.copytree(folder_path, folder / "hub" / path_in_repo)

    class Tracker:
        id, __spec__ = "abc", ModuleSpec("wandb", None)
        define_metric = finish = init = Image = lambda self, *names, **more: self

        def log(self, values: dict[str, Any]) -> None:
            logged.append(values)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **more: str(folder / "hub"))
    monkeypatch.setitem(sys.modules, "wandb", Tracker())  # type: ignore[arg-type]
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "")
    more = ["--huggingface_repo_id=me/x", "--huggingface_token=hf_secret", "--save_state_to_huggingface"]
    more += ["--log_with=wandb", "--wandb_api_key=key_secret", "--log_config", "--max_train_steps=5"]
    answer = here(*TRAIN, *SAVING[:1], "--save_state", *more)
    assert answer.code == 0, answer.err
    assert {path.name for path in (folder / "hub").iterdir()} == with_states("x", "x-000001")
    assert [v["step"] for v in logged] == [1, 2, 3, 4, 5]
    assert os.environ["WANDB_API_KEY"] == "key_secret"
    kept = [p for p in folder.rglob("*") if p.is_file() and p.suffix in (".toml", ".json", ".jsonl", ".html")]
    assert not any("_secret" in path.read_text() for path in kept)
    assert "_secret" not in answer.out + answer.err

    shutil.move(folder / "out", folder / "first")
    answer = here(*TRAIN, "--max_train_steps=5", "--resume=me/x/x-000001-state", "--resume_from_huggingface")
    assert answer.code == 0, answer.err
    assert "continuing from step 3" in answer.err
    assert_equal(folder / "first/x.safetensors", folder / "out/x.safetensors")
