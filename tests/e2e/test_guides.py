"""The guides that people come from, walked in their order: their commands as they are written, only paths replaced, and
numbers that make them short at the end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from answers import ROOT, Program
from safetensors import safe_open
from safetensors.torch import load_file

from lorasmith.families.resolve import find
from lorasmith.files.original import write_original
from tests.garp import copy_photos

GARP = ROOT / "src/lorasmith/assets/garp"
TINY_SD = ROOT / "src/lorasmith/assets/tiny-sd"
KOHYA_CONFIG = """
pretrained_model_name_or_path = "models/base.safetensors"
train_data_dir = "img"
output_dir = "out"
output_name = "garp"
resolution = "64,64"
enable_bucket = true
min_bucket_reso = 64
max_bucket_reso = 128
caption_extension = ".txt"
network_module = "networks.lora"
network_dim = 8
network_alpha = 4
optimizer_type = "AdamW"
learning_rate = 1e-3
unet_lr = 1e-3
text_encoder_lr = 1e-4
lr_scheduler = "cosine"
train_batch_size = 2
max_train_epochs = 2
save_every_n_epochs = 1
save_model_as = "safetensors"
mixed_precision = "no"
clip_skip = 1
seed = 42
xformers = true
vae = ""
resume = false
"""
DREAMBOOTH = r"""
accelerate launch train_dreambooth_lora.py \
  --pretrained_model_name_or_path=$MODEL_NAME  \
  --instance_data_dir=$INSTANCE_DIR \
  --output_dir=$OUTPUT_DIR \
  --instance_prompt="a photo of sks dog" \
  --resolution=512 \
  --train_batch_size=1 \
  --gradient_accumulation_steps=1 \
  --checkpointing_steps=100 \
  --learning_rate=1e-4 \
  --report_to="wandb" \
  --lr_scheduler="constant" \
  --lr_warmup_steps=0 \
  --max_train_steps=500 \
  --validation_prompt="A photo of sks dog in a bucket" \
  --validation_epochs=50 \
  --seed="0" \
  --push_to_hub
"""
TEXT_TO_IMAGE = r"""
accelerate launch --mixed_precision="fp16" train_text_to_image_lora.py \
  --pretrained_model_name_or_path=$MODEL_NAME \
  --dataset_name=$DATASET_NAME --caption_column="text" \
  --resolution=512 --random_flip \
  --train_batch_size=1 \
  --num_train_epochs=100 --checkpointing_steps=5000 \
  --learning_rate=1e-04 --lr_scheduler="constant" --lr_warmup_steps=0 \
  --seed=42 \
  --output_dir="sd-naruto-model-lora" \
  --validation_prompt="cute dragon creature" --report_to="wandb"
