"""Captions with emphasis are trained with the conditions that prompts with it are sampled with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorasmith.core.progress import Progress
from lorasmith.data.texts import TextCache, TextSettings
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.families.stable_diffusion.emphasis import encode

TEXTS = ["a (red hat:1.4), [dark], garp", "plain", "", r"garp \(boxer\)"]


@pytest.fixture(scope="module")
def family() -> Family:
    return load("tiny-sd", dtype=torch.float32)


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_training_and_sampling_agree(family: Family, clip_skip: int, tmp_path: Path) -> None:
    sampled = encode(family, TEXTS, clip_skip=clip_skip)["context"]
    assert torch.equal(family.encode_text(TEXTS, clip_skip=clip_skip, weighted=True)["context"], sampled)
    cache = TextCache(tmp_path)
    cache.fill(TEXTS, family, TextSettings(clip_skip=clip_skip, weighted=True), Progress())
    assert torch.allclose(cache.load(TEXTS)["context"], sampled, atol=1e-6)
    cache.fill(TEXTS, family, TextSettings(clip_skip=clip_skip), Progress())
    assert not torch.allclose(cache.load(TEXTS)["context"][:1], sampled[:1], atol=1e-3)


def test_a_weight_multiplies_states_and_keeps_the_mean(family: Family) -> None:
    plain = family.encode_text(["a red hat"])["context"][0].double()
    weight = torch.ones(77, 1, dtype=torch.float64)
    weight[2:4] = 1.5  # behind the mark of beginning and `a`
    wanted = plain * weight
    wanted *= plain.mean() / wanted.mean()
    found = family.encode_text(["a (red hat:1.5)"], weighted=True)["context"][0].double()
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.equal(family.encode_text(["a red hat"], weighted=True)["context"][0].double(), plain)


def test_windows_are_as_many_as_asked_for(family: Family) -> None:
    two = family.encode_text(["a (cat:1.2) BREAK dog", "dog"], max_tokens=150, weighted=True)["context"]
    assert two.shape[1] == 154
    assert torch.allclose(two[0, :77], family.encode_text(["a (cat:1.2)"], weighted=True)["context"][0], atol=1e-5)
    assert torch.allclose(two[0, 77:], family.encode_text(["dog"])["context"][0], atol=1e-5)
    cut = family.encode_text(["a (cat:1.2) BREAK dog"], weighted=True)["context"]
    assert torch.allclose(cut, two[:1, :77], atol=1e-5)


def test_a_trained_text_encoder_gets_gradients(family: Family) -> None:
    weights = dict(family.text_encoders["te"].named_parameters())
    leaf = next(weights[n] for n in weights if n.endswith("layers.0.self_attn.q_proj.weight"))
    leaf.requires_grad_(True)
    try:
        family.encode_text(["a (cat:1.2)"], weighted=True)["context"].square().sum().backward()
        assert leaf.grad is not None
        assert float(leaf.grad.abs().sum()) > 0
    finally:
        leaf.requires_grad_(False)
        leaf.grad = None
