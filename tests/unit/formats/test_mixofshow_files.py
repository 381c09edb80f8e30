"""Mix-of-Show's .pth files, written as its code writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lorasmith
from lorasmith.adapters.attach import module_at
from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import sha256_of
from lorasmith.families.load import load as load_base
from lorasmith.formats.mixofshow import MixOfShow
from lorasmith.formats.read import load
from lorasmith.sampling.loras import Loras, LoraUse, find_lora, short_hash
from lorasmith.sampling.prompts import LoraTag

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


@pytest.mark.slow_except(".lora_{}-")
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


def test_they_are_written_as_its_code_reads_them(tmp_path: Path) -> None:
    """From its file to ours and back: the same keys and products, vectors to the bit."""
    params = theirs(tmp_path / "edlora.pth")
    report = lorasmith.convert(tmp_path / "edlora.pth", "mixofshow", base="tiny-sd", output=tmp_path / "again.pth")
    assert report.notes == []
    content = torch.load(tmp_path / "again.pth", weights_only=True)
    assert content.keys() == {"params"}
    assert {part: set(tensors) for part, tensors in content["params"].items()} == {
        part: set(tensors) for part, tensors in params.items()
    }
    for part, tensors in params.items():
        assert all(torch.equal(content["params"][part][key], tensor) for key, tensor in tensors.items())


def test_alpha_is_in_the_factors_and_shared_tokens_are_repeated(tmp_path: Path) -> None:
    family = load_base("tiny-sd")
    layer = family.named_layers(["unet"])[f"unet.{UNET}"]
    out, width = module_at(layer).weight.shape
    tensors = {
        "lora_down.weight": torch.randn(4, width),
        "lora_up.weight": torch.randn(out, 4),
        "alpha": torch.tensor(2.0),
    }
    form = MixOfShow()
    encoded = form.encode({f"unet.{UNET}": tensors}, family, {f"unet.{UNET}": (out, width)})
    assert set(encoded.tensors) == {f"unet.{UNET}.lora_down.weight", f"unet.{UNET}.lora_up.weight"}
    product = encoded.tensors[f"unet.{UNET}.lora_up.weight"] @ encoded.tensors[f"unet.{UNET}.lora_down.weight"]
    torch.testing.assert_close(product, 0.5 * tensors["lora_up.weight"] @ tensors["lora_down.weight"])

    vector = torch.randn(1, 1, 8)
    (values,) = form.encode_layerwise_tokens({"<p1>": {"te": vector}}).values()
    assert torch.equal(values, vector[0].expand(16, -1))
    for wrong in ({"te": torch.zeros(2, 16, 8)}, {"te": torch.zeros(1, 70, 8)}, {"te1": vector, "te2": vector}):
        with pytest.raises(LorasmithError, match="<p1>"):
            form.encode_layerwise_tokens({"<p1>": wrong})


@pytest.mark.parametrize(
    "layer", ["unet.down_blocks.0.resnets.0.conv1", "unet.conv_in", "te1.text_model.encoder.x.fc1"]
)
def test_layers_that_its_code_passes_over_are_refused(layer: str) -> None:
    family = load_base("tiny-sd")
    tensors = {"lora_down.weight": torch.ones(1, 4), "lora_up.weight": torch.ones(4, 1)}
    with pytest.raises(LorasmithError, match=layer.replace(".", r"\.")):
        MixOfShow().encode({layer: tensors}, family, {layer: (4, 4)})


@pytest.mark.slow
def test_it_draws(tmp_path: Path) -> None:
    """Also by a tag in a prompt. The hash that goes into the picture is that of the whole file, as in A1111."""
    theirs(tmp_path / "edlora.pth")
    settings = {"steps": 1, "width": 64, "height": 64}
    lorasmith.sample("tiny-sd", "a <p1> <p2>", tmp_path / "a", loras=[tmp_path / "edlora.pth"], **settings)
    with Image.open(tmp_path / "a" / "00000-0.png") as picture:
        assert short_hash(tmp_path / "edlora.pth") in picture.info["parameters"]
    assert short_hash(tmp_path / "edlora.pth") == sha256_of(tmp_path / "edlora.pth")[:12]
    assert find_lora(LoraTag("edlora"), [LoraUse(tmp_path / "x.safetensors")]).path.suffix == ".pth"
