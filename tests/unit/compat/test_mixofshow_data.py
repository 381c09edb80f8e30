"""What becomes of the transforms, masks and losses of Mix-of-Show's YAML."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorasmith.compat.mixofshow.reading import flatten
from lorasmith.compat.script import Conversion, find_script
from lorasmith.training.config import load_config

Convert = Callable[..., Conversion]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Converts values of the YAML, by their keys; the result must be a config of ours."""
    monkeypatch.chdir(tmp_path)
    for folder in ("image", "mask"):
        (tmp_path / folder).mkdir()
        Image.new("L", (16, 16)).convert("RGB" if folder == "image" else "L").save(tmp_path / folder / "0.png")
    entry = {"instance_prompt": "<TOK>", "instance_data_dir": "image", "mask_dir": "mask"}
    (tmp_path / "list.json").write_text(json.dumps([entry]))

    def run(*transforms: Any, **values: Any) -> Conversion:
        given = {
            "name": "x",
            "datasets.train.concept_list": "list.json",
            "datasets.train.instance_transform": list(transforms),
            "models.pretrained_path": "tiny-sd",
            "models.new_concept_token": "<a1>+<a2>",
            "models.initializer_token": "<rand-0.013>+robot",
            "models.finetune_cfg.unet": {
                "enable_tuning": True,
                "lr": 1e-4,
                "lora_cfg": {"rank": 4, "where": "Attention"},
            },
        } | {key.replace("__", "."): value for key, value in values.items()}
        script = find_script("train_edlora")
        conversion = script.convert(script.read(flatten(given), []))
        load_config(conversion.config)
        return conversion

    return run


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"type": "HumanResizeCropFinalV3", "size": 128, "crop_p": 0.3}, {"crop": 0.3, "upper": True}),
        (
            {"type": "ResizeFillMaskNew", "size": 128, "crop_p": 0.5, "scale_ratio": [0.4, 1]},
            {"crop": 0.5, "upper": False, "scale": [0.4, 1.0]},
        ),
        ("HumanResizeCropFinalV3", {"crop": 0.5, "upper": True}),
    ],
)
def test_the_composite_transforms(convert: Convert, transform: Any, expected: dict[str, Any]) -> None:
    data = convert(transform, {"type": "ToTensor"}).config["data"]
    assert data["transforms"] == [{"kind": "letterbox", "kept": 0, **expected}]
    assert data["buckets"] == {"enabled": False}
    assert data["resolution"] == (128 if isinstance(transform, dict) else 512)
    assert "buckets" not in convert({"type": "PairRandomCrop", "size": 128}).config["data"]


@pytest.mark.parametrize(
    ("use_mask", "use_mask_loss", "expected"),
    [(True, True, ("mask", True)), (True, False, ("mask", False)), (False, True, (None, None))],
)
def test_masks(convert: Convert, use_mask: bool, use_mask_loss: bool, expected: tuple[Any, Any]) -> None:
    values = {"datasets__train__use_mask": use_mask, "models__use_mask_loss": use_mask_loss}
    (subset,) = convert("HumanResizeCropFinalV3", **values).config["data"]["subsets"]
    assert (subset.get("masks"), subset.get("masks_weigh")) == expected


def test_the_terms_weigh_as_in_the_original(convert: Convert) -> None:
    objective = convert(models__attn_reg_weight=0.01, models__reg_full_identity=False).config["objective"]
    assert objective["mask_mean"] == "channel_sum"
    (part,) = objective["parts"]
    assert (part["weight"], part["full_identity"], part["maximum"]) == (0.01, False, "batch")


def test_pictures_while_training_are_those_of_the_original(convert: Convert) -> None:
    values = {
        "datasets__val_vis__prompts": ["photo of a <TOK>"],
        "datasets__val_vis__replace_mapping": {"<TOK>": "<a1> <a2>"},
        "datasets__val_vis__num_samples_per_prompt": 8,
        "datasets__val_vis__latent_size": [4, 64, 48],
        "val__alpha_list": [0, 0.7, 1.0],
        "logger__save_checkpoint_freq": 500,
    }
    preview = convert(**values).config["preview"]
    assert (preview["seed"], preview["count"], preview["strengths"]) == (1, 8, [0.0, 0.7, 1.0])
    assert preview["prompts"] == ["photo of a <a1> <a2>"]
    assert (preview["width"], preview["height"], preview["every_steps"]) == (384, 512, 500)
    assert preview["negative"].startswith("longbody, lowres")
    assert not preview["compare_base"]
    assert "preview" not in convert(**values, val__val_during_save=False).config


def test_keys_and_values_are_dropped_as_in_the_research_branch(convert: Convert) -> None:
    config = load_config(convert(train__unet_kv_drop_rate=0.2).config | {"output": "x"})
    rates = {
        name: config.adapter.for_layer(f"unet.mid_block.attentions.0.transformer_blocks.0.{name}")[0]
        for name in ("attn2.to_k", "attn2.to_v", "attn2.to_q", "attn1.to_k")
    }
    assert [own.module_dropout for own in rates.values()] == [0.2, 0.2, 0, 0]
    assert {(own.rank, own.alpha) for own in rates.values()} == {(4, 4.0)}  # type: ignore[attr-defined]
    plain = load_config(convert(train__unet_kv_drop_rate=0).config | {"output": "x"})
    assert not any(rule.module_dropout for rule in plain.adapter.overrides)
