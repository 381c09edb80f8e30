"""Runs on small random SD3 and Flux models: kinds of adapters, presets, words, text encoders, files, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lorasmith.api import train
from lorasmith.core.errors import LorasmithError
from lorasmith.families.load import load, open_base
from lorasmith.sampling.loras import load_lora
from tests.transformer_bases import write_sd3


@pytest.fixture(scope="module")
def base(transformer_folder: Path) -> Path:
    return transformer_folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a garp on a mat")
    return folder


def config(base: Path, images: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": str(base),
        "steps": 2,
        "output": str(out),
        "name": "garp",
        "data": {"images": str(images), "resolution": 128},
        "objective": {"timesteps": {"kind": "shifted"}, "weightings": ["min_snr"]},
        **changes,
    }


@pytest.mark.slow_except("flux-lora")
@pytest.mark.parametrize("kind", ["lora", "lokr", "oft"])
def test_adapters_train_and_their_files_change_the_model(base: Path, images: Path, tmp_path: Path, kind: str) -> None:
    optimizer = {"lr": 1e-2, "text_lr": 1e-2}
    train(config(base, images, tmp_path / "run", adapter={"kind": kind, "layers": "attention"}, optimizer=optimizer))
    tensors = load_file(tmp_path / "run" / "garp.safetensors")
    # q, k and v in one module as sd-scripts has them; of kinds that cannot be joined, under OneTrainer's names
    names = ("lora_unet_joint_blocks_0_context_block_attn_qkv", "lora_unet_double_blocks_0_txt_attn_qkv")
    separate = "lora_transformer_transformer_blocks_0_attn_add_k_proj"
    assert any(key.startswith((separate,) if kind == "lokr" else names) for key in tensors)
    assert any(key.startswith("lora_te1_text_model_encoder_layers_0_self_attn_q_proj") for key in tensors)
    family = load(base)
    conditioning = family.encode_text(["a garp"])
    x, t = torch.randn(1, 16, 16, 16), torch.tensor([0.6])
    with torch.no_grad():
        before = family.predict(x, t, conditioning)
        load_lora(family, tmp_path / "run" / "garp.safetensors")
        after = family.predict(x, t, conditioning)
    assert float((after - before).abs().max()) > 1e-4


def test_sides_that_cannot_be_cut_into_tokens_are_refused(base: Path) -> None:
    family = load(base)
    with pytest.raises(LorasmithError, match="multiples of 16 pixels"):
        family.predict(torch.randn(1, 16, 3, 4), torch.tensor([0.5]), family.encode_text(["a cat"]))


def test_layer_presets(base: Path) -> None:
    source = open_base(base)
    assert set(source.layer_presets) == {"attention", "attention-mlp", "full"}
    names = [spec.name for spec in source.layers() if spec.kind != "norm"]
    assert any("attn.add_q_proj" in name for name in names)
    assert any(".ff_context.net.2" in name for name in names)


def test_layer_names_round_trip(base: Path) -> None:
    family = load(base)
    names = [spec.name for spec in family.base.layers()]  # type: ignore[attr-defined]
    assert [family.from_kohya(family.kohya_name(name)) for name in names] == names


@pytest.mark.slow_except("flux*")
def test_texts_are_cached_and_their_models_freed(base: Path) -> None:
    family = load(base)
    before = family.fingerprint("text")
    family.encode_text(["a cat"])
    family.release("text")
    assert family.fingerprint("text") == before
    assert family._t5 is None  # type: ignore[attr-defined]
    assert family.encode_text(["a (cat:1.3)"], weighted=True)["context"].equal(family.encode_text(["a cat"])["context"])


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    folder = write_sd3(tmp_path / "sd3")
    (folder / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(LorasmithError, match=r"text_encoder_2: no \.safetensors file"):
        open_base(folder).check_parts(every_name=False)
    (folder / "transformer" / "config.json").write_text(json.dumps({"_class_name": "PixArtTransformer2DModel"}))
    with pytest.raises(LorasmithError, match="its transformer is a PixArtTransformer2DModel"):
        open_base(folder)


@pytest.mark.parametrize(
    ("stem", "says"),
    [
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", "Stable Diffusion 3"),
        ("transformer.single_transformer_blocks.0.attn.to_q", "Flux"),
    ],
)
def test_a_lora_for_a_transformer_on_another_base_is_called_what_it_is(stem: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({f"{stem}.lora_down.weight": torch.ones(2, 8), f"{stem}.lora_up.weight": torch.ones(8, 2)}, file)
    with pytest.raises(LorasmithError, match=f"no.* belongs to a layer of this sd1 base.*it is a LoRA for a?.*{says}"):
        load_lora(load("tiny-sd"), file)


@pytest.mark.slow_except("sd3*")
def test_peft_names_are_read(base: Path, images: Path, tmp_path: Path) -> None:
    """The names of diffusers' scripts: `transformer.transformer_blocks...lora_A.weight`."""
    train(config(base, images, tmp_path / "run", export={"format": "peft"}))
    path = tmp_path / "run" / "garp.safetensors"
    assert "transformer.transformer_blocks.0.attn.to_q.lora_A.weight" in load_file(path)
    assert len(load_lora(load(base), path).adapters) > 4
