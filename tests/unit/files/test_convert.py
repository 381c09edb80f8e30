"""Every format keeps the change, measured on the loaded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from changes import deltas, distance, same
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorasmith.adapters.base import AdapterConfig
from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lokr import LoKr
from lorasmith.adapters.lora import LoRA
from lorasmith.adapters.norm import Norm
from lorasmith.adapters.oft import OFT
from lorasmith.core.errors import LorasmithError
from lorasmith.files.convert import convert
from lorasmith.formats import token_embeddings
from lorasmith.formats.read import load as load_lora_file
from lorasmith.formats.write import write

LORA = LoRA(rank=3, alpha=2, layers="full")
LINEAR = ("unet.mid_block.*to_*", "unet.mid_block.*conv1", "te.*q_proj")
TO = ("kohya", "peft", "portable", "lycoris", "diff")


@pytest.mark.slow_except("*peft", "*diff")
@pytest.mark.parametrize("to", TO)
@pytest.mark.parametrize("kind", ["sd1", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sd2", "sdxl"))])
def test_lora_keeps_its_change_in_every_format(to, kind, make, bases, families, out) -> None:
    path, _ = make(LORA, kind)
    report = convert(path, to, out(), base=bases(kind))
    assert report.error is None
    same(deltas(families(kind), report.file), deltas(families(kind), path))


@pytest.mark.slow_except("kohya")
@pytest.mark.parametrize("to", ["kohya", "portable", "lycoris"])
def test_back_from_peft(to, make, bases, families, out) -> None:
    path, _ = make(LORA)
    there = convert(path, "peft", out("there.safetensors"), base=bases()).file
    back = convert(there, to, out(), base=bases()).file
    same(deltas(families(), back), deltas(families(), path))
    assert all(name.startswith(("lora_unet_", "lora_te_")) for name in load_file(back))


@pytest.mark.parametrize("config", [LoHa(rank=2, layers=LINEAR), LoKr(rank=2, layers=LINEAR)], ids=lambda c: c.kind)
@pytest.mark.parametrize("to", ["portable", "peft", "diff"])
def test_products_are_rewritten_exactly(config, to, make, bases, families, out) -> None:
    path, _ = make(config)
    report = convert(path, to, out(), base=bases())
    assert report.error is None
    same(deltas(families(), report.file), deltas(families(), path), 2e-6)


@pytest.mark.parametrize(
    "config", [DoRA(rank=2, layers=LINEAR), OFT(rank=4, layers=LINEAR)] if "rank" in OFT.model_fields
    else [DoRA(rank=2, layers=LINEAR), OFT(layers=LINEAR)], ids=lambda c: c.kind,
)  # fmt: skip
def test_what_depends_on_the_weights_becomes_a_difference_or_the_best_lora(
    config: AdapterConfig, make, bases, families, out
) -> None:
    path, _ = make(config)
    exact = deltas(families(), path)
    same(deltas(families(), convert(path, "diff", out("d.safetensors"), base=bases()).file), exact, 2e-6)

    with pytest.raises(LorasmithError, match=r"portable.*--rank R"):
        convert(path, "portable", out(), base=bases())
    report = convert(path, "portable", out(), base=bases(), rank=5)
    approximated = deltas(families(), report.file)
    lost = sum(float(torch.linalg.svdvals(c.flatten(1).double())[5:].square().sum()) for c in exact.values())
    total = sum(float(c.double().square().sum()) for c in exact.values())
    assert report.error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    assert distance(approximated, exact) == pytest.approx(report.error, rel=1e-3)
    assert report.worst is not None
    assert report.worst[1] >= report.error
    assert max(report.ranks) == 5


def test_dora_along_outputs_is_exact_in_peft_files_even_with_a_rank(make, bases, families, out) -> None:
    path, _ = make(DoRA(rank=2, layers=LINEAR, axis="output"))
    report = convert(path, "peft", out(), base=bases(), rank=1)
    assert report.error is None
    same(deltas(families(), report.file), deltas(families(), path), 2e-6)


def test_norms_are_named_that_a_lora_leaves_out(make, bases, out, tmp_path: Path) -> None:
    (norms, _), (lora, _) = make(Norm()), make(LORA)
    mixed = tmp_path / "mixed.safetensors"
    save_file({**load_file(norms), **load_file(lora)}, mixed)
    with pytest.raises(LorasmithError, match="norms"):
        convert(mixed, "portable", out(), base=bases())
    report = convert(mixed, "portable", out(), base=bases(), rank=4)
    assert any("norm" in note for note in report.notes)
    assert not any("norm" in name for name in load_file(report.file))


def test_metadata_stay_and_say_what_was_done(make, bases, out) -> None:
    told = {"ss_network_module": "lycoris.kohya", "ss_network_dim": "2", "modelspec.trigger_phrase": "garp"}
    path, _ = make(LoHa(rank=2, layers=LINEAR), **told, ss_network_alpha="1", sshs_model_hash="old")
    file = convert(path, "portable", out(dtype=torch.float16), base=bases()).file
    again = convert(file, "kohya", out("again.safetensors"), base=bases()).file
    with safe_open(again, "pt") as opened:
        metadata = opened.metadata()
        assert {opened.get_tensor(n).dtype for n in opened.keys() if "alpha" not in n} == {torch.float16}  # noqa: SIM118
    assert metadata["modelspec.trigger_phrase"] == "garp"
    assert (metadata["ss_network_module"], metadata["ss_network_dim"]) == ("networks.lora", "4")
    assert metadata["sshs_model_hash"] != "old"
    first, second = json.loads(metadata["lorasmith.history"])
    assert "portable" in first
    assert "kohya" in second


@pytest.mark.slow
def test_new_words_go_along_where_they_can(make, bases, out, tmp_path: Path) -> None:
    path, _ = make(LORA)
    new = {"bundle_emb.garp.clip_l": torch.randn(2, 32)}
    save_file({**load_file(path), **new}, bundle := tmp_path / "bundle.safetensors")
    kept = load_file(convert(bundle, "kohya", out("k.safetensors"), base=bases()).file)
    torch.testing.assert_close(kept["bundle_emb.garp.clip_l"], new["bundle_emb.garp.clip_l"])
    report = convert(bundle, "portable", out(), base=bases())
    assert not any(n.startswith("bundle") for n in load_file(report.file))
    assert "new tokens" in report.notes[0]


def published(width: int, prefix: str) -> dict[str, torch.Tensor]:
    stem = f"{prefix}_attn2_to_k"
    outer = {768: 320, 1024: 320, 2048: 640}[width]
    return {
        f"{stem}.lora_down.weight": torch.randn(2, width),
        f"{stem}.lora_up.weight": torch.randn(outer, 2),
        f"{stem}.alpha": torch.tensor(1.0),
    }


@pytest.mark.parametrize(
    ("width", "prefix"),
    [
        (768, "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"),
        (1024, "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"),
        (2048, "lora_unet_input_blocks_4_1_transformer_blocks_0"),
        (2048, "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0"),
    ],
)
def test_published_models_need_no_base(width: int, prefix: str, out, tmp_path: Path) -> None:
    """Names of SD 1.x, 2.x and SDXL in both dialects, by shapes alone."""
    save_file(published(width, prefix), path := tmp_path / "p.safetensors")
    found = load_file(convert(path, "peft", out()).file)
    level = 1 if width == 2048 else 0
    stem = f"unet.down_blocks.{level}.attentions.0.transformer_blocks.0.attn2.to_k"
    assert set(found) == {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"}
    back = load_file(convert(out().path, "kohya", out("back.safetensors")).file)
    flat = "input_blocks_4_1" if width == 2048 else "down_blocks_0_attentions_0"
    assert f"lora_unet_{flat}_transformer_blocks_0_attn2_to_k.lora_up.weight" in back


def test_mistakes_are_told(make, bases, out, tmp_path: Path) -> None:
    path, _ = make(LORA)
    with pytest.raises(LorasmithError, match="--base"):
        convert(path, "peft", out())
    with pytest.raises(LorasmithError, match=r"unknown format.*did you mean \"portable\""):
        convert(path, "portabel", out(), base=bases())
    with pytest.raises(LorasmithError, match=r"it has|shape|no layer"):
        convert(path, "peft", out(), base=bases("sdxl"))
    half = {n: t for n, t in load_file(path).items() if "conv_in" not in n or "up" not in n}
    half = {n: t for n, t in half.items() if not n.endswith("mid_block_resnets_0_conv1.lora_up.weight")}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(LorasmithError, match="only one of"):
        convert(tmp_path / "half.safetensors", "peft", out(), base=bases())
    wrong = load_file(path)
    wrong["lora_unet_mid_block_resnets_0_conv1.lora_down.weight"] = torch.randn(3, 5, 3, 3)
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(LorasmithError, match=r"mid_block.resnets.0.conv1 has shape \(64, 64, 3, 3\).*\(3, 5, 3, 3\)"):
        convert(tmp_path / "wrong.safetensors", "peft", out(), base=bases())
    out().path.write_text("kept")
    with pytest.raises(LorasmithError, match="--overwrite"):
        convert(path, "peft", out(), base=bases())
    assert out().path.read_text() == "kept"
    convert(path, "peft", out(overwrite=True), base=bases())


def test_a_dora_without_base_says_that_it_needs_one(out, tmp_path: Path) -> None:
    words = published(768, "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0")
    stem = next(iter(words)).partition(".")[0]
    save_file({**words, f"{stem}.dora_scale": torch.rand(1, 768)}, path := tmp_path / "d.safetensors")
    with pytest.raises(LorasmithError, match="--base"):
        convert(path, "diff", out())
    assert not out().path.exists()


def test_bundles_carry_the_words_and_are_read_back(make, bases, out, tmp_path: Path) -> None:
    path, _ = make(LoRA(rank=2))
    width = 32
    own = {
        f"{token_embeddings.TENSOR_PREFIX}0.te": torch.randn(2, 1, width),
        f"{token_embeddings.TENSOR_PREFIX}1.te": torch.randn(1, 3, width),
    }
    metadata = {token_embeddings.METADATA_KEY: '["<a>", "<b>"]', "modelspec.trigger_phrase": "<a> <b>"}
    exact = write(tmp_path / "e.safetensors", {**load_file(path), **own}, metadata, torch.float32)
    save_file({"emb_params": torch.ones(1, width)}, tmp_path / "more.safetensors")
    report = convert(exact, "bundle", out(), base=bases(), token_files=[tmp_path / "more.safetensors"])
    assert any("refit" in note for note in report.notes), "the layers of <b> differ"
    assert any(note.startswith("diffusers: bundled") for note in report.notes)
    file = load_lora_file(report.file)
    assert file.metadata["modelspec.trigger_phrase"] == "a b"
    assert token_embeddings.token_names(file.metadata) == []
    found = token_embeddings.decode_bundled(file.bundled_embeddings, ("te",))
    torch.testing.assert_close(found["a"]["te"], own[f"{token_embeddings.TENSOR_PREFIX}0.te"])
    torch.testing.assert_close(found["b"]["te"], own[f"{token_embeddings.TENSOR_PREFIX}1.te"].mean(1, keepdim=True))
    torch.testing.assert_close(found["more"]["te"], torch.ones(1, 1, width))
    assert {n: t for n, t in load_file(report.file).items() if n.startswith("lora_")}.keys() == load_file(path).keys()

    with pytest.raises(LorasmithError, match="no new tokens to bundle"):
        convert(path, "bundle", out("x.safetensors"), base=bases())
    with pytest.raises(LorasmithError, match="cannot hold new tokens"):
        convert(path, "portable", out("x.safetensors"), base=bases(), token_files=[tmp_path / "more.safetensors"])
