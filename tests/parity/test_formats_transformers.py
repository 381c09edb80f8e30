"""LoRA files of Flux and SD3 as other programs write and read them: the keys of real files (names and shapes), and
diffusers' own conversion beside ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin, SD3LoraLoaderMixin
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.files.convert import convert
from lorasmith.files.lora import DecodedLora, OutputFile, lora_factors, read
from lorasmith.formats.inspect import inspect

RANK = 2
Shape = tuple[int, int]

FLUX_DOUBLE = {
    **{f"{side}_attn_qkv": (9216, 3072) for side in ("img", "txt")},
    **{f"{side}_attn_proj": (3072, 3072) for side in ("img", "txt")},
    **{f"{side}_mlp_0": (12288, 3072) for side in ("img", "txt")},
    **{f"{side}_mlp_2": (3072, 12288) for side in ("img", "txt")},
    **{f"{side}_mod_lin": (18432, 3072) for side in ("img", "txt")},
}
FLUX_SINGLE = {"linear1": (21504, 3072), "linear2": (3072, 15360), "modulation_lin": (9216, 3072)}
SD3_BLOCK = {
    **{f"{side}_block_attn_qkv": (4608, 1536) for side in ("x", "context")},
    **{f"{side}_block_attn_proj": (1536, 1536) for side in ("x", "context")},
    **{f"{side}_block_mlp_fc1": (6144, 1536) for side in ("x", "context")},
    **{f"{side}_block_mlp_fc2": (1536, 6144) for side in ("x", "context")},
    **{f"{side}_block_adaLN_modulation_1": (9216, 1536) for side in ("x", "context")},
}
SD3_DUAL = {"x_block_attn2_qkv": (4608, 1536), "x_block_adaLN_modulation_1": (13824, 1536)}
CLIP = {"self_attn_q_proj": (768, 768), "self_attn_out_proj": (768, 768), "mlp_fc1": (3072, 768)}
T5 = {"layer_0_SelfAttention_q": (4096, 4096), "layer_1_DenseReluDense_wi_0": (10240, 4096)}


def sd_scripts_flux() -> Iterator[tuple[str, Shape]]:
    """Modules of sd-scripts' `lora_flux.py`, of the last blocks, with both text encoders."""
    for block in (18,):
        yield from ((f"lora_unet_double_blocks_{block}_{name}", shape) for name, shape in FLUX_DOUBLE.items())
    for block in (37,):
        yield from ((f"lora_unet_single_blocks_{block}_{name}", shape) for name, shape in FLUX_SINGLE.items())
    yield "lora_unet_img_in", (3072, 64)
    yield "lora_unet_txt_in", (3072, 4096)
    yield "lora_unet_time_in_in_layer", (3072, 256)
    yield "lora_unet_vector_in_out_layer", (3072, 3072)
    yield "lora_unet_guidance_in_in_layer", (3072, 256)
    yield "lora_unet_final_layer_linear", (64, 3072)
    yield "lora_unet_final_layer_adaLN_modulation_1", (6144, 3072)
    yield from ((f"lora_te1_text_model_encoder_layers_0_{name}", shape) for name, shape in CLIP.items())
    yield from ((f"lora_te3_encoder_block_0_{name}", shape) for name, shape in T5.items())


def sd_scripts_sd3() -> Iterator[tuple[str, Shape]]:
    """Modules of sd-scripts' `lora_sd3.py`, with the sizes of SD3.5 medium."""
    yield from ((f"lora_unet_joint_blocks_20_{name}", shape) for name, shape in SD3_BLOCK.items())
    for name, shape in (SD3_BLOCK | SD3_DUAL).items():
        yield f"lora_unet_joint_blocks_0_{name}", shape
    yield "lora_unet_joint_blocks_23_context_block_adaLN_modulation_1", (3072, 1536)
    yield "lora_unet_joint_blocks_23_context_block_attn_qkv", (4608, 1536)
    yield "lora_unet_context_embedder", (1536, 4096)
    yield "lora_unet_t_embedder_mlp_0", (1536, 256)
    yield "lora_unet_y_embedder_mlp_2", (1536, 1536)
    yield "lora_unet_final_layer_linear", (64, 1536)
    yield from ((f"lora_te1_text_model_encoder_layers_0_{name}", shape) for name, shape in CLIP.items())
    yield "lora_te2_text_model_encoder_layers_0_self_attn_out_proj", (1280, 1280)
    yield "lora_te2_text_projection", (1280, 1280)
    yield from ((f"lora_te3_encoder_block_0_{name}", shape) for name, shape in T5.items())


