"""What becomes of a whole YAML file of Mix-of-Show: notes, errors, references, files for its other scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from lorasmith.compat.mixofshow.interpolation import resolve
from lorasmith.compat.mixofshow.reading import flatten, read_yaml
from lorasmith.compat.prompt_templates import TEMPLATES
from lorasmith.compat.script import Action, Conversion, find_script
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.data.dataset import Dataset
from lorasmith.training.config import load_config
from lorasmith.training.setup.length import run_length

Write = Callable[..., Path]


def options() -> dict[str, Any]:
    """The keys of the files that come with Mix-of-Show."""
    lora = {"rank": 4, "alpha": 1.0}
    tokens = {"<TOK>": "<p1> <p2>"}
    return {
        "name": "potter",
        "manual_seed": 0,
        "mixed_precision": "fp16",
        "gradient_accumulation_steps": 1,
        "datasets": {
            "train": {
                "name": "LoraDataset",
                "concept_list": "list.json",
                "use_caption": True,
                "use_mask": True,
                "instance_transform": [
                    {"type": "HumanResizeCropFinalV3", "size": 512, "crop_p": 0.5},
                    {"type": "ToTensor"},
                    {"type": "Normalize", "mean": [0.5], "std": [0.5]},
                    {"type": "ShuffleCaption", "keep_token_num": 1},
                    {"type": "EnhanceText", "enhance_type": "human"},
                ],
                "replace_mapping": tokens,
                "batch_size_per_gpu": 2,
                "dataset_enlarge_ratio": 500,
            },
            "val_vis": {
                "name": "PromptDataset",
                "prompts": ["a <TOK>", "a man"],
                "num_samples_per_prompt": 8,
                "latent_size": [4, 64, 64],
                "replace_mapping": tokens,
                "batch_size_per_gpu": 4,
            },
        },
        "models": {
            "pretrained_path": "tiny-sd",
            "enable_edlora": True,
            "finetune_cfg": {
                "text_embedding": {"enable_tuning": True, "lr": 1e-3},
                "text_encoder": {"enable_tuning": True, "lora_cfg": {**lora, "where": "CLIPAttention"}, "lr": 1e-5},
                "unet": {"enable_tuning": True, "lora_cfg": {**lora, "where": "Attention"}, "lr": 1e-4},
            },
            "new_concept_token": "<p1>+<p2>",
            "initializer_token": "<rand-0.013>+robot",
            "noise_offset": 0.01,
            "attn_reg_weight": 0.01,
            "reg_full_identity": False,
            "use_mask_loss": True,
            "gradient_checkpoint": False,
            "enable_xformers": True,
        },
        "path": {"pretrain_network": None},
        "train": {
            "optim_g": {"type": "AdamW", "lr": 0.0, "weight_decay": 0.01, "betas": [0.9, 0.999]},
            "unet_kv_drop_rate": 0,
            "scheduler": "linear",
            "emb_norm_threshold": 0.55,
        },
        "val": {
            "val_during_save": True,
            "compose_visualize": True,
            "alpha_list": [0, 0.7, 1.0],
            "sample": {"num_inference_steps": 50, "guidance_scale": 7.5},
        },
        "logger": {"print_freq": 10, "save_checkpoint_freq": 10000.0},
    }


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the YAML with changes, by their dotted keys, and what it refers to."""
    monkeypatch.chdir(tmp_path)
    for folder in ("image", "mask"):
        (tmp_path / folder).mkdir()
        Image.new("L", (16, 16)).convert("RGB" if folder == "image" else "L").save(tmp_path / folder / "0.png")
    entry = {"instance_prompt": "<TOK>", "instance_data_dir": "image", "mask_dir": "mask"}
    (tmp_path / "list.json").write_text(json.dumps([entry]))

    def run(**changes: Any) -> Path:
        table = options()
        for key, value in changes.items():
            node: Any = table
            *parents, last = key.split("__")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        path = tmp_path / "potter.yml"
        path.write_text(yaml.safe_dump(table))
        return path

    return run


def converted(path: Path) -> Conversion:
    script = find_script("train_edlora")
    parsed = script.parse(["-opt", str(path)])
    conversion = script.convert(parsed)
    conversion.notes[:0] = parsed.warnings
    load_config(conversion.config)
    return conversion


