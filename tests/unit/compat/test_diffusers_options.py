"""Options of diffusers' scripts: defaults of the originals, the hub, layers and weight decay."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorasmith.compat.script import Conversion, all_scripts, find_script
from lorasmith.core.config import to_toml
from lorasmith.families.base import Family
from lorasmith.training.config import TrainConfig, load_config

Run = Callable[..., Conversion]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Converts a command line of a DreamBooth script, with a folder of one picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "dog" / "0.png")

    def convert(script: str, *more: str) -> Conversion:
        chosen = find_script(script)
        start = ["--pretrained_model_name_or_path=x", "--instance_data_dir=dog", "--instance_prompt=a TOK dog"]
        return chosen.convert(chosen.parse([*start, "--output_dir=models/garp", *more]))

    return convert


@pytest.mark.parametrize(
    ("script", "defaults"),
    [
        ("train_custom_diffusion", {"num_class_images": 200, "validation_steps": 50}),
        ("train_dreambooth_lora", {"num_class_images": 100, "learning_rate": 5e-4, "adam_weight_decay": 1e-2}),
        ("train_dreambooth_lora_sdxl", {"adam_weight_decay_text_encoder": 1e-3, "adam_weight_decay": 1e-4}),
        ("train_dreambooth_lora_sd15_advanced", {"adam_weight_decay_text_encoder": None, "resolution": 512}),
        ("train_dreambooth_lora_sdxl_advanced", {"adam_weight_decay_text_encoder": None, "resolution": 1024}),
    ],
)
def test_defaults(script: str, defaults: dict[str, Any]) -> None:
    options = {option.name: option.default for option in all_scripts()[script].options}
    assert {name: options[name] for name in defaults} == defaults


def test_an_upload_has_the_names_of_the_original(run: Run) -> None:
    found = run("train_dreambooth_lora", "--push_to_hub", "--hub_token=hf_very_secret", "--hub_model_id=me/garp-lora")
    card, hook = found.config["hooks"]
    assert (card["kind"], card["repo"], card["prompt"]) == ("model_card", "me/garp-lora", "a TOK dog")
    assert (hook["kind"], hook["repo"], hook["public"]) == ("upload", "me/garp-lora", True)
    assert hook["names"] == {"garp.peft.safetensors": "pytorch_lora_weights.safetensors"}
    assert found.secrets == {"HF_TOKEN": "hf_very_secret"}
    assert "secret" not in to_toml(found.config) + repr(found) + " ".join(found.notes)
    load_config(found.config)


def test_without_a_name_the_repository_is_called_like_the_folder(run: Run) -> None:
    hooks = run("train_dreambooth_lora", "--push_to_hub").config["hooks"]
    assert [hook["repo"] for hook in hooks] == ["garp", "garp"]
    hooks = run("train_dreambooth_lora", "--hub_model_id=me/x").config["hooks"]
    assert [hook["kind"] for hook in hooks] == ["model_card"], "nothing is uploaded without --push_to_hub"


@pytest.mark.parametrize("script", [s.name for s in all_scripts().values() if s.origin == "diffusers"])
def test_every_script_can_upload(script: str) -> None:
    states = {option.name: option.state for option in all_scripts()[script].options}
    assert states["push_to_hub"] == states["hub_token"] == "improved"


def test_the_text_encoders_weight_decay(run: Run) -> None:
    trained = run("train_dreambooth_lora_sdxl", "--train_text_encoder").config
    assert load_config(trained).optimizer.text_weight_decay == 1e-3
    assert "text_weight_decay" not in run("train_dreambooth_lora_sdxl").config["optimizer"]
    for script in ("train_dreambooth_lora_sd15_advanced", "train_dreambooth_lora_sdxl_advanced"):
        assert "text_weight_decay" not in run(script, "--train_text_encoder").config["optimizer"]
        (concept,) = run(script, "--train_text_encoder_ti").config["concepts"]
        assert concept["weight_decay"] == 1e-4
        (concept,) = run(script, "--train_text_encoder_ti", "--adam_weight_decay_text_encoder=0.1").config["concepts"]
        assert concept["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "blocks"),
    [
        (["--use_blora"], ["up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]),
        (
            ["--lora_unet_blocks=unet.up_blocks.0.attentions.1, unet.mid_block"],
            ["up_blocks.0.attentions.1", "mid_block"],
        ),
        (
            ["--use_blora", "--lora_unet_blocks=unet.mid_block"],
            ["up_blocks.0.attentions.0", "up_blocks.0.attentions.1"],
        ),
    ],
)
def test_blocks_of_the_unet(run: Run, loaded: Callable[[str], Family], arguments: list[str], blocks: list[str]) -> None:
    """Exactly the four projections of every attention in these blocks, and the text encoders' attention."""
    patterns = run("train_dreambooth_lora_sdxl_advanced", *arguments).config["adapter"]["layers"]
    names = list(loaded("sdxl").named_layers(("unet", "te1", "te2")))
    chosen = {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    projections = ("to_q", "to_k", "to_v", "to_out.0")
    expected = {
        name
        for name in names
        if name.startswith("unet.") and name.endswith(projections) and any(block in name for block in blocks)
    }
    assert {name for name in chosen if name.startswith("unet.")} == expected
    assert expected
    assert any(name.startswith("te2.") for name in chosen)


def test_clip_skip_counts_skipped_layers(run: Run) -> None:
    assert run("train_dreambooth_lora_sd15_advanced", "--clip_skip=1").config["text"] == {"clip_skip": 2}
    assert run("train_dreambooth_lora_sdxl_advanced", "--clip_skip=1").config["text"] == {"clip_skip": 3}
    assert isinstance(load_config(run("train_dreambooth_lora_sdxl_advanced").config), TrainConfig)


@pytest.mark.parametrize("form", ["sd15", "sdxl"])
def test_new_tokens_have_one_file_and_are_drawn(form: str, run: Run) -> None:
    """The original's previews and model card have the new tokens in place of TOK."""
    words = ["--train_text_encoder_ti", "--validation_prompt=a TOK dog at sea", "--num_validation_images=1"]
    config = run(f"train_dreambooth_lora_{form}_advanced", *words).config
    load_config(config)
    assert config["preview"]["prompts"] == ["a <s0><s1> dog at sea --d 0"]
    tokens, card = config["hooks"]
    assert (tokens["kind"], card["prompt"]) == ("joined_words", "a <s0><s1> dog")
    loads = [line for line in card["usage"] if "textual_inversion" in line]
    assert len(loads) == {"sd15": 1, "sdxl": 2}[form]
    assert "garp_emb.safetensors" in "".join(card["usage"])
    without = run(f"train_dreambooth_lora_{form}_advanced").config
    assert [hook["kind"] for hook in without["hooks"]] == ["model_card"]
