"""Base models with random weights: the names, shapes and sizes of the real ones, for tests and for measurements.

Such a base draws nothing, but a step of training takes the time and the memory that it takes on a real one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lorasmith.core.package import assets
from lorasmith.families.stable_diffusion import ldm_names
from lorasmith.families.stable_diffusion.source import PARTS, shipped_config
from lorasmith.families.stable_diffusion.text import plain_name
from lorasmith.families.stable_diffusion.unet import UNet
from lorasmith.families.stable_diffusion.unet_config import UNetConfig

FOLDERS = {"unet": "unet", "vae": "vae", "te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
CLASSES = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def configs(kind: str, tiny: bool) -> dict[str, dict[str, Any]]:
    """Part (and `scheduler`) to config."""
    result = {part: shipped_config(kind, part) for part in (*PARTS[kind], "scheduler")}
    if tiny:
        for part, config in result.items():
            config.update(_shrunk(kind, part))
    return result


def _shrunk(kind: str, part: str) -> dict[str, Any]:
    if part == "unet":
        levels = 3 if kind == "sdxl" else 4
        heads: Any = {"sd1": 4, "sd2": [2, 4, 4, 4], "sdxl": [2, 4, 4]}[kind]
        small = {"block_out_channels": [32, 64, 64, 64][:levels], "norm_num_groups": 8, "attention_head_dim": heads}
        small["cross_attention_dim"] = 32 + 48 if kind == "sdxl" else 32
        if kind == "sdxl":
            small |= {"transformer_layers_per_block": [1, 2, 3], "addition_time_embed_dim": 16}
            small["projection_class_embeddings_input_dim"] = 6 * 16 + 48
        return small
    if part == "vae":
        return {"block_out_channels": [16, 16, 32, 32], "norm_num_groups": 8}
    if part == "te2":
        small = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "projection_dim": 48}
        return small | {"num_hidden_layers": 3}
    if part.startswith("te"):
        small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "projection_dim": 32}
        return small | {"num_hidden_layers": 4}
    return {}


def build(part: str, config: dict[str, Any]) -> nn.Module:
    """A part on the meta device."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        if part == "unet":
            return UNet(UNetConfig.from_diffusers(config))
        if part == "vae":
            autoencoder: Any = getattr(diffusers, config["_class_name"])
            return autoencoder.from_config(config)
        text = CLIPTextConfig.from_dict(config)
        return CLIPTextModelWithProjection(text) if part == "te2" else CLIPTextModel(text)


def weights(model: nn.Module, seed: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Names and random values: of norms near 1, else small enough to keep activations finite."""
    generator = torch.Generator().manual_seed(seed)
    for name, like in model.state_dict().items():
        yield name, initial_value(name, torch.empty(like.shape).normal_(generator=generator)).to(dtype)


def initial_value(name: str, noise: Tensor) -> Tensor:
    """Standard normal noise at the size that the parameter of this name needs. Changes `noise`."""
    fan = math.prod(noise.shape[1:]) if noise.dim() > 1 else 0
    if "embedding" in name and "time" not in name and "add" not in name:
        return noise.mul_(0.02)
    if fan:
        return noise.mul_(0.7 / fan**0.5)
    return noise * 0.02 + ("norm" in name and name.endswith("weight"))


def original(kind: str, part: str, name: str, config: dict[str, Any]) -> tuple[str, str]:
    """Where a parameter lies in the original layout: key and how ("", "q", "k", "v", "transposed", "conv")."""
    if part == "unet":
        return ldm_names.UNET + ldm_names.unet_name(name, UNetConfig.from_diffusers(config)), ""
    if part == "vae":
        renamed = ldm_names.vae_name(name, len(config["block_out_channels"]))
        return ldm_names.VAE + renamed, "conv" if ".attentions." in name and ".to_" in name else ""
    prefix, plain = ldm_names.TEXT[kind, part], plain_name(name)
    if not prefix.endswith(".model."):
        return f"{prefix}text_model.{plain}", ""
    key, _ = ldm_names.openclip_ref(plain, {})
    third = next((c for c in "qkv" if f"self_attn.{c}_proj" in plain), "")
    if plain == "text_projection.weight":
        return prefix + "text_projection", "transposed"
    return prefix + key, third


def to_original(kind: str, part: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """A part's tensors under the original's keys."""
    result: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        key, how = original(kind, part, name, config)
        if how and how in "qkv":
            thirds.setdefault(key, {})[how] = value
        elif how == "transposed":
            result[key] = value.T.contiguous()
        else:
            result[key] = value[:, :, None, None] if how == "conv" and value.dim() == 2 else value
    return result | {key: torch.cat([parts[c] for c in "qkv"]) for key, parts in thirds.items()}


def write(out: Path, kind: str, *, tiny: bool, layouts: Collection[str], dtype: torch.dtype, seed: int) -> None:
    """Write `OUT/` (layout `folder`, diffusers') and/or `OUT.safetensors` (layout `single`, the original one)."""
    chosen = configs(kind, tiny)
    everything: dict[str, Tensor] = {}
    for i, part in enumerate(PARTS[kind]):
        tensors = dict(weights(build(part, chosen[part]), seed * 100 + i, dtype))
        if "folder" in layouts:
            place = out / FOLDERS[part]
            place.mkdir(parents=True, exist_ok=True)
            stem = "model" if part.startswith("te") else "diffusion_pytorch_model"
            save_file(tensors, place / f"{stem}.safetensors", metadata={"format": "pt"})
            (place / "config.json").write_text(json.dumps(chosen[part], indent=2))
        if "single" in layouts:
            everything |= to_original(kind, part, tensors, chosen[part])
    if "folder" in layouts:
        _write_rest(out, kind, chosen)
    if "single" in layouts:
        out.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"lorasmith.configs": json.dumps(chosen | {"kind": kind})} if tiny else {}
        save_file(everything, out.with_name(out.name + ".safetensors"), metadata={"format": "pt", **metadata})


def _write_rest(out: Path, kind: str, chosen: dict[str, dict[str, Any]]) -> None:
    """Scheduler, tokenizers and index of a diffusers folder."""
    (out / "scheduler").mkdir(exist_ok=True)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(chosen["scheduler"], indent=2))
    for part in PARTS[kind]:
        if part.startswith("te"):
            pad = "<|endoftext|>" if chosen[part]["pad_token_id"] else "!"
            write_clip_tokenizer(out / FOLDERS[part].replace("text_encoder", "tokenizer"), pad)
    (out / "model_index.json").write_text(json.dumps({"_class_name": CLASSES[kind]}, indent=2))


def write_clip_tokenizer(place: Path, pad: str) -> None:
    """CLIP's tokenizer in transformers' layout, which pads with the token `pad`."""
    place.mkdir(exist_ok=True)
    for file in ("vocab.json", "merges.txt"):
        shutil.copyfile(assets() / "clip" / file, place / file)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad}
    config |= {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (place / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