def peft_flux() -> Iterator[tuple[str, Shape]]:
    """What diffusers' scripts and ai-toolkit write."""
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        yield f"transformer.transformer_blocks.0.attn.{name}", (3072, 3072)
    for side in ("ff", "ff_context"):
        yield f"transformer.transformer_blocks.0.{side}.net.0.proj", (12288, 3072)
        yield f"transformer.transformer_blocks.0.{side}.net.2", (3072, 12288)
    yield "transformer.transformer_blocks.0.norm1.linear", (18432, 3072)
    yield "transformer.transformer_blocks.0.norm1_context.linear", (18432, 3072)
    for name in ("to_q", "to_k", "to_v"):
        yield f"transformer.single_transformer_blocks.37.attn.{name}", (3072, 3072)
    yield "transformer.single_transformer_blocks.37.proj_mlp", (12288, 3072)
    yield "transformer.single_transformer_blocks.37.proj_out", (3072, 15360)
    yield "transformer.single_transformer_blocks.37.norm.linear", (9216, 3072)
    yield "transformer.x_embedder", (3072, 64)
    yield "transformer.proj_out", (64, 3072)
    yield "transformer.norm_out.linear", (6144, 3072)


def peft_sd3() -> Iterator[tuple[str, Shape]]:
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        yield f"transformer.transformer_blocks.5.attn.{name}", (2432, 2432)
    yield "transformer.transformer_blocks.37.norm1_context.linear", (4864, 2432)
    yield "transformer.transformer_blocks.5.ff.net.0.proj", (9728, 2432)
    yield "text_encoder.text_model.encoder.layers.0.self_attn.out_proj", (768, 768)
    yield "text_encoder_2.text_model.encoder.layers.0.self_attn.out_proj", (1280, 1280)


def bfl(prefix: str) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}double_blocks.0.img_attn.qkv", (9216, 3072)
    yield f"{prefix}double_blocks.0.txt_mlp.2", (3072, 12288)
    yield f"{prefix}single_blocks.3.linear1", (21504, 3072)
    yield f"{prefix}final_layer.linear", (64, 3072)


def xlabs() -> Iterator[tuple[str, Shape]]:
    for number in (1, 2):
        yield f"double_blocks.0.processor.qkv_lora{number}", (9216, 3072)
        yield f"double_blocks.0.processor.proj_lora{number}", (3072, 3072)
    yield "single_blocks.0.processor.qkv_lora", (9216, 3072)
    yield "single_blocks.0.processor.proj_lora", (3072, 15360)


KOHYA, PEFT, OLD = (
    ("lora_down.weight", "lora_up.weight"),
    ("lora_A.weight", "lora_B.weight"),
    ("down.weight", "up.weight"),
)
FILES: dict[str, tuple[Any, tuple[str, str], str]] = {
    "sd-scripts, Flux": (sd_scripts_flux, KOHYA, "flux"),
    "sd-scripts, SD3": (sd_scripts_sd3, KOHYA, "sd3"),
    "diffusers and ai-toolkit, Flux": (peft_flux, PEFT, "flux"),
    "diffusers, SD3.5 large": (peft_sd3, PEFT, "sd3"),
    "BFL": (lambda: bfl(""), PEFT, "flux"),
    "Kontext of fal": (lambda: bfl("base_model.model."), PEFT, "flux"),
    "ComfyUI": (lambda: bfl("diffusion_model."), PEFT, "flux"),
    "XLabs": (xlabs, OLD, "flux"),
}


def write_file(path: Path, modules: Iterator[tuple[str, Shape]], ends: tuple[str, str], alpha: float | None) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, (rows, columns) in modules:
        tensors[f"{name}.{ends[0]}"] = torch.randn(RANK, columns, generator=generator)
        tensors[f"{name}.{ends[1]}"] = torch.randn(rows, RANK, generator=generator)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return path


def changes(lora: DecodedLora) -> dict[str, Tensor]:
    """What each layer's change makes of a vector of ones and of a slope, by layer: equal changes, equal answers."""
    found: dict[str, Tensor] = {}
    for layer, tensors in lora.layers.items():
        up, down = lora_factors(tensors)
        found[layer] = up.double() @ (down.double() @ probe(down.shape[1]))
    return found


