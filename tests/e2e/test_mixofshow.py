"""Mix-of-Show's YAML files, in the shape that its repository has, train and test."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import ROOT, Program
from PIL import Image, ImageDraw
from safetensors.torch import load_file

TRAIN = """\
name: 8101_EDLoRA_garp
manual_seed: 0
mixed_precision: fp16
gradient_accumulation_steps: 1

datasets:
  train:
    name: LoraDataset
    concept_list: {folder}/garp.json
    use_caption: true
    use_mask: false
    instance_transform:
      - {{ type: HumanResizeCropFinalV3, size: 64, crop_p: 0.5 }}
      - {{ type: ToTensor }}
      - {{ type: Normalize, mean: [0.5], std: [0.5] }}
      - {{ type: ShuffleCaption, keep_token_num: 1 }}
      - {{ type: EnhanceText, enhance_type: human }}
    replace_mapping:
      <TOK>: <garp1> <garp2>
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 3
  val_vis:
    name: PromptDataset
    prompts: {folder}/prompts.txt
    num_samples_per_prompt: 2
    latent_size: [4, 8, 8]
    replace_mapping:
      <TOK>: <garp1> <garp2>
    batch_size_per_gpu: 4

models:
  pretrained_path: tiny-sd
  enable_edlora: true
  finetune_cfg:
    text_embedding: {{ enable_tuning: true, lr: !!float 1e-3 }}
    text_encoder:
      enable_tuning: true
      lr: 1e-5
      lora_cfg: {{ rank: 4, alpha: 1.0, where: CLIPAttention }}
    unet:
      enable_tuning: true
      lr: 1e-4
      lora_cfg: {{ rank: 4, alpha: 1.0, where: Attention }}
  new_concept_token: <garp1>+<garp2>
  initializer_token: <rand-0.013>+robot
  noise_offset: 0.01
  {more}
  reg_full_identity: false
  use_mask_loss: false
  gradient_checkpoint: false
  enable_xformers: true

train:
  optim_g: {{ type: AdamW, lr: 0.0, weight_decay: 0.01, betas: [0.9, 0.999] }}
  unet_kv_drop_rate: 0
  scheduler: linear
  emb_norm_threshold: !!float 5.5e-1

val:
  val_during_save: true
  compose_visualize: true
  alpha_list: [0, 0.7, 1.0]
  sample: {{ num_inference_steps: 2, guidance_scale: 7.5 }}

