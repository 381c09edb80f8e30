"""Configs of the parts of a single file, which has none: from the shapes of their tensors and the published models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.families.reader import TensorRef
from lorasmith.families.stable_diffusion.source import shipped_config

CLIP_HEAD = 64
"""The width of an attention head in all of OpenAI's and OpenCLIP's text encoders."""
TOKEN_TABLE = "embeddings.token_embedding.weight"


def count_blocks(refs: Mapping[str, TensorRef], prefix: str) -> int:
    """How many blocks there are: 1 + the largest number after `prefix`; 0 if there is none."""
    numbers = [int(match[1]) for name in refs if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def shape_of(refs: Mapping[str, TensorRef], name: str) -> tuple[int, ...]:
    """The shape of a tensor. Raises LorasmithError if it is missing."""
    ref = refs.get(name)
    if ref is None:
        where = str(next(iter(refs.values())).path) if refs else "the file"
        raise LorasmithError(f"{where}: {name} is missing, so the size of the model is not known; get the file again")
    return ref.shape


def clip_config(refs: Mapping[str, TensorRef], part: str) -> dict[str, Any]:
    """transformers' config of a CLIP text encoder: `te1` is OpenAI's L, `te2` OpenCLIP's bigG."""
    plain = {name.removeprefix("text_model."): ref for name, ref in refs.items()}
    vocabulary, width = shape_of(plain, TOKEN_TABLE)
    projection = plain.get("text_projection.weight")
    return {
        **shipped_config(*(("sd1", "te") if part == "te1" else ("sdxl", "te2"))),
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape_of(plain, "encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": count_blocks(plain, "encoder.layers."),
        "num_attention_heads": max(1, width // CLIP_HEAD),
        "projection_dim": width if projection is None else projection.shape[0],
    }


def t5_config(refs: Mapping[str, TensorRef]) -> dict[str, Any]:
    """transformers' config of T5's encoder, version 1.1, whose feed-forward layers have a gate."""
    attention = "encoder.block.0.layer.0.SelfAttention."
    buckets, heads = shape_of(refs, f"{attention}relative_attention_bias.weight")
    inner, width = shape_of(refs, f"{attention}q.weight")
    table = refs.get("shared.weight") or refs.get("encoder.embed_tokens.weight")
    return {
        "model_type": "t5",
        "vocab_size": 32128 if table is None else table.shape[0],
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": shape_of(refs, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight")[0],
        "num_layers": count_blocks(refs, "encoder.block."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


def vae_config(refs: Mapping[str, TensorRef], scale: float, shift: float) -> dict[str, Any]:
    """diffusers' config of an AutoencoderKL, in its own or in the original names."""
    blocks, layers = ("down_blocks", "resnets") if is_diffusers_vae(refs) else ("down", "block")
    levels = count_blocks(refs, f"encoder.{blocks}.")
    channels = [shape_of(refs, f"encoder.{blocks}.{i}.{layers}.0.conv1.weight")[0] for i in range(levels)]
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count_blocks(refs, f"encoder.{blocks}.0.{layers}."),
        "latent_channels": shape_of(refs, "decoder.conv_in.weight")[1],
        "in_channels": 3,
        "out_channels": 3,
        "norm_num_groups": 32,
        "use_quant_conv": "quant_conv.weight" in refs,
        "use_post_quant_conv": "post_quant_conv.weight" in refs,
        "mid_block_add_attention": any(
            ".mid" in name and "attn" in name.replace("attentions", "attn") for name in refs
        ),
        "force_upcast": True,
        "scaling_factor": scale,
        "shift_factor": shift,
    }


def is_diffusers_vae(refs: Mapping[str, TensorRef]) -> bool:
    """Whether an AutoencoderKL has diffusers' names rather than the original ones."""
    return any(".resnets." in name for name in refs)