def probe(count: int) -> Tensor:
    return torch.stack([torch.ones(count), torch.linspace(-1, 1, count)], 1).double()


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    # attentions of text encoders are completed with zeros, which change nothing
    assert {layer for layer, change in found.items() if change.any()} == set(wanted)
    for layer, change in wanted.items():
        assert torch.allclose(found[layer], change, rtol=1e-5, atol=1e-5 * float(change.abs().max())), layer


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("sd-scripts") else name for name in FILES]
)
def test_the_keys_of_real_files_are_read_and_come_back(name: str, tmp_path: Path) -> None:
    modules, ends, family = FILES[name]
    alpha = 1.0 if ends == KOHYA else None
    path = write_file(tmp_path / "a.safetensors", modules(), ends, alpha)
    assert inspect(path)["family"] == family
    wanted = read(path)
    assert wanted.model.kind == family
    for form in ("peft", "lycoris"):
        target = tmp_path / f"{form}.safetensors"
        convert(path, form, OutputFile(target, torch.float32))
        assert_same(changes(read(target)), changes(wanted))
    if ends == KOHYA:
        # fused modules come back at their rank and with their alpha, bit for bit
        before, after = load_file(path), load_file(tmp_path / "lycoris.safetensors")
        assert {key: tensor.shape for key, tensor in after.items()} == {k: t.shape for k, t in before.items()}
        assert all(after[key].equal(tensor) for key, tensor in before.items())
    if ends == PEFT and "transformer" in next(iter(load_file(path))):
        assert set(load_file(path)) <= set(load_file(tmp_path / "peft.safetensors"))
        # q, k and v with factors of their own: blocks of ranks, there and back
        convert(tmp_path / "lycoris.safetensors", "peft", OutputFile(tmp_path / "back.safetensors", torch.float32))
        assert_same(changes(read(tmp_path / "back.safetensors")), changes(wanted))


def by_diffusers(path: Path, mixin: Any) -> dict[str, Tensor]:
    """The changes that diffusers' own conversion of a file makes, by our layer names."""
    state: dict[str, Tensor] = mixin.lora_state_dict(load_file(path))
    components = {"transformer": "transformer", "text_encoder": "te1", "text_encoder_2": "te2"}
    found: dict[str, Tensor] = {}
    for key, down in state.items():
        for end, other in (
            ("lora_A.weight", "lora_B.weight"),
            ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
        ):
            if key.endswith(end):
                stem = key.removesuffix(f".{end}")
                component, _, layer = stem.partition(".")
                if component not in components:  # of the edges, diffusers leaves out the prefix
                    component, layer = "transformer", stem
                up = state[f"{stem}.{other}"]
                found[f"{components[component]}.{layer}"] = up.double() @ (down.double() @ probe(down.shape[1]))
    return found


def transformer_only(modules: Iterator[tuple[str, Shape]]) -> Iterator[tuple[str, Shape]]:
    return ((name, shape) for name, shape in modules if name.startswith("lora_unet_"))


def test_diffusers_reads_a_flux_file_of_sd_scripts_as_we_do(tmp_path: Path) -> None:
    # diffusers ignores the alpha of the last layer, so it is the rank here
    path = write_file(tmp_path / "a.safetensors", transformer_only(sd_scripts_flux()), KOHYA, float(RANK))
    ours = changes(read(path))
    assert_same(by_diffusers(path, FluxLoraLoaderMixin), ours)


def test_diffusers_reads_our_flux_files(tmp_path: Path) -> None:
    """Separate q, k and v joined as blocks of ranks, which diffusers takes apart again."""
    path = write_file(tmp_path / "a.safetensors", peft_flux(), PEFT, None)
    wanted = changes(read(path))
    for form in ("kohya", "portable", "peft"):
        target = tmp_path / f"{form}.safetensors"
        convert(path, form, OutputFile(target, torch.float32))
        assert_same(by_diffusers(target, FluxLoraLoaderMixin), wanted)


def test_diffusers_reads_our_sd3_files(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.safetensors", peft_sd3(), PEFT, None)
    convert(path, "kohya", OutputFile(tmp_path / "kohya.safetensors", torch.float32))
    convert(tmp_path / "kohya.safetensors", "peft", OutputFile(tmp_path / "peft.safetensors", torch.float32))
    found = by_diffusers(tmp_path / "peft.safetensors", SD3LoraLoaderMixin)
    assert_same(found, changes(read(path)))


def test_a_control_lora_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "control.safetensors"
    stem = "double_blocks.0.img_attn"
    tensors = {
        f"{stem}.qkv.lora_A.weight": torch.ones(2, 3072),
        f"{stem}.qkv.lora_B.weight": torch.ones(9216, 2),
        f"{stem}.qkv.lora_B.bias": torch.ones(9216),
        f"{stem}.norm.query_norm.scale": torch.ones(128),
    }
    save_file(tensors, path)
    with pytest.raises(LorasmithError, match=r"control LoRA of Black Forest Labs.*norms and biases"):
        read(path)
