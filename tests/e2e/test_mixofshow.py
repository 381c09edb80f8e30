"""Mix-of-Show's YAML files, in the shape that its repository has, train and test."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
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


def test_its_yaml_trains_and_its_test_draws(folder: Path, here: Program) -> None:
    (folder / "train.yml").write_text(
        TRAIN.format(folder=folder, more="attn_reg_weight: 0.01")
        .replace("use_mask: false", "use_mask: true")
        .replace("use_mask_loss: false", "use_mask_loss: true")
    )
    answer = here("as", "train_edlora", "-opt", folder / "train.yml")
    assert answer.code == 0, answer.err
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

    out = folder / "drawn"
    arguments = ["--lora-path", run / "8101_EDLoRA_garp.safetensors", "--save-dir", out]
    answer = here("as", "test_edlora", "-opt", folder / "train.yml", *arguments)
    assert answer.code == 0, answer.err
    assert len(list(out.glob("0*.png"))) == 2 * 2 * 3
    assert (out / "grid.png").is_file()

    # the previews while training were the same pictures: prompt, seed, strength
    previews = run / "previews" / "step-00000003"
    drawn = sorted(out.glob("0*.png"))
    names = [f"{prompt * 2 + seed:02d}-{a}.png" for prompt in (0, 1) for seed in (0, 1) for a in ("0", "0.7", "1")]
    assert {p.name for p in previews.glob("0*.png")} == set(names)
    for name, picture in zip(names, drawn, strict=True):
        pair = [np.asarray(Image.open(p)).astype(int) for p in (previews / name, picture)]
        assert abs(pair[0] - pair[1]).max() <= 2, name


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
