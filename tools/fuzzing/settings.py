"""Configs and command lines, ours and those of other trainers, with values that nobody means."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from lorasmith.core.config import to_toml
from tools.fuzzing.guard import Case
from tools.fuzzing.material import Material
from tools.fuzzing.values import SURROGATES, Draw, damaged, damaged_bytes, numbers, plain, texts, values

EDLORA = """
name: EDLoRA_x
manual_seed: 0
mixed_precision: fp16
gradient_accumulation_steps: 1
datasets:
  train:
    name: LoraDataset
    concept_list: concepts.json
    use_caption: true
    use_mask: true
    instance_transform:
      - {type: HumanResizeCropFinalV3, size: 64, crop_p: 0.5}
      - {type: ToTensor}
      - {type: Normalize, mean: [0.5], std: [0.5]}
      - {type: ShuffleCaption, keep_token_num: 1}
      - {type: EnhanceText, enhance_type: object}
    replace_mapping: {<TOK>: <x1> <x2>}
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 2
  val_vis: {prompts: prompts.txt, num_samples_per_prompt: 1, latent_size: [4, 8, 8], batch_size_per_gpu: 1}
models:
  pretrained_path: tiny-sd
  enable_edlora: true
  finetune_cfg:
    text_embedding: {enable_tuning: true, lr: 1.0e-3}
    text_encoder: {enable_tuning: true, lora_cfg: {rank: 4, alpha: 1.0, where: CLIPAttention}, lr: 1.0e-5}
    unet: {enable_tuning: true, lora_cfg: {rank: 4, alpha: 1.0, where: Attention}, lr: 1.0e-4}
  new_concept_token: <x1>+<x2>
  initializer_token: <rand-0.013>+circle
  noise_offset: 0.01
  attn_reg_weight: 0.01
  reg_full_identity: false
  use_mask_loss: true
  gradient_checkpoint: false
  enable_xformers: true
path: {pretrain_network: null}
train:
  optim_g: {type: AdamW, lr: 0.0, weight_decay: 0.01, betas: [0.9, 0.999]}
  scheduler: linear
  emb_norm_threshold: 5.5e-1
val:
  val_during_save: true
  compose_visualize: true
  alpha_list: [0, 0.7, 1.0]
  sample: {num_inference_steps: 2, guidance_scale: 7.5}
