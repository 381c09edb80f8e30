"""Runs on small random SD3 and Flux models: every kind of adapter, new tokens, resuming, memory levels, hooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import AdapterConfig
from lorasmith.adapters.lora import LoRA
from lorasmith.api import sample, train
from lorasmith.core.registry import registered
from lorasmith.families.base import Conditioning, Family
from lorasmith.families.eight_bit import EightBitLinear
from lorasmith.families.load import load
from lorasmith.formats.read import load as read_lora
from lorasmith.sampling.loras import load_lora
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample as draw
from lorasmith.training.config import load_config
from lorasmith.training.memory_levels import EIGHT_BIT, LAST_EXACT, use_level
from lorasmith.training.session import train as train_config
from lorasmith.training.setup.build import build_run


@pytest.fixture(scope="module")
def base(transformer_folder: Path) -> Path:
    return transformer_folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a garp on a mat")
    return folder


def config(base: Path, images: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": str(base),
        "steps": 2,
        "output": str(out),
        "name": "garp",
        "data": {"images": str(images), "resolution": 64},
        "objective": {"timesteps": {"kind": "shifted"}},
        **changes,
    }


KINDS = sorted(registered(AdapterConfig))


def adapter_table(kind: str) -> dict[str, Any]:
    """Settings of a kind on a few layers of the transformer and of a text encoder."""
    table: dict[str, Any] = {"kind": kind, "layers": ["*.0.attn.to_q", "*.0.attn.to_out.0", "te1.*.0.*.q_proj"]}
    if registered(AdapterConfig)[kind]().on_norms:  # pyright: ignore[reportAbstractUsage]
        table["layers"] = ["*norm*"]
    if "rank" in registered(AdapterConfig)[kind].model_fields:
        table["rank"] = 2
    return table


@pytest.fixture(scope="module")
def family(base: Path) -> Family:
    return load(base)


@pytest.mark.slow_except("flux-*")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_changes_the_output_and_gets_gradients(family: Family, kind: str) -> None:
    adapter = registered(AdapterConfig)[kind].model_validate(adapter_table(kind))
    layers = family.named_layers(["transformer", "te1"], norms=adapter.on_norms)
    x, t = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.6])
    with torch.no_grad():
        before = family.predict(x, t, family.encode_text(["a garp"]))
    adapters = AdapterSet.create(adapter, layers, family.layer_presets, seed=0).attach()
    try:
        adapters.train()
        adapters.begin_pass(torch.tensor([0.5]))
        torch.manual_seed(0)
        for parameter in adapters.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        out = family.predict(x, t, family.encode_text(["a garp"]))
        out.square().mean().backward()
        assert float((out - before).detach().abs().max()) > 1e-5
        # the transformers' norms have no weights of their own
        expected = {"te1"} if adapter.on_norms else {"transformer", "te1"}
        assert {name.split(".")[0] for name in adapters.adapters} == expected
        for name, parameter in adapters.adapters.items():
            gradients = [p.grad for p in parameter.parameters() if p.grad is not None]
            assert gradients, f"{name} gets no gradient"
            assert all(bool(g.isfinite().all()) for g in gradients), name
    finally:
        adapters.detach()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_every_kind_of_adapter_is_read_again(base: Path, images: Path, tmp_path: Path, kind: str) -> None:
    optimizer = {"lr": 1e-2, "text_lr": 1e-2}
    train(config(base, images, tmp_path / "run", adapter=adapter_table(kind), optimizer=optimizer))
    family = load(base)
    x, t = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.6])
    with torch.no_grad():
        before = family.predict(x, t, family.encode_text(["a garp"]))
        load_lora(family, tmp_path / "run" / "garp.safetensors")
        after = family.predict(x, t, family.encode_text(["a garp"]))
    assert float((after - before).abs().max()) > 1e-5
    assert after.isfinite().all()


@pytest.mark.slow_except("flux*")
def test_blocks_can_be_chosen_by_number(base: Path, images: Path, tmp_path: Path) -> None:
    adapter = {"kind": "lora", "rank": 2, "layers": ["transformer.transformer_blocks.[1,3].attn.to_q"]}
    train(config(base, images, tmp_path / "run", adapter=adapter))
    tensors = load_file(tmp_path / "run" / "garp.safetensors")
    stems = {name.split(".")[0] for name in tensors}
    assert len(stems) == 1
    assert "_blocks_1_" in stems.pop()


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(base: Path, images: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "steps": 4,
        "ema": 0.9,
        "adapter": {"kind": "lora", "rank": 2, "layers": "attention", "dropout": 0.1},
        "optimizer": {"lr": 1e-3, "text_lr": 1e-3},
        "checkpoint": {"every_steps": 2, "keep": 3},
        "concepts": [{"words": ["garp"], "lr": 1e-3}],
    }
    train(config(base, images, tmp_path / "whole", **changes))
    resumed = load_config(config(base, images, tmp_path / "resumed", **changes))
    checkpoint = sorted((tmp_path / "whole" / "checkpoints").iterdir())[0]
    train_config(resumed, resume=checkpoint)
    expected, found = (load_file(tmp_path / run / "garp.safetensors") for run in ("whole", "resumed"))
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.slow_except("flux*")
def test_new_tokens_are_trained_on_clip(base: Path, images: Path, tmp_path: Path) -> None:
    optimizer = {"lr": 0.0, "text_lr": 0.0}
    concepts = [{"words": ["garp"], "lr": 1e-2}]
    train(config(base, images, tmp_path / "run", optimizer=optimizer, concepts=concepts))
    file = tmp_path / "run" / "garp.exact.safetensors"
    family = load(base)
    read = read_lora(file).token_embeddings
    assert set(read) == {"garp"}
    for component, table in family.embedding_tables().items():
        vectors = read["garp"][component]
        assert vectors.shape[-1] == table.shape[1]
        assert vectors.isfinite().all()


@pytest.mark.slow_except("sd3*")
def test_validation_previews_and_ema_in_one_run(base: Path, images: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "ema": 0.9,
        "validation": {"every_steps": 1},
        "preview": {"every_steps": 2, "prompts": ["a garp"], "steps": 2, "sampler": "euler", "guidance": 2.0},
        "data": {"images": str(images), "resolution": 64, "validation": {"split": 0.34}},
    }
    train(config(base, images, tmp_path / "run", **changes))
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    kinds = {event["event"] for event in events}
    assert {"validation", "preview"} <= kinds
    pictures = [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".png", ".jpg", ".webp")]
    assert any("preview" in str(path) for path in pictures), pictures


@pytest.mark.slow_except("flux*")
def test_t5_is_freed_after_its_texts_are_cached_and_not_loaded_when_they_are(
    base: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorasmith.families.transformer_models import t5

    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "images" / "1.png")
    (tmp_path / "images" / "1.txt").write_text(f"a caption that no earlier session has cached, {uuid4()}")
    images = tmp_path / "images"
    loads: list[str] = []
    plain = t5.load_t5
    monkeypatch.setattr(t5, "load_t5", lambda *given: (loads.append("t5"), plain(*given))[1])
    settings = config(base, images, tmp_path / "run", data={"images": str(images), "resolution": 64})
    run = build_run(load_config({**settings, "optimizer": {"text_lr": 0.0}}))
    assert run.family._t5 is None  # type: ignore[attr-defined]
    assert not run.family._text_encoders  # type: ignore[attr-defined]
    assert loads == ["t5"]
    build_run(load_config({**settings, "output": str(tmp_path / "again"), "optimizer": {"text_lr": 0.0}}))
    assert loads == ["t5"]


def one_pass(base: Path, level: int) -> tuple[torch.Tensor, list[torch.Tensor], Family]:
    """An output and gradients at a memory level, for fixed inputs."""
    family = load(base)
    use_level(family, level)
    layers = family.named_layers(["transformer"])
    adapters = AdapterSet.create(LoRA(rank=2, layers="attention-mlp"), layers, family.layer_presets, seed=0).attach()
    torch.manual_seed(5)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    adapters.train()
    torch.manual_seed(1)
    pooled = family.base.config("transformer")["pooled_projection_dim"]  # type: ignore[attr-defined]
    tensors = {"context": torch.randn(2, 20, 192), "pooled": torch.randn(2, pooled)}
    out = family.predict(torch.randn(2, 16, 8, 8), torch.tensor([0.1, 0.7]), Conditioning(tensors))
    out.pow(2).mean().backward()
    return out.detach(), [p.grad for p in adapters.parameters() if p.grad is not None], family


@pytest.mark.parametrize("level", range(1, LAST_EXACT + 1))
def test_exact_memory_levels_change_no_number(base: Path, level: int) -> None:
    expected, gradients, _ = one_pass(base, 0)
    out, found, _ = one_pass(base, level)
    assert torch.equal(out, expected)
    assert len(found) == len(gradients) > 0
    for ours, theirs in zip(found, gradients, strict=True):
        assert torch.equal(ours, theirs)


def test_weights_in_8_bits_are_close(base: Path) -> None:
    expected, _, _ = one_pass(base, 0)
    out, _, family = one_pass(base, EIGHT_BIT)
    assert any(isinstance(module, EightBitLinear) for module in family.denoiser.modules())
    assert not torch.equal(out, expected)
    assert (out - expected).norm() < 0.1 * expected.norm()


def test_the_guidance_changes_pictures_of_flux_dev_only(base: Path) -> None:
    family = load(base)
    pictures = [
        next(iter(draw(family, [Request("a cat", steps=2, cfg=1, guidance=g, width=64, height=64)]))).pixels
        for g in (1.0, 3.5)
    ]
    assert torch.equal(*pictures) == (family.kind == "sd3")


def test_pictures_are_drawn_with_the_guidance_of_the_family(base: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 2, "width": 64, "height": 64}
    files = sample(str(base), "a cat", output=tmp_path / "pictures", **options)
    text = Image.open(files.files[0]).text["parameters"]  # type: ignore[attr-defined]
    assert f"CFG scale: {'1' if base.name.startswith('flux') else '4.5'}," in text


def test_a_transformer_that_has_no_room_on_the_device_is_streamed_from_the_start(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, gradients, _ = one_pass(base, 0)
    monkeypatch.setattr("lorasmith.families.transformer_models.family.has_room", lambda device, size: False)
    out, found, family = one_pass(base, 2)
    assert family.is_streamed
    assert torch.equal(out, expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, gradients, strict=True))
