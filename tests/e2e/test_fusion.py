"""LoRAs of several concepts as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import Program
from safetensors.torch import load_file

from lorasmith.training.config import load_config
from lorasmith.training.session import train
from tests.conftest import make_pictures


@pytest.fixture(scope="module")
def base(float32_base: Path) -> Path:
    """The base that fuses: the embedded one is in half precision, in which a CPU is slow."""
    return float32_base


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A LoRA of UNet and text encoder, and one with two words for each layer. Tests must not change them."""
    folder = tmp_path_factory.mktemp("two")
    table: dict[str, Any] = {
        "base": "tiny-sd",
        "steps": 4,
        "data": {"images": str(make_pictures(folder / "images", 3, (80, 72))), "resolution": 64, "batch_size": 2},
        "adapter": {"rank": 2, "layers": "attention"},
        "optimizer": {"lr": 1e-2, "text_lr": 1e-2},
        "log": {"tensorboard": False},
    }
    concept = {"words": ["<b1>", "<b2>"], "layerwise": True, "lr": 1e-2}
    wordy = {"data": table["data"] | {"transforms": [{"kind": "template", "templates": ["a <b1> <b2>"]}]}}
    runs = [
        table | {"name": "a", "output": str(folder / "a"), "trigger": ["garp"]},
        table | wordy | {"name": "b", "output": str(folder / "b"), "concepts": [concept], "seed": 1},
    ]
    files = [train(load_config(run)).file for run in runs]
    return [file for file in files if file is not None]


