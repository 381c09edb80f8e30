"""Small SD3 and Flux models with random weights, written by diffusers and transformers themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from lorasmith.core.package import assets
from lorasmith.families.flux.bfl_names import bfl_place
from lorasmith.families.sd3.sai_names import sai_place
from lorasmith.families.stable_diffusion.ldm_names import vae_name
from lorasmith.families.transformer_models.original_names import PlaceOf, key_of
from lorasmith.families.transformer_models.random_base import write_t5_tokenizer

T5_WIDTH = 192
CLIP_L, CLIP_G = 64, 128
QKV = {"flux": "double_blocks_0_img_attn_qkv", "sd3": "joint_blocks_0_x_block_attn_qkv"}
"""sd-scripts' name of q, k and v of the first block."""
VERSIONS = {"flux": "flux1", "sd3": "sd3"}
"""What sd-scripts calls the families in metadata."""


def randomise(model: Any, seed: int) -> Any:
    """Give weights, zeros among them, random values that keep activations finite."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.7 / parameter.shape[1:].numel() ** 0.5 if parameter.dim() > 1 else 0.05
        parameter.data = noise * scale + (1.0 if "norm" in name and parameter.dim() == 1 else 0.0)
    return model


def clip(width: int, seed: int, projected: bool = True) -> Any:
    from transformers import CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=width // 64,
        num_hidden_layers=3,
        hidden_act="quick_gelu" if width == CLIP_L else "gelu",
        projection_dim=width,
        eos_token_id=49407,
    )
    return randomise((CLIPTextModelWithProjection if projected else CLIPTextModel)(config), seed)


def write_parts(
    out: Path, scheduler: dict[str, Any], t5_folder: str | None, t5_tokenizer_folder: str, scaling: tuple[float, float]
) -> None:
    """The VAE, the scheduler and T5 of both families."""
    autoencoder: Any = AutoencoderKL
    vae = autoencoder(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        scaling_factor=scaling[0],
        shift_factor=scaling[1],
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    randomise(vae, 1).save_pretrained(out / "vae")
    (out / "scheduler").mkdir()
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    if t5_folder is not None:
        config = T5Config(
            vocab_size=64, d_model=T5_WIDTH, d_kv=24, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
        )
        randomise(T5EncoderModel(config), 2).save_pretrained(out / t5_folder)
        write_t5_tokenizer(out / t5_tokenizer_folder)


def write_clip_tokenizer(place: Path, pad: str) -> None:
    place.mkdir()
    for file in ("vocab.json", "merges.txt"):
        shutil.copyfile(assets() / "clip" / file, place / file)
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (place / "tokenizer_config.json").write_text(
        json.dumps(tokens | {"pad_token": pad, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
    )
    (place / "special_tokens_map.json").write_text(json.dumps(tokens | {"pad_token": pad}))


def write_sd3(out: Path, *, with_t5: bool = True) -> Path:
    """An SD3.5 medium in small: dual attention in the first block, QK norm."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=64,
        pooled_projection_dim=CLIP_L + CLIP_G,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    randomise(transformer, 0).save_pretrained(out / "transformer")
    for folder, width, seed in (("text_encoder", CLIP_L, 3), ("text_encoder_2", CLIP_G, 4)):
        clip(width, seed).save_pretrained(out / folder)
    write_clip_tokenizer(out / "tokenizer", "<|endoftext|>")
    write_clip_tokenizer(out / "tokenizer_2", "!")
    write_parts(out, {"shift": 3.0}, "text_encoder_3" if with_t5 else None, "tokenizer_3", (1.5305, 0.0609))
    (out / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    return out


def write_flux(out: Path, *, guidance: bool = True) -> Path:
    """A Flux.1 dev (or schnell, without guidance) in small."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_L,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    randomise(transformer, 0).save_pretrained(out / "transformer")
    clip(CLIP_L, 3, projected=False).save_pretrained(out / "text_encoder")
    write_clip_tokenizer(out / "tokenizer", "<|endoftext|>")
    write_parts(out, {"shift": 3.0, "use_dynamic_shifting": True}, "text_encoder_2", "tokenizer_2", (0.3611, 0.1159))
    (out / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    return out


def write_lora_of_block(path: Path, kind: str, *, text: bool = False, block: bool = True, seed: int = 0) -> Path:
    """A LoRA file in sd-scripts' names, of q, k and v of the first block, and of a layer of the first text encoder."""
    generator = torch.Generator().manual_seed(seed)
    modules: dict[str, tuple[int, int]] = {}
    if block:
        modules[f"lora_unet_{QKV[kind]}"] = (192, 64)
    if text:
        modules["lora_te1_text_model_encoder_layers_0_self_attn_q_proj"] = (CLIP_L, CLIP_L)
    tensors: dict[str, torch.Tensor] = {}
    for module, (rows, width) in modules.items():
        tensors[f"{module}.lora_down.weight"] = torch.randn(2, width, generator=generator) * 0.2
        tensors[f"{module}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.2
        tensors[f"{module}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path, {"ss_base_model_version": VERSIONS[kind]})
    return path


def original_names(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """The transformer of a diffusers folder under its authors' names, with layers joined."""
    place_of: PlaceOf = bfl_place if kind == "flux" else partial(sai_place, blocks=2)
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for name, value in load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors").items():
        key, place = key_of(name, place_of)
        parts.setdefault(key, {})[place.index] = value.roll(len(value) // 2, 0) if place.halves_swapped else value
    return {key: torch.cat([rows[i] for i in sorted(rows)]) for key, rows in parts.items()}


def original_vae_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The VAE of a diffusers folder under the original names, its attention as 1 x 1 convolutions."""
    tensors: dict[str, torch.Tensor] = {}
    for name, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        is_matrix = ".attentions." in name and value.dim() == 2
        tensors[vae_name(name, 4)] = value[:, :, None, None] if is_matrix else value
    return tensors


def text_tensors(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """A text encoder of a diffusers folder, as files of one part have it."""
    tensors = load_file(folder / part / "model.safetensors")
    is_clip = any(name.endswith("embeddings.token_embedding.weight") for name in tensors)
    return {f"text_model.{n}" if is_clip and not n.startswith("text_") else n: v for n, v in tensors.items()}


def whole_checkpoint(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """All parts of a diffusers folder in one file, with the prefixes of ComfyUI (Flux) or Stability AI (SD3)."""
    names = ["clip_l", "t5xxl"] if kind == "flux" else ["clip_l", "clip_g", "t5xxl"]
    tensors = {f"model.diffusion_model.{k}": v for k, v in original_names(folder, kind).items()}
    vae_prefix = "vae." if kind == "flux" else "first_stage_model."
    tensors |= {f"{vae_prefix}{k}": v for k, v in original_vae_tensors(folder).items()}
    for name, part in zip(names, ("text_encoder", "text_encoder_2", "text_encoder_3"), strict=False):
        tensors |= {f"text_encoders.{name}.transformer.{k}": v for k, v in text_tensors(folder, part).items()}
    return tensors


WRITERS: dict[str, Callable[..., Path]] = {"flux": write_flux, "sd3": write_sd3}
"""By the family. Each takes a folder, writes a base into it and returns its path."""
