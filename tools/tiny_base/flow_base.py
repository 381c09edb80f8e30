"""A small SD3 in a diffusers folder: an MMDiT on the VAE and the text encoder of the tiny base.

SD3 takes two CLIP encoders. The second one here is two random layers of 16, which cost 150 kB. There is no T5, and
`t5_tokens` of 0 in model_index.json leaves out its zeros, which are most of the text tokens otherwise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tools.tiny_base.models import END, START, VOCABULARY

LIMIT = 12_000_000
"""Bytes that the folder may have, without the judge."""
TEXT, SECOND = 128, 16
"""Widths of the text encoders."""


def transformer(width: int, layers: int, patch: int) -> SD3Transformer2DModel:
    """An MMDiT with heads of 32 and QK norm, for latents of 4 channels and 16 x 16."""
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=patch,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=width // 32,
        joint_attention_dim=TEXT + SECOND,
        caption_projection_dim=width,
        pooled_projection_dim=TEXT + SECOND,
        pos_embed_max_size=24 * 2 // patch,
        qk_norm="rms_norm",
    )


def text_config(width: int, layers: int) -> CLIPTextConfig:
    """A text encoder for the tiny base's tokenizer."""
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )


def begin(tiny: Path, folder: Path, width: int, layers: int, patch: int, shift: float) -> Path:
    """Write the folder with a random transformer, unless it is there. `tiny`: the tiny base's folder."""
    if (folder / "model_index.json").exists():
        return folder
    torch.manual_seed(0)
    write_transformer(transformer(width, layers, patch), folder)
    shutil.copytree(tiny / "vae", folder / "vae", dirs_exist_ok=True)
    _write_text_encoders(tiny, folder)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(tiny / "tokenizer", folder / name, dirs_exist_ok=True)
    (folder / "scheduler").mkdir(exist_ok=True)
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": shift}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")
    index = {"_class_name": "StableDiffusion3Pipeline", "t5_tokens": 0}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder


def _write_text_encoders(tiny: Path, folder: Path) -> None:
    """The tiny base's text encoder with a projection that changes nothing, and a small random one."""
    first = CLIPTextModelWithProjection(text_config(TEXT, 3))
    first.half().save_pretrained(folder / "text_encoder")
    tensors = load_file(tiny / "text_encoder" / "model.safetensors")
    tensors["text_projection.weight"] = torch.eye(TEXT).half()
    save_file(tensors, folder / "text_encoder" / "model.safetensors", {"format": "pt"})
    CLIPTextModelWithProjection(text_config(SECOND, 2)).half().save_pretrained(folder / "text_encoder_2")


def write_transformer(model: SD3Transformer2DModel, folder: Path) -> None:
    """Write the transformer's weights in half precision; those of `model` stay as they are."""
    place = folder / "transformer"
    place.mkdir(parents=True, exist_ok=True)
    model.save_config(place)
    config = place / "config.json"
    # what trains is a subclass, whose name no other program knows
    named = json.loads(config.read_text()) | {"_class_name": SD3Transformer2DModel.__name__}
    config.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n")
    tensors = {name: t.detach().half().cpu().contiguous() for name, t in model.state_dict().items()}
    part = place / "diffusion_pytorch_model.tmp"
    save_file(tensors, part, {"format": "pt"})
    part.replace(place / "diffusion_pytorch_model.safetensors")


def size(folder: Path) -> int:
    """Bytes of the folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