@pytest.mark.slow
def test_fusing_keeps_more_of_each_than_averaging(two: list[Path], base: Path, tmp_path: Path, here: Program) -> None:
    output = tmp_path / "fused.safetensors"
    answer = here("fuse", *two, "--base", base, "-o", output, "--steps", "3", "--size", "64", "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["concepts"] == ["garp", "<b1> <b2>"]
    assert said["ranks"] == {"4": said["layers"]}
    for stage, shares in said["missed"]["gradient"].items():
        for ours, weights in zip(shares, said["missed"]["weights"][stage], strict=True):
            assert ours < weights, stage
    assert set(said["ridge"]) == set(said["held_out"]["gradient"]) == {"text", "keys and values", "picture"}
    assert "ridge:" in answer.err
    assert "not fitted to" in answer.err
    tensors = load_file(output)
    assert {name.split("_")[1] for name in tensors} == {"unet", "te"}
    assert all(bool(t.isfinite().all()) for t in tensors.values())
    exact = load_file(tmp_path / "fused.exact.safetensors")
    assert [t.shape[1] for name, t in exact.items() if name.startswith("lorasmith.word")] == [16, 16]
    assert sorted(p.name for p in (tmp_path / "embeddings").iterdir()) == ["b1.safetensors", "b2.safetensors"]

    drawn = here(
        "sample", "--base", base, "--lora", output, "--prompt", "a <b1> <b2>", "--steps", "2", "--size", "64",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert drawn.code == 0, drawn.err

    small = tmp_path / "small.safetensors"
    answer = here(
        "fuse",
        *two,
        "--base",
        base,
        "-o",
        small,
        "--steps",
        "1",
        "--size",
        "64",
        "--method",
        "sum",
        "--rank",
        "1",
    )
    assert answer.code == 0, answer.err
    assert {t.shape[0] for name, t in load_file(small).items() if name.endswith("lora_down.weight")} == {1}


@pytest.mark.slow
def test_a_concept_alone_is_almost_its_own_lora(two: list[Path], base: Path, tmp_path: Path, here: Program) -> None:
    """With itself twice at half the strength nothing has to give way."""
    halves = [f"{two[0]}:0.5=garp", f"{two[0]}:0.5=garp"]
    output = tmp_path / "fused.safetensors"
    answer = here("fuse", *halves, "--base", base, "-o", output, "--method", "sum", "--steps", "1", "--size", "64")
    assert answer.code == 0, answer.err
    ours, own = load_file(output), load_file(two[0])
    for name in own:
        if name.endswith("lora_up.weight"):
            down = name.replace("lora_up", "lora_down")
            expected = own[name].flatten(1) @ own[down].flatten(1)
            found = ours[name].flatten(1) @ ours[down].flatten(1)
            scale = (
                own[name.replace("lora_up.weight", "alpha")] / own[down].shape[0],
                ours[name.replace("lora_up.weight", "alpha")] / ours[down].shape[0],
            )
            torch.testing.assert_close(found * scale[1], expected * scale[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_command_of_mix_of_show(two: list[Path], tmp_path: Path, here: Program) -> None:
    """One of its own files among them; paths beside the list."""
    vectors = torch.randn(16, 128) * 0.02
    text = {"text_model.encoder.layers.0.self_attn.q_proj": (128, 128)}
    pth: dict[str, Any] = {"new_concept_embedding": {"<c1>": vectors, "<c2>": vectors + 0.01}, "text_encoder": {}}
    for name, (out, width) in text.items():
        pth["text_encoder"][f"{name}.lora_down.weight"] = torch.randn(4, width) * 0.1
        pth["text_encoder"][f"{name}.lora_up.weight"] = torch.randn(out, 4) * 0.1
    pth["unet"] = {
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_down.weight": torch.randn(4, 128) * 0.1,
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_up.weight": torch.randn(128, 4) * 0.1,
    }
    torch.save({"params": pth}, tmp_path / "c.pth")
    rows = [
        {"lora_path": "c.pth", "unet_alpha": 1.0, "text_encoder_alpha": 0.8, "concept_name": "<c1> <c2>"},
        {"lora_path": str(two[1]), "unet_alpha": 1.0, "text_encoder_alpha": 1.0, "concept_name": "<b1> <b2>"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    options = ["--optimize_unet_iters=50", "--optimize_textenc_iters=500", "--save_path", tmp_path / "out"]
    answer = here(
        "as", "gradient_fusion", "--concept_cfg", tmp_path / "list.json", "--pretrained_models=tiny-sd", *options
    )
    assert answer.code == 0, answer.err
    exact = load_file(tmp_path / "out" / "combined_model_base.exact.safetensors")
    assert sum(name.startswith("lorasmith.word") for name in exact) == 4


@pytest.mark.slow
def test_mistakes_are_told(two: list[Path], base: Path, tmp_path: Path, here: Program) -> None:
    fuse = ("fuse", "--base", base, "-o", tmp_path / "f.safetensors")
    assert "two files or more" in here(*fuse, two[0]).err
    assert "no such file" in here(*fuse, two[0], tmp_path / "no.safetensors").err
    for ridge in ("none", "-1", "nan"):
        assert "from 0 on" in here(*fuse, *two, "--ridge", ridge).err
    assert "choose one of gradient, weights, sum" in here(*fuse, *two, "--method", "best").err
    other = tmp_path / "other"
    other.mkdir()
    shifted = {
        k: t + 0.1 if k.startswith("lorasmith.word") else t
        for k, t in load_file(two[1].with_name("b.exact.safetensors")).items()
    }
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(two[1].with_name("b.exact.safetensors"), "pt") as file:
        save_file(shifted, other / "b.safetensors", file.metadata())
    assert 'both have a word "<b1>"' in here(*fuse, two[1], other / "b.safetensors").err
    told = here(*fuse, f"{two[0]}=mia", f"{two[1]}:0.5=mia").err
    assert 'one name in prompts, "mia"' in told
    assert "=mia1" in told
    (tmp_path / "list.json").write_text('[{"lora_path": "no.pth", "unet_alfa": 1, "unet_alpha": "x"}, {}]')
    told = here(*fuse, tmp_path / "list.json").err
    for part in ("unet_alfa", 'unet_alpha"?', "a finite number", "no lora_path", '"no.pth" does not exist'):
        assert part in told
    assert not (tmp_path / "f.safetensors").exists()