logger: {print_freq: 10, save_checkpoint_freq: 1000}
"""
DATASET = {
    "general": {"enable_bucket": True, "caption_extension": ".txt", "shuffle_caption": True},
    "datasets": [
        {
            "resolution": 64,
            "batch_size": 1,
            "subsets": [{"image_dir": "images", "num_repeats": 2, "class_tokens": "garp"}],
        }
    ],
}


def config_case(draw: Draw, folder: Path, material: Material) -> Case:
    """One file or command line."""
    (folder / "images").symlink_to(material.images)
    makers = (
        own_file,
        own_file,
        own_file,
        overrides,
        foreign_flags,
        foreign_flags,
        foreign_file,
        mixofshow_file,
        other_files,
    )
    return draw(st.sampled_from(makers))(draw, folder, material)


def write(draw: Draw, folder: Path, table: Any) -> str:
    """Write a table as TOML or JSON, in any encoding, now and then damaged; returns the name."""
    form = draw(st.sampled_from(["toml", "json"]))
    try:
        text = to_toml(table) if form == "toml" else json.dumps(table)
    except (TypeError, AttributeError, ValueError):
        form, text = "json", json.dumps(table)
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-8-sig", "latin-1"]))
    data = text.encode(encoding, errors="replace")
    if draw(st.integers(0, 6)) == 0:
        data = damaged_bytes(draw, data)
    (folder / f"c.{form}").write_bytes(data)
    return f"c.{form}"


@functools.cache
def full_config(images: str) -> str:
    """Every setting with its default, as JSON."""
    from lorasmith.training.config import TrainConfig

    table = {"base": "tiny-sd", "output": "out", "data": {"images": images, "resolution": 64}}
    return json.dumps(TrainConfig.model_validate(table).model_dump(mode="json"))


def own_file(draw: Draw, folder: Path, material: Material) -> Case:
    """Our config, with one to three settings changed."""
    table = material.config if draw(st.booleans()) else json.loads(full_config(str(material.images)))
    table["threads"] = 1
    return Case(("check", write(draw, folder, damaged(draw, table, 3))), 96 << 20, 1.0)


def overrides(draw: Draw, folder: Path, material: Material) -> Case:
    """Arguments `key=value` behind a config."""
    (folder / "c.json").write_text(json.dumps(material.config), encoding="utf-8")
    keys = [
        "adapter.rank", "adapter.layers", "data.images", "data.subsets.0.images", "data.subsets.7",
        "data.subsets.x", "trigger.0", "trigger.5", "trigger.-1", "hooks.0.kind", "steps", "", ".", "a..b", "data",
        "optimizer.lr", "optimizer", "export.step_name", "output", "name", "concepts.0.words.0", "phases.unet",
        "metadata.title", "plugins", "plugins.0", "device", "threads", "seed", "start", "data.resolution",
    ]  # fmt: skip
    arguments: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.one_of(st.sampled_from(keys), texts()))
        value = draw(st.one_of(plain().map(json.dumps), texts(), st.sampled_from(SURROGATES), values().map(json.dumps)))
        arguments.append(f"{key}={value}")
    return Case(("check", "c.json", *as_arguments(arguments)), 96 << 20, 1.0)


def as_arguments(arguments: list[str]) -> list[str]:
    """What a shell can pass: no NUL, and nothing that our own options would take."""
    return [text.replace("\0", "") for text in arguments if not text.startswith("-")]


@functools.cache
def scripts() -> dict[str, list[tuple[str, str, tuple[str, ...]]]]:
    """The options of each script that trains, with type and choices."""
    from lorasmith.compat.script import Action, all_scripts

    training = {name: script for name, script in all_scripts().items() if not issubclass(script, Action)}
    return {name: [(o.name, o.type, o.choices) for o in script.options] for name, script in training.items()}


def foreign_values(draw: Draw, script: str, most: int) -> dict[str, Any]:
    """A few options of a script with values, most of them of the right type."""
    table: dict[str, Any] = {}
    for name, kind, choices in draw(st.lists(st.sampled_from(scripts()[script]), max_size=most, unique=True)):
        usual: dict[str, st.SearchStrategy[Any]] = {
            "flag": st.booleans(),
            "int": st.integers(0, 100),
            "float": st.floats(0, 1),
            "steps": st.integers(0, 10),
            "text": texts(),
            "texts": st.lists(texts(), max_size=3),
            "floats": st.lists(st.floats(0, 1), max_size=3),
        }
        strategy = st.sampled_from(choices) if choices else usual.get(kind, plain())
        table[name] = draw(strategy if draw(st.integers(0, 3)) else values())
    return table


def base_options(script: str) -> dict[str, Any]:
    """What a script cannot do without."""
    if script == "train_edlora":
        return {}
    if "diffusers" in script or script.startswith(("train_dream", "train_text", "train_custom", "textual")):
        usual = {
            "pretrained_model_name_or_path": "tiny-sd",
            "instance_data_dir": "images",
            "instance_prompt": "a garp",
            "output_dir": "out",
        }
        return (
            usual | {"train_data_dir": "images", "placeholder_token": "<x>", "initializer_token": "circle"}
            if "inversion" in script
            else usual
        )
    return {
        "pretrained_model_name_or_path": "tiny-sd",
        "train_data_dir": "images",
        "output_dir": "out",
        "output_name": "x",
        "resolution": "64",
    }


def foreign_flags(draw: Draw, folder: Path, material: Material) -> Case:
    """A command line of another trainer."""
    script = draw(st.sampled_from(sorted(scripts())))
    arguments: list[str] = []
    for name, value in {**base_options(script), **foreign_values(draw, script, 5)}.items():
        if value is True:
            arguments.append(f"--{name}")
        elif isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            arguments.append(f"--{name}={value}")
    if draw(st.integers(0, 9)) == 0:
        arguments.append(draw(texts()))
    if draw(st.integers(0, 4)) == 0:
        (folder / "d.toml").write_text(to_toml(damaged_toml(draw, DATASET)), encoding="utf-8", errors="replace")
        arguments.append("--dataset_config=d.toml")
    return Case(("convert-config", "--", script, *(text.replace("\0", "") for text in arguments)), 64 << 20)


def damaged_toml(draw: Draw, table: dict[str, Any]) -> dict[str, Any]:
    """A damaged table that is still one."""
    changed = damaged(draw, table)
    return changed if isinstance(changed, dict) else table


def foreign_file(draw: Draw, folder: Path, material: Material) -> Case:
    """A config file of sd-scripts."""
    table = damaged(draw, {**base_options("train_network"), **foreign_values(draw, "train_network", 6)})
    name = write(draw, folder, table)
    command = (
        ("convert-config", name)
        if draw(st.booleans())
        else ("convert-config", "--", "train_network", "--config_file", name)
    )
    return Case(command, 64 << 20)


def mixofshow_file(draw: Draw, folder: Path, material: Material) -> Case:
    """A YAML file of Mix-of-Show, with its list of concepts."""
    concepts = [{"instance_prompt": "<TOK>", "instance_data_dir": "images", "mask_data_dir": "images"}]
    (folder / "concepts.json").write_text(
        json.dumps(damaged(draw, concepts) if draw(st.booleans()) else concepts), encoding="utf-8"
    )
    (folder / "prompts.txt").write_text("a <TOK>\n", encoding="utf-8")
    changed = damaged(draw, yaml.safe_load(EDLORA), 3)
    try:
        data = yaml.safe_dump(changed, allow_unicode=draw(st.booleans())).encode("utf-8", errors="replace")
    except yaml.YAMLError:
        data = json.dumps(changed).encode()
    if draw(st.integers(0, 5)) == 0:
        data = damaged_bytes(draw, data)
    (folder / "c.yml").write_bytes(data)
    return Case(("convert-config", "--", "train_edlora", "-opt", "c.yml"), 64 << 20)


def other_files(draw: Draw, folder: Path, material: Material) -> Case:
    """Lists of concepts, regions of a picture, and rows of a sweep."""
    way = draw(st.sampled_from(["fuse", "regions", "rows", "over"]))
    if way == "fuse":
        lora = str(material.folder / "lora.safetensors")
        entries = [{"lora_path": lora, "unet_alpha": 1.0, "text_encoder_alpha": 1.0, "concept_name": "<a>"}]
        (folder / "l.json").write_text(json.dumps(damaged(draw, entries)), encoding="utf-8")
        return Case(
            ("fuse", "l.json", "--base", "tiny-sd", "--steps", "1", "--method", "sum", "--size", "64"), 256 << 20, 10.0
        )
    if way == "regions":
        table = {"prompt": "a park", "width": 64, "height": 64, "regions": [{"prompt": "garp", "box": [0, 0, 0.5, 1]}]}
        name = write(draw, folder, damaged(draw, table))
        return Case(("sample", "--base", "tiny-sd", "--prompts", name, "--steps", "1", "-o", "out"), 256 << 20, 6.0)
    (folder / "c.json").write_text(json.dumps(material.config), encoding="utf-8")
    if way == "rows":
        cells = [draw(st.one_of(texts(), numbers().map(str))) for _ in range(4)]
        text = f"name,adapter.rank,{cells[0]}\n{cells[1]},{cells[2]},{cells[3]}\n"
        (folder / "r.csv").write_bytes(text.encode("utf-8", errors="replace"))
        # a run that has no steps to make is refused, whatever else is right
        return Case(("sweep", "c.json", "--rows", "r.csv", "steps=0", "-o", "out"), 64 << 20)
    over = f"{draw(st.sampled_from(['adapter.rank', 'steps', '', 'a.b']))}={draw(texts())}".replace("\0", "")
    return Case(("sweep", "c.json", f"--over={over}", "steps=0", "-o", "out"), 64 << 20)
