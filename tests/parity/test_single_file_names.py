"""The authors' names of Flux and SD3 beside diffusers' own conversion of such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.families.flux.bfl_names import bfl_place
from lorasmith.families.reader import Reader, read_header
from lorasmith.families.sd3.sai_names import sai_place
from lorasmith.families.transformer_models.original_names import PlaceOf, find_stored, key_of

FLUX_WIDTH = 3072
"""diffusers' conversion knows only this width; the columns may be fewer, since only rows are divided."""


def original_flux() -> dict[str, Tensor]:
    """A Flux file with two blocks of each kind and weights of two columns."""
    rows = {
        "img_in": FLUX_WIDTH,
        "txt_in": FLUX_WIDTH,
        "time_in.in_layer": FLUX_WIDTH,
        "time_in.out_layer": FLUX_WIDTH,
        "vector_in.in_layer": FLUX_WIDTH,
        "vector_in.out_layer": FLUX_WIDTH,
        "guidance_in.in_layer": FLUX_WIDTH,
        "guidance_in.out_layer": FLUX_WIDTH,
        "final_layer.linear": 64,
        "final_layer.adaLN_modulation.1": 2 * FLUX_WIDTH,
    }
    norms: list[str] = []
    for i in range(2):
        for side in ("img", "txt"):
            block = f"double_blocks.{i}.{side}_"
            rows |= {f"{block}mod.lin": 6 * FLUX_WIDTH, f"{block}attn.qkv": 3 * FLUX_WIDTH}
            rows |= {f"{block}attn.proj": FLUX_WIDTH, f"{block}mlp.0": 4 * FLUX_WIDTH, f"{block}mlp.2": FLUX_WIDTH}
            norms += [f"{block}attn.norm.query_norm", f"{block}attn.norm.key_norm"]
        block = f"single_blocks.{i}."
        rows |= {f"{block}modulation.lin": 3 * FLUX_WIDTH, f"{block}linear1": 7 * FLUX_WIDTH}
        rows |= {f"{block}linear2": FLUX_WIDTH}
        norms += [f"{block}norm.query_norm", f"{block}norm.key_norm"]
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(count, 2, generator=generator) for name, count in rows.items()}
    tensors |= {f"{name}.bias": torch.randn(count, generator=generator) for name, count in rows.items()}
    return tensors | {f"{name}.scale": torch.randn(128, generator=generator) for name in norms}


def assert_read_as_diffusers_does(tensors: dict[str, Tensor], convert: Any, place_of: PlaceOf, file: Path) -> None:
    save_file(tensors, file)
    expected = convert(dict(tensors))
    found = find_stored(read_header(file)[0], expected, place_of)
    assert set(found) == set(expected)
    with Reader() as reader:
        for name, value in expected.items():
            assert torch.equal(reader.read(found[name]), value), name


def test_flux_is_read_as_diffusers_reads_it(tmp_path: Path) -> None:
    convert = convert_flux_transformer_checkpoint_to_diffusers
    assert_read_as_diffusers_does(original_flux(), convert, bfl_place, tmp_path / "flux.safetensors")


@pytest.mark.parametrize("dual", [(), (0, 1)], ids=["sd3", "sd3.5 medium"])
def test_sd3_is_read_as_diffusers_reads_it(dual: tuple[int, ...], tmp_path: Path) -> None:
    model = SD3Transformer2DModel(
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        pos_embed_max_size=6,
        dual_attention_layers=dual,
        qk_norm="rms_norm" if dual else None,
    )

    def place_of(path: str) -> Any:
        return sai_place(path, blocks=3)

    fused: dict[str, dict[int, Tensor]] = {}
    for name, value in model.state_dict().items():
        key, place = key_of(name, place_of)
        fused.setdefault(key, {})[place.index] = torch.randn(value.shape)
    tensors = {key: torch.cat([parts[i] for i in sorted(parts)]) for key, parts in fused.items()}
    assert_read_as_diffusers_does(
        tensors, convert_sd3_transformer_checkpoint_to_diffusers, place_of, tmp_path / "sd3.safetensors"
    )