def test_the_shipped_file_needs_no_note(write: Write) -> None:
    assert converted(write()).notes == []
    test: Any = find_script("test_edlora")
    assert isinstance(test, Action)
    assert test.parse(["-opt", str(write()), "--lora-path=x.pth"]).warnings == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"train__scheduler": "constant"}, "decreases linearly"),
        ({"train__unet_kv_drop_rate": 0.2}, "research branch"),
        ({"path__pretrain_network": "x.pth"}, "never read"),
        ({"models__attn_reg_wieght": 1}, 'did you mean "models.attn_reg_weight"'),
        ({"train__optim_g__amsgrad": True}, "train.optim_g.amsgrad is ignored"),
        ({"models__finetune_cfg__unet__lora_cfg__rnak": 8}, 'did you mean "models.finetune_cfg.unet.lora_cfg.rank"'),
    ],
)
def test_what_differs_from_what_was_asked_is_noted(write: Write, changes: dict[str, Any], text: str) -> None:
    (note,) = converted(write(**changes)).notes
    assert text in note


def test_values_that_were_lost(write: Write) -> None:
    transforms = options()["datasets"]["train"]["instance_transform"]
    transforms[0]["kept"] = 20
    path = write(
        train__optim_g={"type": "AdamW", "eps": 1e-6, "betas": [0.8, 0.9], "weight_decay": 0.1},
        datasets__train__instance_transform=transforms,
        datasets__val_vis__share_latent_across_prompt=False,
        mixed_precision="no",
    )
    config = converted(path).config
    optimizer = config["optimizer"]
    assert (optimizer["eps"], optimizer["betas"], optimizer["weight_decay"]) == (1e-6, [0.8, 0.9], 0.1)
    assert config["data"]["transforms"][1]["kept"] == 20
    assert config["preview"]["prompts"] == ["a <p1> <p2> --d 1", "a man --d 9"]
    assert config["precision"] == "fp32"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train__optim_g__type": "Lion"}, ("train.optim_g.type", "Lion", "AdamW")),
        ({"models__finetune_cfg__unet__lora_cfg__rank": "four"}, ("lora_cfg.rank", "four")),
        ({"models__finetune_cfg__unet__lora_cfg__where": "Attn"}, ("lora_cfg.where", "Transformer2DModel")),
        ({"datasets__val_vis__latent_size": [64, 64]}, ("latent_size", "[64, 64]")),
        ({"datasets__val_vis__latent_size": "big"}, ("latent_size", "big")),
        ({"val__sample__num_inference_steps": "many"}, ("num_inference_steps", "many")),
        ({"val__alpha_list": ["x"]}, ("alpha_list", "x")),
        ({"datasets__val_vis__prompts": 3}, ("prompts", "3")),
        ({"datasets__val_vis__prompts": "none.txt"}, ("prompts", "none.txt", "no such file")),
        ({"datasets__train__replace_mapping": "x"}, ("replace_mapping", "x")),
        ({"datasets__train__instance_transform": "x"}, ("instance_transform", "x")),
        ({"datasets__train__instance_transform": [{"type": "EnhanceText", "enhance_type": "humans"}]},
         ("instance_transform.0.enhance_type", "humans", "human")),
        ({"datasets__train__instance_transform": ["EnhanceTxt"]}, ("EnhanceTxt", "EnhanceText")),
        ({"datasets__train__instance_transform": [{"type": "ShuffleCaption", "keep_tokens": 2}]}, ("keep_tokens",)),
        ({"datasets__train__instance_transform": [{"type": "RandomHorizontalFlip", "p": 1}]}, ("0.p", "0.5")),
        ({"datasets__train__instance_transform": [{"type": "ResizeFillMaskNew", "size": "big"}]}, ("0.size", "big")),
        ({"models__finetune_cfg__unet__lora_cfg": 4}, ("models.finetune_cfg.unet.lora_cfg", "a table")),
        ({"models__finetune_cfg__text_embedding": 7}, ("models.finetune_cfg.text_embedding", "a table")),
        ({"models": ["a"]}, ("models", "a table")),
        ({"models__finetune_cfg__text_encoder__lr": {"x": 1}}, ("text_encoder.lr", "one value")),
        ({"train__optim_g__betas": [0.9, "much"]}, ("optim_g.betas", "a number")),
        ({"val__sample__num_inference_steps": 2.5}, ("num_inference_steps", "a whole number")),
        ({"name": "???"}, ("name", "fill it in")),
        ({"name": "${models.nmae}"}, ("name", "models.nmae")),
        ({"mixed_precision": "fp8"}, ("mixed_precision", "fp8", "bf16")),
    ],
)  # fmt: skip
def test_mistakes_are_named(write: Write, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(LorasmithError) as error:
        converted(write(**changes))
    missing = [word for word in words if word not in str(error.value)]
    assert not missing, str(error.value)


def test_all_mistakes_at_once(write: Write) -> None:
    with pytest.raises(ConfigError) as error:
        converted(write(train__optim_g__type="Lion", train__optim_g__eps="small", mixed_precision="fp8"))
    assert len(error.value.problems) == 3


def test_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", "mia")
    table = {
        "name": "${who}_v${version}",
        "who": "${oc.env:WHO}",
        "version": 2,
        "a": {"size": 64, "side": "${.size}", "b": {"up": "${..size}", "list": [1, "${a.b.list[0]}"]}},
        "copy": "${a}",
        "other": "${oc.env:NOT_SET, none}",
        5: "x",
    }
    found = resolve(table, "f.yml")
    assert found["name"] == "mia_v2"
    assert found["copy"] == {"size": 64, "side": 64, "b": {"up": 64, "list": [1, 1]}}
    assert found["other"] == "none"
    assert found["5"] == "x"


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"a": "${b}", "b": "${a}"}, "refers to itself"),
        ({"a": {"b": "${a}"}}, "refers to itself"),
        ({"a": "${b.c}"}, "names no value"),
        ({"a": "${oc.env:SURELY_NOT_SET}"}, "is not set"),
        ({"a": "${now:%Y}"}, "not supported"),
        ({"a": "${b${c}}", "c": "d", "bd": 1}, "inside another"),
        ({f"a{i}": [f"${{a{i + 1}}}"] * 10 for i in range(9)} | {"a9": 1}, "values"),
    ],
)
def test_references_to_nothing(table: dict[str, Any], word: str) -> None:
    with pytest.raises(LorasmithError, match=word):
        resolve(table, "f.yml")


