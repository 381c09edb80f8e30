"""Stability AI's names of SD3's layers, by diffusers' paths: `joint_blocks.0.x_block.attn.qkv` and others.

Written from diffusers' conversion of such files (`loaders/single_file_utils.py`), with which a test compares it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from lorasmith.families.transformer_models.original_names import FUSED, Place

_EDGES = {
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear",
}
_ATTENTION = {
    "to_q": Place("attn.qkv", 0, FUSED),
    "to_k": Place("attn.qkv", 1, FUSED),
    "to_v": Place("attn.qkv", 2, FUSED),
    "norm_q": Place("attn.ln_q"),
    "norm_k": Place("attn.ln_k"),
    "to_out.0": Place("attn.proj"),
}
_ADDED = {
    "add_q_proj": "to_q",
    "add_k_proj": "to_k",
    "add_v_proj": "to_v",
    "norm_added_q": "norm_q",
    "norm_added_k": "norm_k",
    "to_add_out": "to_out.0",
}
"""The layers of the text's side of the attention, and those of the image's side that they are like."""
_MODULATION = "adaLN_modulation.1"
_BLOCK = {
    "norm1.linear": Place(f"x_block.{_MODULATION}"),
    "norm1_context.linear": Place(f"context_block.{_MODULATION}"),
    "ff.net.0.proj": Place("x_block.mlp.fc1"),
    "ff.net.2": Place("x_block.mlp.fc2"),
    "ff_context.net.0.proj": Place("context_block.mlp.fc1"),
    "ff_context.net.2": Place("context_block.mlp.fc2"),
    **{f"attn.{layer}": place.under("x_block") for layer, place in _ATTENTION.items()},
    **{f"attn.{added}": _ATTENTION[layer].under("context_block") for added, layer in _ADDED.items()},
    **{
        f"attn2.{layer}": replace(place, module=place.module.replace("attn.", "attn2.")).under("x_block")
        for layer, place in _ATTENTION.items()
    },
}


def sai_place(path: str, blocks: int) -> Place:
    """The place of a layer of SD3's transformer, such as `transformer_blocks.0.attn.to_q`. Raises KeyError for a path
    that the transformer does not have.

    `blocks`: how many blocks it has; the text's modulation in the last one is (shift, scale) only.
    """
    if path == "norm_out.linear":
        return Place(f"final_layer.{_MODULATION}", halves_swapped=True)
    if path == "pos_embed":  # a tensor of its own, not a layer
        return Place("", parameters={"pos_embed": "pos_embed"})
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", path)
    if block is None:
        return Place(_EDGES[path])
    place = _BLOCK[block[2]].under(f"joint_blocks.{block[1]}")
    is_last = int(block[1]) == blocks - 1
    return replace(place, halves_swapped=True) if is_last and block[2] == "norm1_context.linear" else place
