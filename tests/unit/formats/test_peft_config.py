"""Alphas of files of peft: from the config beside the file or in its metadata, against what peft itself computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.path_patterns import PathPatterns
from lorasmith.formats.read import load
from lorasmith.formats.rewrite import to_diff

STEM = "base_model.model.mid_block.attentions.0"
FLAT = "lora_unet_mid_block_attentions_0"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(6, 6), nn.Linear(6, 6)


class Base(nn.Module):
    """Names as in a UNet, so that peft's file is one of a UNet."""

    def __init__(self) -> None:
        super().__init__()
        self.mid_block = nn.Module()
        self.mid_block.attentions = nn.ModuleList([Attention()])


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": 16},
        {"lora_alpha": 16, "use_rslora": True},
        {"alpha_pattern": {"to_q": 3}},
        {"alpha_pattern": {r"attentions\.\d\.to_[kv]": 3}, "rank_pattern": {"to_q": 2}},
        {"alpha_pattern": {"mid_block.attentions.0.to_k": 5, "to_k": 7}, "use_rslora": True},
    ],
    ids=str,
)
def test_the_change_is_the_one_that_peft_applies(fields: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights=False, **fields)
    model = get_peft_model(Base(), config)  # pyright: ignore[reportArgumentType]
    model.save_pretrained(str(tmp_path))
    file = load(tmp_path / "adapter_model.safetensors")
    assert not file.notes
    for name in ("to_q", "to_k"):
        layer = model.get_submodule(f"{STEM}.{name}")
        tensors = {
            word: file.tensors[f"{FLAT}_{name}.{word}"] for word in ("lora_down.weight", "lora_up.weight", "alpha")
        }
        difference = to_diff(tensors, (6, 6))
        assert difference is not None
        torch.testing.assert_close(difference["diff"], layer.get_delta_weight("default"))  # pyright: ignore


def tensors_of(rank: int = 4) -> dict[str, Tensor]:
    return {
        f"{STEM}.to_q.lora_A.weight": torch.ones(rank, 6),
        f"{STEM}.to_q.lora_B.weight": torch.ones(6, rank),
    }


def read(folder: Path, config: Any, tensors: dict[str, Tensor] | None = None) -> Any:
    path = folder / "adapter_model.safetensors"
    save_file(tensors or tensors_of(), path)
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return load(path)


def test_without_a_config_alpha_is_the_rank_and_this_is_said(tmp_path: Path) -> None:
    save_file(tensors_of(), tmp_path / "x.safetensors")
    file = load(tmp_path / "x.safetensors")
    assert f"{FLAT}_to_q.alpha" not in file.tensors
    assert any("alpha = rank is assumed" in note for note in file.notes)


def test_alphas_in_the_file_are_those_of_its_layers(tmp_path: Path) -> None:
    tensors = tensors_of() | {f"{STEM}.to_q.alpha": torch.tensor(2.0)}
    file = read(tmp_path, {"r": 4, "lora_alpha": 16}, tensors)
    assert float(file.tensors[f"{FLAT}_to_q.alpha"]) == 2
    assert not file.notes


def test_loha_and_lokr_have_their_own_alpha(tmp_path: Path) -> None:
    """peft scales LoKr of two whole factors too, which no reader of such files does, so it is in the factor."""
    loha = {f"{STEM}.to_q.hada_{name}": torch.ones(6, 6)[:, :2] for name in ("w1_a", "w2_a")}
    loha |= {f"{STEM}.to_q.hada_{name}": torch.ones(2, 6) for name in ("w1_b", "w2_b")}
    loha = {key: tensor.contiguous() for key, tensor in loha.items()}
    file = read(tmp_path, {"peft_type": "LOHA", "r": 2, "alpha": 5}, loha)
    assert float(file.tensors[f"{FLAT}_to_q.alpha"]) == 5
    lokr = {f"{STEM}.to_q.lokr_w1": torch.ones(2, 2), f"{STEM}.to_q.lokr_w2": torch.ones(3, 3)}
    file = read(tmp_path, {"peft_type": "LOKR", "r": 2, "alpha": 5}, lokr)
    assert torch.equal(file.tensors[f"{FLAT}_to_q.lokr_w1"], torch.full((2, 2), 2.5))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a config of peft"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"lora_alpha": True}, "lora_alpha"),
        ({"r": 0}, "r: "),
        ({"r": 8}, "is not the config of this file"),
        ({"alpha_pattern": ["to_q"]}, "alpha_pattern"),
        ({"alpha_pattern": {"(bad": 3}}, "not a regular expression"),
        ({"peft_type": "OFT"}, "peft_type is OFT"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base model"),
    ],
)
def test_configs_that_cannot_be_used(config: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match=says) as caught:
        read(tmp_path, config)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[]", "3", '"x"', "{", '{"unet.lora_alpha": null}', '{"unet.alpha_pattern": {"(": 3}}']
)
def test_metadata_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    save_file(tensors_of(), tmp_path / "x.safetensors", {"lora_adapter_metadata": text})
    with pytest.raises(LorasmithError, match="lora_adapter_metadata"):
        load(tmp_path / "x.safetensors")


def test_metadata_of_nothing_is_as_none(tmp_path: Path) -> None:
    save_file(tensors_of(), tmp_path / "x.safetensors", {"lora_adapter_metadata": "null"})
    assert any("alpha = rank" in note for note in load(tmp_path / "x.safetensors").notes)


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("to_q", "mid_block.to_q", True),
        ("to_q", "mid_block.into_q", False),
        ("mid_block.to_q", "mid_block.to_q", True),
        (r"mid_block\.to_q", "mid_block.to_q", True),
        ("to_q", "to_q.x", False),
        (r"attn\d\.to_(q|k)", "a.attn1.to_k", True),
        (r".*attn1.*", "a.attn1.to_k", True),
        (r"^mid.*", "mid_block.to_k", True),
    ],
)
def test_patterns_match_as_in_peft(pattern: str, path: str, matches: bool) -> None:
    from peft.utils.other import get_pattern_key

    assert (PathPatterns({pattern: 3.0}, "alpha_pattern").find(path) == 3.0) is matches
    assert (get_pattern_key([pattern], path) == pattern) is matches


def test_the_first_pattern_counts() -> None:
    patterns = PathPatterns({"attn.*": 1.0, "to_q": 2.0, "attn1.to_q": 3.0}, "alpha_pattern")
    assert (patterns.find("x.attn1.to_q"), patterns.find("x.to_q"), patterns.find("y")) == (1.0, 2.0, None)


@pytest.mark.parametrize("pattern", ["(a+)+b", "((a|aa)+)+b", "(.*a){20}b", "(x+x+)+y", "(?:.*?){50}z"])
def test_no_expression_takes_longer_than_its_length(pattern: str) -> None:
    """With `re`, each of these takes longer than the universe is old."""
    assert PathPatterns({pattern: 1.0}, "alpha_pattern").find("a" * 400 + "x" * 400) is None


@pytest.mark.parametrize("pattern", ["((a?){999}){999}b", "a(?!b)", "(", "x+" * 251, "(" * 400, "\\"])
def test_expressions_that_are_refused(pattern: str) -> None:
    with pytest.raises(LorasmithError, match="alpha_pattern"):
        PathPatterns({pattern: 1.0}, "alpha_pattern")
