"""Mix-of-Show's .pth files, written as its code writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.families.load import load as load_base
from lorasmith.formats.read import load
from lorasmith.sampling.loras import Loras, LoraUse

UNET = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "encoder.layers.0.self_attn.q_proj"


def theirs(path: Path, leaf: str = ".lora_{}", text: str = "text_model.") -> dict[str, Any]:
    torch.manual_seed(0)
    family = load_base("tiny-sd")
    unet, te = (family.named_layers([c])[n] for c, n in (("unet", f"unet.{UNET}"), ("te", f"te.text_model.{TEXT}")))
    shapes = [tuple(getattr(o, a).weight.shape[:2]) for o, a in (unet, te)]
    params: dict[str, Any] = {"new_concept_embedding": {"<p1>": torch.randn(16, 128), "<p2>": torch.randn(16, 128)}}
    for part, name, (out, into) in (("unet", UNET, shapes[0]), ("text_encoder", text + TEXT, shapes[1])):
        down, up = torch.randn(4, into), torch.randn(out, 4)
        params[part] = {f"{name}{leaf.format(k)}.weight": t for k, t in (("down", down), ("up", up))}
    torch.save({"params": params}, path)
    return params


@pytest.mark.parametrize(("leaf", "text"), [(".lora_{}", "text_model."), (".lora_{}", ""), ("_lora.{}", "text_model.")])
def test_it_gives_the_products_and_words_that_they_have(leaf: str, text: str, tmp_path: Path) -> None:
    params = theirs(tmp_path / "edlora.pth", leaf, text)
    family = load_base("tiny-sd")
    with Loras(family).attached([LoraUse(tmp_path / "edlora.pth")]):
        adapters = Loras(family).get(tmp_path / "edlora.pth").adapters
        assert family.encode_text(["a <p1> <p2>"])["context"].shape[1] == 16
    down, up = params["unet"].values()
    assert torch.allclose(adapters[f"unet.{UNET}"].delta(torch.zeros(1)), up @ down, atol=1e-5)
    assert f"te.text_model.{TEXT}" in adapters
    assert torch.equal(
        load(tmp_path / "edlora.pth").token_embeddings["<p2>"]["te"][0], params["new_concept_embedding"]["<p2>"]
    )


@pytest.mark.parametrize(
    "content", [{"a": 1}, {"params": {"unet": {"x": torch.zeros(1)}}}, [1], {"params": {"unet": 3}}]
)
def test_other_pth_files_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "f.pth")
    with pytest.raises(LorasmithError, match="Mix-of-Show"):
        load(tmp_path / "f.pth")


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    torch.save({"params": Path("x")}, tmp_path / "f.pth")
    with pytest.raises(LorasmithError, match="more than tensors"):
        load(tmp_path / "f.pth")