"""


def arguments_of(command: str, **paths: str) -> list[str]:
    """A command of a shell as its arguments, with values for its variables."""
    for name, path in paths.items():
        command = command.replace(f"${name}", path)
    return shlex.split(command.replace("\\\n", " "))


def draw(pipe: Any) -> torch.Tensor:
    """A picture of 64 x 64 pixels with fixed noise."""
    noise = torch.Generator().manual_seed(0)
    done = pipe("a photo of garp", num_inference_steps=4, height=64, width=64, generator=noise, output_type="pt")
    return done.images[0]


class Hub:
    """A hub that keeps what it is sent."""

    sent: dict[str, bytes]

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def whoami(self) -> dict[str, str]:
        return {"name": "me"}

    def create_repo(self, repo_id: str, **more: Any) -> None:
        pass

    def upload_file(self, *, path_or_fileobj: Path, path_in_repo: str, repo_id: str, repo_type: str) -> None:
        self.sent[f"{repo_id}/{path_in_repo}"] = Path(path_or_fileobj).read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    Hub.sent = {}
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Hub.sent


@pytest.mark.slow
def test_a_config_of_sd_scripts_to_a_picture_in_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Program
) -> None:
    from diffusers import StableDiffusionPipeline

    monkeypatch.chdir(tmp_path)
    copy_photos(tmp_path / "img" / "2_garp", 0, 4, captions=True)
    (tmp_path / "models").mkdir()
    write_original(find("tiny-sd"), tmp_path / "models" / "base.safetensors")  # type: ignore[arg-type]
    config = KOHYA_CONFIG.replace("AdamW", "AdamW")
    (tmp_path / "garp.toml").write_text(config)
    words = "accelerate launch --num_cpu_threads_per_process=4 train_network.py --config_file=garp.toml"
    answer = here("as", *words.split())
    assert answer.code == 0, answer.err
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == {
        "garp.safetensors",
        "garp-000001.safetensors",
    }
    with safe_open(tmp_path / "out" / "garp.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_steps"] == "8"
    assert '"2_garp": {"a photo of garp": 4' in metadata["ss_tag_frequency"]

    # what a user of diffusers does with the two files
    pipe = StableDiffusionPipeline.from_single_file(
        "models/base.safetensors", config=str(TINY_SD), local_files_only=True, safety_checker=None
    )
    before = draw(pipe)
    pipe.load_lora_weights("out", weight_name="garp.safetensors")
    after = draw(pipe)
    pipe.unload_lora_weights()
    assert (after - before).abs().max() > 1e-3
    assert torch.equal(draw(pipe), before)

    # the same weights as in the file: alpha 4 of rank 8
    pipe.load_lora_weights("out", weight_name="garp.safetensors")
    tensors = load_file(tmp_path / "out" / "garp.safetensors")
    module = pipe.unet.get_submodule("mid_block.attentions.0.proj_in")
    key = "lora_unet_mid_block_attentions_0_proj_in"
    assert torch.equal(module.lora_A["default_0"].weight, tensors[f"{key}.lora_down.weight"])
    assert module.scaling["default_0"] == 0.5


@pytest.mark.slow
def test_the_readme_of_dreambooth_with_lora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Program, hub: dict[str, bytes]
) -> None:
    from diffusers import DiffusionPipeline

    monkeypatch.chdir(tmp_path)
    copy_photos(tmp_path / "dog", 0, 3, captions=True)
    words = arguments_of(DREAMBOOTH, MODEL_NAME=str(TINY_SD), INSTANCE_DIR="dog", OUTPUT_DIR="path-to-save-model")
    answer = here("as", *words, "--resolution=64", "--max_train_steps=2")
    assert answer.code == 0, answer.err
    file = tmp_path / "path-to-save-model" / "pytorch_lora_weights.safetensors"
    assert hub["me/path-to-save-model/pytorch_lora_weights.safetensors"] == file.read_bytes()

    pipe = DiffusionPipeline.from_pretrained(str(TINY_SD), torch_dtype=torch.float32)
    before = draw(pipe)
    pipe.load_lora_weights("path-to-save-model")
    assert not torch.equal(draw(pipe), before)


@pytest.mark.slow
def test_the_readme_of_text_to_image_with_lora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Program, hub: dict[str, bytes]
) -> None:
    from diffusers import StableDiffusionPipeline

    monkeypatch.chdir(tmp_path)
    copy_photos(tmp_path / "pictures" / "train", 0, 3, captions=True)
    words = arguments_of(TEXT_TO_IMAGE, MODEL_NAME=str(TINY_SD), DATASET_NAME="pictures")
    more = ["--push_to_hub", "--hub_model_id=us/naruto", "--resolution=64", "--num_train_epochs=1"]
    answer = here("as", *words, *more)
    assert answer.code == 0, answer.err
    assert "us/naruto/pytorch_lora_weights.safetensors" in hub
    assert b"pipe.load_lora_weights" in hub["us/naruto/README.md"]

    pipe = StableDiffusionPipeline.from_pretrained(str(TINY_SD), torch_dtype=torch.float32)
    before = draw(pipe)
    # the guide calls load_attn_procs, which no longer reads LoRAs
    pipe.load_lora_weights("sd-naruto-model-lora")
    assert not torch.equal(draw(pipe), before)
