"""Which layers of a transformer adapters sit on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def preset_patterns(blocks: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """`LayerNames.layer_presets` of transformers whose blocks are called `blocks`."""
    attention: list[str] = []
    for block in blocks:
        attention += [f"transformer.{block}.*.attn*.to_*", f"transformer.{block}.*.attn*.add_*_proj"]
    attention.append("te*.self_attn.*_proj")
    inner = [f"transformer.{block}.*.{layer}" for block in blocks for layer in ("ff*", "proj_*")]
    mlp = (*attention, *inner, "te*.mlp.fc[12]")
    return {"attention": tuple(attention), "attention-mlp": mlp, "full": ("transformer.*", *mlp)}
