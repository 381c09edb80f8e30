"""Whole runs of DyLoRA, and of norms beside another kind, as the command converts them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorasmith.adapters.dylora import DyLoRAAdapter
from lorasmith.families.load import load
from lorasmith.sampling.loras import load_lora
from lorasmith.training.config import load_config
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.loop import fit, remaining_steps, train_step


@pytest.fixture
def table(pictures: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    return {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "name": "a",
        "steps": 4,
        "data": {"images": str(pictures(3)), "resolution": 64},
        "optimizer": {"lr": 1e-2},
        "log": {"tensorboard": False},
    }


@pytest.mark.slow
def test_dylora_in_a_run(table: dict[str, Any], tmp_path: Path) -> None:
    """A step moves one block; the file is an ordinary LoRA; a run that goes on has the draws of one that never
    stopped, and one that starts from the file goes on in blocks."""
    adapter = {"kind": "dylora", "rank": 4, "unit": 2, "layers": ["unet.*.attn2.to_k"]}
    given = table | {"adapter": adapter, "checkpoint": {"every_steps": 2, "keep": 9}}
    run = build_run(load_config(given | {"output": str(tmp_path / "one")}))
    run.adapters.train()
    for epoch, plans in remaining_steps(run):
        before = [p.detach().clone() for p in run.parameters]
        train_step(run, epoch, plans)
        moved = {id(p) for p, was in zip(run.parameters, before, strict=True) if not torch.equal(p, was)}
        for one in run.adapters.adapters.values():
            assert isinstance(one, DyLoRAAdapter)
            assert [id(p) in moved for p in one.ups] == [i == one.block for i in range(2)]
    run.events.close()
    run.adapters.detach()

    file = train(load_config(given)).file
    assert file is not None
    whole = load_file(file)
    downs = [t for name, t in whole.items() if name.endswith("lora_down.weight")]
    assert {t.shape[0] for t in downs} == {4}
    assert {name.partition(".")[2] for name in whole} == {"lora_down.weight", "lora_up.weight", "alpha"}
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["ss_network_module"] == "networks.dylora"
    for path in (tmp_path / "run/checkpoints").glob("step-*4"):
        shutil.rmtree(path)
    file.unlink()
    again = train(load_config(given), resume=tmp_path / "run").file
    assert again == file
    assert all(torch.equal(t, whole[name]) for name, t in load_file(file).items())

    further = build_run(load_config(given | {"output": str(tmp_path / "further"), "start": str(file)}))
    assert {type(a) for a in further.adapters.adapters.values()} == {DyLoRAAdapter}
    held = {id(p) for p in further.parameters}
    assert held == {id(p) for a in further.adapters.adapters.values() for p in a.parameters()}
    with torch.no_grad():
        x, t = torch.ones(1, 4, 8, 8), torch.tensor([500])
        plain = load("tiny-sd", dtype=further.family.dtype)
        conditioning = plain.encode_text(["garp"])
        load_lora(plain, file)
        further.adapters.eval()
        torch.testing.assert_close(
            further.family.predict(x, t, conditioning), plain.predict(x, t, conditioning), rtol=1e-4, atol=1e-4
        )
    further.events.close()
    further.adapters.detach()


@pytest.mark.slow_except("lokr")
@pytest.mark.parametrize("kind", ["lokr", "dora", "dylora", "lora"])
def test_norms_beside_a_kind_in_one_file(kind: str, table: dict[str, Any]) -> None:
    """All of both is trained, and the file gives the same model again."""
    layers = ["unet.mid_block.attentions.*", "unet.mid_block.resnets.0.*", "te.*"]
    adapter = {"kind": kind, "rank": 2, "layers": layers, "norms": True}
    adapter |= {"init": "eva"} if kind == "lora" else {}
    given = table | {"adapter": adapter, "optimizer": {"lr": 1e-2, "text_lr": 1e-2}}
    run = build_run(load_config(given))
    fit(run)
    kinds = {name: type(one).__name__ for name, one in run.adapters.adapters.items()}
    assert kinds["unet.mid_block.attentions.0.transformer_blocks.0.norm2"] == "NormAdapter"
    assert kinds["unet.mid_block.resnets.0.norm1"] == "NormAdapter"
    assert kinds["te.text_model.encoder.layers.0.layer_norm1"] == "NormAdapter"
    assert kinds["unet.mid_block.attentions.0.proj_in"] != "NormAdapter"
    words = load_file(run.folder / "a.safetensors")
    changed = {name for name, t in words.items() if name.endswith(("w_norm", "b_norm")) and t.abs().max() > 1e-3}
    assert len(changed) == 2 * list(kinds.values()).count("NormAdapter")
    run.adapters.eval()
    plain = load("tiny-sd", dtype=run.family.dtype)
    load_lora(plain, run.folder / "a.safetensors")
    with torch.no_grad():
        x, t = torch.ones(1, 4, 8, 8), torch.tensor([500])
        found = plain.predict(x, t, plain.encode_text(["garp"]))
        expected = run.family.predict(x, t, run.family.encode_text(["garp"]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    run.adapters.detach()
