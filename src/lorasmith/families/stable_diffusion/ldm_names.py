"""Diffusers' parameter names as original-layout checkpoints (CompVis, Stability) have them, and back into files.

One direction is enough: the names that a model needs are known, and each has one place in the file. The three parts are
stored under `model.diffusion_model.`, `first_stage_model.`, and `cond_stage_model.` (SDXL: `conditioner.embedders.`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from lorasmith.families.reader import TensorRef
from lorasmith.families.stable_diffusion.unet_config import UNetConfig

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT: dict[tuple[str, str], str] = {
    ("sd1", "te"): "cond_stage_model.transformer.",
    ("sd2", "te"): "cond_stage_model.model.",
    ("sdxl", "te1"): "conditioner.embedders.0.transformer.",
    ("sdxl", "te2"): "conditioner.embedders.1.model.",
}
"""The prefix of a text encoder. Those that end in `.model.` have OpenCLIP's names, the others transformers'."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_EDGES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


@lru_cache
def unet_blocks(config: UNetConfig) -> Mapping[str, str]:
    """Diffusers' block paths to the original's, for one UNet."""
    table = dict(_EDGES)
    last_level = len(config.channels) - 1

    # The way down: input_blocks.0 is conv_in; each residual block and each downsampling has a number.
    index = 1
    for level, depth in enumerate(config.depths):
        for j in range(config.layers):
            table[f"down_blocks.{level}.resnets.{j}"] = f"input_blocks.{index}.0"
            if depth:
                table[f"down_blocks.{level}.attentions.{j}"] = f"input_blocks.{index}.1"
            index += 1
        if level < last_level:
            table[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{index}.0.op"
            index += 1

    # The way up: upsampling belongs to the last residual block of its level, after its attention if there is one.
    index = 0
    for level, depth in enumerate(reversed(config.depths)):
        for j in range(config.layers + 1):
            table[f"up_blocks.{level}.resnets.{j}"] = f"output_blocks.{index}.0"
            if depth:
                table[f"up_blocks.{level}.attentions.{j}"] = f"output_blocks.{index}.1"
            index += 1
        if level < last_level:
            table[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{index - 1}.{2 if depth else 1}.conv"
    return table


def unet_name(path: str, config: UNetConfig) -> str:
    """The original name of a module or parameter of the UNet. Raises KeyError for an unknown path."""
    table = unet_blocks(config)
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        block = ".".join(parts[:length])
        if block in table:
            rest = parts[length:]
            if "resnets" in block and rest and rest[0] in _RESNET:
                rest = [_RESNET[rest[0]], *rest[1:]]
            return ".".join([table[block], *rest])
    raise KeyError(path)


_VAE_RULES = [
    (r"^(encoder\.)down_blocks\.(\d+)\.resnets\.(\d+)\.", r"\1down.\2.block.\3."),
    (r"^(encoder\.)down_blocks\.(\d+)\.downsamplers\.0\.", r"\1down.\2.downsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
]


def vae_name(name: str, levels: int) -> str:
    """The original name of a parameter of AutoencoderKL. Its attention layers are 1x1 convolutions there."""
    up = re.match(r"decoder\.up_blocks\.(\d+)\.", name)
    if up:
        level = levels - 1 - int(up[1])
        name = f"decoder.up.{level}." + name[up.end() :]
        name = re.sub(r"\.resnets\.(\d+)\.", r".block.\1.", name).replace(".upsamplers.0.", ".upsample.")
    for pattern, replacement in _VAE_RULES:
        name = re.sub(pattern, replacement, name)
    return name


_OPENCLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def openclip_ref(name: str, tensors: Mapping[str, TensorRef]) -> tuple[str, TensorRef | None]:
    """Where OpenCLIP stores a parameter of transformers' CLIP text model (without `text_model.`).

    Returns the key, and the part of its tensor that is the parameter (None if the key is missing): q, k and v are
    thirds of one tensor, and the text projection is transposed.
    """
    if name == "text_projection.weight":
        ref = tensors.get("text_projection")
        if ref is None:  # some files have it as a linear layer
            return "text_projection.weight", tensors.get("text_projection.weight")
        return "text_projection", TensorRef(ref.path, ref.dtype, ref.shape, ref.offset, transposed=True)
    third = re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
    if third:
        key = f"transformer.resblocks.{third[1]}.attn.in_proj_{third[3]}"
        ref = tensors.get(key)
        if ref is None:
            return key, None
        width = ref.shape[0] // 3
        index = "qkv".index(third[2])
        return key, ref.rows(index * width, (index + 1) * width)
    for ours, original in _OPENCLIP.items():
        name = name.replace(ours, original)
    key = name.replace("encoder.layers.", "transformer.resblocks.")
    return key, tensors.get(key)
