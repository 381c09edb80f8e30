"""Every mistake of the user is one clear message and a non-zero exit, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from answers import Program, assert_clear
from safetensors.torch import save_file

Config = Callable[..., Path]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("adapter.ranc=4", ["adapter.ranc", "unknown key", 'did you mean "rank"?']),
        ("stepz=4", ["stepz", "unknown key", 'did you mean "steps"?']),
        ("adapter.rank=many", ["adapter.rank", '"many"', "a whole number"]),
        ("adapter.kind=lorra", ["lorra", "lora", 'did you mean "lora"?']),
        ("optimizer.lr=-1", ["optimizer.lr", "-1"]),
        ("epochs=4", ["steps and epochs"]),
        ("optimizer.lr=0", ["nothing would be trained", "optimizer"]),
        ("base=no-such-base", ["no-such-base", "no such file"]),
        ("base=model.ckpt", ["model.ckpt", "no such"]),
        ("adapter.layers=atention", ["atention", 'Did you mean "attention"?']),
        ("device=toaster", ["toaster", "cuda"]),
        ("steps", ['"steps"', "key=value"]),
    ],
)
def test_a_wrong_setting(here: Program, config: Config, tmp_path: Path, override: str, words: list[str]) -> None:
    path = config()
    assert_clear(here("train", path, override), *words)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_all_problems_of_a_config_come_together(here: Program, config: Config) -> None:
    answer = here("train", config(), "adapter.ranc=4", "optimizer.lr=-1", "data.batch_size=0")
    assert_clear(answer, "3 problems", "adapter.ranc", "optimizer.lr", "data.batch_size")


def test_a_config_that_is_not_there(here: Program, tmp_path: Path) -> None:
    assert_clear(here("train", tmp_path / "none.toml"), "none.toml", "no such file")
    assert_clear(here("check", tmp_path / "none.toml"), "none.toml", "no such file")


def test_a_config_that_is_not_toml(here: Program, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("base = \n")
    assert_clear(here("train", path), "bad.toml", "not valid TOML", "line 1")


def test_no_config_and_both(here: Program, config: Config, tmp_path: Path) -> None:
    assert_clear(here("train", "--output", tmp_path), "CONFIG.toml", "--resume")
    assert_clear(here("train", config(), "--resume", tmp_path), "leave out")


def test_resume_without_a_run(here: Program, tmp_path: Path) -> None:
    assert_clear(here("train", "--resume", tmp_path), "holds no run")


def test_images_that_are_not_there(here: Program, config: Config, tmp_path: Path) -> None:
    path = config(images=tmp_path / "nowhere")
    assert_clear(here("train", path), "nowhere", "does not exist")


def test_a_folder_without_images(here: Program, config: Config, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.md").write_text("none")
    assert_clear(here("train", config(images=empty)), "no images", str(empty))


@pytest.fixture
def broken(pictures: Callable[..., Path]) -> Path:
    """A folder where one image is cut off and one is empty."""
    folder = pictures(5, name="broken")
    cut = folder / "01.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (folder / "03.png").write_bytes(b"")
    return folder


def test_broken_images_are_named_before_the_first_step(
    here: Program, config: Config, broken: Path, tmp_path: Path
) -> None:
    path = config(images=broken)
    assert_clear(here("train", path), "2 problems", "01.png", "03.png", "empty", "data.skip_bad_images")
    assert not (tmp_path / "run").exists()
    answer = here("train", path, "data.skip_bad_images=true", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["finished"] is True


def test_an_output_that_is_a_file(here: Program, config: Config, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    assert_clear(here("train", config()), "is a file")


def test_json_of_an_error_holds_its_problems(here: Program, config: Config) -> None:
    answer = here("train", config(), "adapter.ranc=4", "--json")
    assert_clear(answer, "adapter.ranc")
    assert answer.json["problems"][0]["where"] == "adapter.ranc"


def test_inspect_of_what_is_no_lora(here: Program, tmp_path: Path) -> None:
    assert_clear(here("inspect", tmp_path / "none.safetensors"), "none.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    assert_clear(here("inspect", text), "text.safetensors")


def test_a_lora_of_another_family(here: Program, base: str, tmp_path: Path) -> None:
    path = tmp_path / "xl.safetensors"
    layer = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    tensors = {"lora_down.weight": torch.ones(2, 640), "lora_up.weight": torch.ones(640, 2), "alpha": torch.tensor(2.0)}
    save_file(
        {f"{layer}.{word}": tensor for word, tensor in tensors.items()},
        path,
        {"ss_base_model_version": "sdxl_base_v1-0"},
    )
    answer = here("sample", "--base", base, "--lora", path, "--prompt", "a dog", "--output", tmp_path / "out")
    assert_clear(answer, "xl.safetensors", "does not fit", "sdxl")
    assert not list((tmp_path / "out").glob("*.png"))


def test_wrong_usage_is_exit_2(here: Program) -> None:
    answer = here("train", "--no-such-option")
    assert answer.code == 2
    assert "Traceback" not in answer.err


def test_a_bug_of_ours_keeps_its_traceback(here: Program, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorasmith import api

    def broken_train(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(api, "train", broken_train)
    answer = here("train", config())
    assert answer.code == 70
    assert "Traceback" in answer.err
    assert "oops" in answer.err
    assert "bug in lorasmith" in answer.err
