"""Black Forest Labs' names of Flux's layers, by diffusers' paths: `double_blocks.0.img_attn.qkv` and others.

Written from diffusers' conversion of such files (`loaders/single_file_utils.py`), with which a test compares it.
"""

from __future__ import annotations

import re

from lorasmith.families.transformer_models.original_names import FUSED, Place

SINGLE_INPUT = (1, 1, 1, 4)
"""`linear1` of a single block holds q, k, v and the input of the MLP, which is four times as wide."""
_SCALE = {"weight": "scale"}

_EDGES = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
_DOUBLE = {
    "norm1.linear": Place("img_mod.lin"),
    "norm1_context.linear": Place("txt_mod.lin"),
    "attn.to_q": Place("img_attn.qkv", 0, FUSED),
    "attn.to_k": Place("img_attn.qkv", 1, FUSED),
    "attn.to_v": Place("img_attn.qkv", 2, FUSED),
    "attn.add_q_proj": Place("txt_attn.qkv", 0, FUSED),
    "attn.add_k_proj": Place("txt_attn.qkv", 1, FUSED),
    "attn.add_v_proj": Place("txt_attn.qkv", 2, FUSED),
    "attn.norm_q": Place("img_attn.norm.query_norm", parameters=_SCALE),
    "attn.norm_k": Place("img_attn.norm.key_norm", parameters=_SCALE),
    "attn.norm_added_q": Place("txt_attn.norm.query_norm", parameters=_SCALE),
    "attn.norm_added_k": Place("txt_attn.norm.key_norm", parameters=_SCALE),
    "attn.to_out.0": Place("img_attn.proj"),
    "attn.to_add_out": Place("txt_attn.proj"),
    "ff.net.0.proj": Place("img_mlp.0"),
    "ff.net.2": Place("img_mlp.2"),
    "ff_context.net.0.proj": Place("txt_mlp.0"),
    "ff_context.net.2": Place("txt_mlp.2"),
}
_SINGLE = {
    "norm.linear": Place("modulation.lin"),
    "attn.to_q": Place("linear1", 0, SINGLE_INPUT),
    "attn.to_k": Place("linear1", 1, SINGLE_INPUT),
    "attn.to_v": Place("linear1", 2, SINGLE_INPUT),
    "proj_mlp": Place("linear1", 3, SINGLE_INPUT),
    "attn.norm_q": Place("norm.query_norm", parameters=_SCALE),
    "attn.norm_k": Place("norm.key_norm", parameters=_SCALE),
    "proj_out": Place("linear2"),
}
_BLOCKS = {"transformer_blocks": ("double_blocks", _DOUBLE), "single_transformer_blocks": ("single_blocks", _SINGLE)}


def bfl_place(path: str) -> Place:
    """The place of a layer of Flux's transformer, such as `transformer_blocks.0.attn.to_q`. Raises KeyError for a path
    that the transformer does not have."""
    if path == "norm_out.linear":
        return Place("final_layer.adaLN_modulation.1", halves_swapped=True)
    block = re.fullmatch(r"((?:single_)?transformer_blocks)\.(\d+)\.(.+)", path)
    if block is None:
        return Place(_EDGES[path])
    prefix, layers = _BLOCKS[block[1]]
    return layers[block[3]].under(f"{prefix}.{block[2]}")