logger:
  print_freq: 10
  save_checkpoint_freq: !!float 10000
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images with captions in a folder of their own, prompts, and the concept list."""
    monkeypatch.chdir(tmp_path)
    for sub in ("image", "caption"):
        (tmp_path / sub).mkdir()
    for i, image in enumerate(sorted((ROOT / "src/lorasmith/assets/garp").glob("*.webp"))[:2] or sorted(
        (ROOT / "src/lorasmith/assets/garp").glob("*.png"))[:2]):  # fmt: skip
        shutil.copy(image, tmp_path / "image" / f"{i}{image.suffix}")
    (tmp_path / "caption" / "0.txt").write_text("<TOK>, on grass, at night")
    (tmp_path / "prompts.txt").write_text("photo of a <TOK>\n\nphoto of a robot\n")
    (tmp_path / "mask").mkdir()
    for image in (tmp_path / "image").iterdir():
        mask = Image.new("L", Image.open(image).size)
        ImageDraw.Draw(mask).ellipse((20, 20, mask.width - 20, mask.height - 20), 255)
        mask.save(tmp_path / "mask" / f"{image.stem}.png")
    entry = {"instance_prompt": "<TOK>", "instance_data_dir": "image", "caption_dir": "caption", "mask_dir": "mask"}
    (tmp_path / "garp.json").write_text(json.dumps([entry]))
    return tmp_path


def write_options(folder: Path, name: str = "EDLoRA_garp", **changes: str) -> Path:
    """The YAML file of a training, with texts of it changed."""
    text = TRAIN.format(folder=folder, more="attn_reg_weight: 0.01")
    text = text.replace("use_mask: false", "use_mask: true").replace("use_mask_loss: false", "use_mask_loss: true")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.yml"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_its_yaml_trains_and_its_test_draws(folder: Path, here: Program) -> None:
    options = write_options(folder)
    answer = here("as", "accelerate", "launch", "--num_processes=1", "train_edlora.py", "-opt", options)
    assert answer.code == 0, answer.err
    assert "note:" not in answer.err
    run = folder / "experiments" / "8101_EDLoRA_garp"
    exact = load_file(run / "8101_EDLoRA_garp.exact.safetensors")
    assert exact["lorasmith.word.0.te"].shape[:2] == (1, 16)
    assert sum(name.endswith("lora_up.weight") for name in exact) == 128 + 4 * 3  # the UNet; three text layers
    up = exact["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.alpha"]
    assert float(up) == 4.0  # their alpha is not divided by the rank
    assert json.loads((run / "summary.json").read_text())["length"]["steps"] == 3

    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    terms = [e["attention_regularisation"] for e in events if e["event"] == "step"]
    assert len(terms) == 3
    assert all(term > 0 for term in terms)

    said = tomllib.loads((run / "config.toml").read_text())
    assert said["data"]["transforms"][1] == {
        "kind": "letterbox",
        "crop": 0.5,
        "upper": True,
        "scale": [1.0, 1.0],
        "kept": 0,
    }
    assert not said["data"]["buckets"]["enabled"]
    assert said["objective"]["mask_mean"] == "channel_sum"
    assert said["objective"]["parts"][0]["maximum"] == "batch"

    # the original's files: its layout of tensors, the options, pictures by strength and step
    assert (run / "EDLoRA_garp.yml").read_bytes() == options.read_bytes()
    params = torch.load(run / "models" / "edlora_model-latest.pth", weights_only=True)["params"]
    assert [value.shape[0] for value in params["new_concept_embedding"].values()] == [16, 16]
    assert (len(params["unet"]), len(params["text_encoder"])) == (256, 24)
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_up.weight"
    torch.testing.assert_close(params["unet"][key], exact[f"lora_unet_{key[:-15].replace('.', '_')}.lora_up.weight"])
    shown = run / "visualization" / "PromptDataset"
    assert {path.name for path in shown.iterdir()} == {
        name
        for a in ("0", "0.7", "1.0")
        for name in (f"Iters-latest_Alpha-{a}", f"G_7.5_S_2---Iters-latest_Alpha-{a}.jpg")
    }
    assert {path.name for path in (shown / "Iters-latest_Alpha-0").iterdir()} == {
        f"{prompt}---G_7.5_S_2---{number}---Iters-latest_Alpha-0.png"
        for prompt in ("photo_of_a_garp1_garp2", "photo_of_a_robot")
        for number in (1, 2)
    }

    # the file that the run left, with other prompts; a test of the original's own .pth draws what the training drew
    left = run / "EDLoRA_garp.yml"
    (folder / "more.txt").write_text("photo of a <TOK>\nphoto of a robot\n<TOK>\n")
    left.write_text(left.read_text().replace("prompts.txt", "more.txt"))
    out = folder / "drawn"
    arguments = ["--lora-path", run / "models" / "edlora_model-latest.pth", "--save-dir", out]
    answer = here("as", "accelerate", "launch", "test_edlora.py", "-opt", left, *arguments)
    assert answer.code == 0, answer.err
    assert "note:" not in answer.err
    assert len(list(out.glob("0*.png"))) == 3 * 2 * 3
    assert (out / "grid.png").is_file()

    # the previews while training were the same pictures: prompt, seed, strength
    previews = run / "previews" / "step-00000003"
    drawn = sorted(out.glob("0*.png"))[:12]
    names = [f"{prompt * 2 + seed:02d}-{a}.png" for prompt in (0, 1) for seed in (0, 1) for a in ("0", "0.7", "1")]
    assert {p.name for p in previews.glob("0*.png")} == set(names)
    for name, picture in zip(names, drawn, strict=True):
        pair = [np.asarray(Image.open(p)).astype(int) for p in (previews / name, picture)]
        assert abs(pair[0] - pair[1]).max() <= 2, name


@pytest.mark.slow
def test_two_of_them_are_fused_and_drawn_by_regions(folder: Path, here: Program) -> None:
    """By the command lines of the original, from its working folder."""
    second = {"8101_EDLoRA_garp": "8102_EDLoRA_blib", "garp1": "blib1", "garp2": "blib2"}
    write_options(folder)
    write_options(folder, "EDLoRA_blib", **second)
    for name in ("EDLoRA_garp", "EDLoRA_blib"):
        answer = here("as", "accelerate", "launch", "train_edlora.py", "-opt", f"{name}.yml")
        assert answer.code == 0, answer.err
    entries = [
        {
            "lora_path": f"experiments/{run}/models/edlora_model-latest.pth",
            "unet_alpha": 1.0,
            "text_encoder_alpha": 1.0,
            "concept_name": f"<{word}1> <{word}2>",
        }
        for run, word in (("8101_EDLoRA_garp", "garp"), ("8102_EDLoRA_blib", "blib"))
    ]
    (folder / "both.json").write_text(json.dumps(entries))
    # the base by a path, as it is not found under its last part
    shutil.copytree(ROOT / "src/lorasmith/assets/tiny-sd", folder / "models" / "tiny")
    fused = folder / "experiments" / "composed" / "both"
    arguments = ["--concept_cfg=both.json", f"--save_path={fused}", "--pretrained_models=models/tiny", "--suffix=base"]
    answer = here("as", "python", "gradient_fusion.py", *arguments, "--optimize_unet_iters=50")
    assert answer.code == 0, answer.err
    context = "two robots on grass"
    regions = "[a <garp1> <garp2>]-*-[]-*-[0, 0, 128, 64]|[a <blib1> <blib2>]-*-[]-*-[0, 64, 128, 128]"
    arguments = [f"--pretrained_model={fused / 'combined_model_base'}", f"--prompt={context}", "--seed=14"]
    arguments += [f"--prompt_rewrite={regions}", f"--save_dir={folder / 'out'}", "--suffix=baseline"]
    answer = here("as", "python", "regionally_controlable_sampling.py", *arguments)
    assert answer.code == 0, answer.err
    (picture,) = (folder / "out" / "baseline").glob("0*.png")
    assert Image.open(picture).size == (128, 128)


def test_what_is_wrong_is_said_at_once(folder: Path, here: Program) -> None:
    text = TRAIN.format(folder=folder, more="attn_reg_wieght: 0.01").replace("new_concept_token", "new_concept_tokens")
    (folder / "train.yml").write_text(text)
    answer = here("as", "train_edlora", "-opt", folder / "train.yml")
    assert answer.code != 0
    assert "new_concept_token" in answer.err
    assert "Traceback" not in answer.err
    missing = here("as", "train_edlora", "-opt", folder / "none.yml")
    assert missing.code != 0
    assert "no such file" in missing.err