def test_the_file_is_found_as_people_name_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.yml").write_text("name: x\n")
    for name in ("run/a.yml", "run/a", "run"):
        assert read_yaml(tmp_path / name, ())["name"] == "x"
    with pytest.raises(LorasmithError, match=r"no such file; in .*run there is a\.yml"):
        read_yaml(tmp_path / "run" / "run.yml", ())
    with pytest.raises(LorasmithError, match=r"no such file"):
        read_yaml(tmp_path / "none" / "x.yml", ())


def test_templates_are_as_many_and_all_different() -> None:
    assert {kind: len(set(templates)) for kind, templates in TEMPLATES.items()} == {
        "object": 27,
        "style": 19,
        "human": 19,
    }
    assert all(template.count("{caption}") == 1 for templates in TEMPLATES.values() for template in templates)


def test_keys_are_flat() -> None:
    assert flatten({"a": {"b": {"c": 1}, "replace_mapping": {"d": 1}}}) == {"a.b.c": 1, "a.replace_mapping": {"d": 1}}


@pytest.mark.parametrize(
    ("images", "ratio", "ranks", "steps"),
    [(14, 500, 2, 1750), (15, 500, 2, 1875), (15, 250, 2, 938), (15, 500, 1, 3750)],
)
def test_the_steps_are_those_of_the_original(
    images: int, ratio: int, ranks: int, steps: int, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ceil(images * ratio / (batch per process * processes)): an epoch of a few images would end with a part of a
    batch."""
    for name, value in {"RANK": 0, "WORLD_SIZE": ranks, "LOCAL_RANK": 0, "MASTER_PORT": 29500}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    (tmp_path / "many").mkdir()
    for i in range(images):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(tmp_path / "many" / f"{i}.png")
    entry = {"instance_prompt": "<TOK>", "instance_data_dir": str(tmp_path / "many")}
    (tmp_path / "many.json").write_text(json.dumps([entry]))
    path = write(
        datasets__train__concept_list=str(tmp_path / "many.json"), datasets__train__dataset_enlarge_ratio=ratio
    )
    config = load_config(converted(path).config)
    assert run_length(config, Dataset.build(config.data, seed=0)).steps == steps


def test_a_share_of_the_images_is_a_number_of_views(write: Write) -> None:
    config = converted(write(datasets__train__dataset_enlarge_ratio=1.5)).config
    assert config["views_per_image"] == 1.5
    assert "repeats" not in config["data"]["subsets"][0]
