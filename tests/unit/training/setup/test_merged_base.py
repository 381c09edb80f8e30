"""LoRA files that are merged into the base before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import lorasmith
from lorasmith.core.errors import LorasmithError
from lorasmith.families.load import load
from lorasmith.files.lora import LoraInput
from lorasmith.files.merge import merge
from lorasmith.sampling.loras import LoraUse, load_lora
from lorasmith.training.config import load_config
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run
from lorasmith.training.setup.merge_into_base import merge_into_base

KINDS = ("lora", "dora", "lokr", "oft", "full")


def table(images: Path, output: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "name": "a",
        "steps": 2,
        "precision": "fp32",
        "data": {"images": str(images), "resolution": 64},
        "adapter": {"kind": "lora", "rank": 2, "layers": "attention"},
        "optimizer": {"lr": 1e-2, "text_lr": 1e-2},
        "export": {"dtype": "fp32"},
        "log": {"tensorboard": False},
    }
    return settings | changes


@pytest.fixture(scope="module")
def loras(float32_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind that changes UNet and text encoder."""
    folder = tmp_path_factory.mktemp("loras")
    images = folder / "images"
    images.mkdir()
    for i in range(2):
        Image.new("RGB", (64, 64), (90 * i, 60, 200 - 90 * i)).save(images / f"{i}.png")
        (images / f"{i}.txt").write_text(f"a photo of garp, number {i}")
    found = {}
    for kind in KINDS:
        layers: Any = ["*attn2.to_k", "*mid_block*conv1", "te.*q_proj"]
        found[kind] = train(
            load_config(table(images, folder / kind, base=str(float32_base), adapter={"kind": kind, "layers": layers}))
        ).file
    return found


@pytest.mark.slow_except("full")
@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_a_merged_base_is_the_one_that_merge_writes(
    kind: str, float32_base: Path, loras: dict[str, Path], tmp_path: Path
) -> None:
    """Every weight, of the UNet at once and of the text encoder whenever it is loaded; two files in their order."""
    uses = [(loras[kind], 0.75), (loras["lora"], -0.5)]
    merge(float32_base, [LoraInput(*use) for use in uses], tmp_path / "merged")
    expected, found = load(tmp_path / "merged"), load(float32_base)
    plain = {name: t.clone() for name, t in found.denoiser.state_dict().items()}
    merge_into_base(found, [LoraUse(*use) for use in uses])
    for _ in range(2):
        for name, model in expected.components().items():
            own = found.components()[name].state_dict()
            for key, tensor in model.state_dict().items():
                torch.testing.assert_close(own[key], tensor, rtol=0, atol=2e-7)
        found.release("text")
    moved = [name for name, t in found.denoiser.state_dict().items() if not torch.equal(t, plain[name])]
    assert moved
    assert all("attn2.to_k" in name or "mid_block" in name for name in moved)


@pytest.mark.slow
def test_training_is_that_on_the_merged_base(
    float32_base: Path, loras: dict[str, Path], pictures: Callable[..., Path], tmp_path: Path
) -> None:
    """The file is, to rounding, that of the base that `lorasmith merge` writes; without the merge it is another."""
    images = pictures(3)
    merge(float32_base, [LoraInput(loras["dora"], 0.75)], tmp_path / "merged")
    files = {}
    for name, base, merged in (
        ("written", tmp_path / "merged", []),
        ("in memory", float32_base, [f"{loras['dora']}:0.75"]),
        ("without", float32_base, []),
    ):
        files[name] = train(load_config(table(images, tmp_path / name, base=str(base), merge=merged))).file
    written, found, without = (load_file(file) for file in files.values() if file)
    assert written.keys() == found.keys() == without.keys()

    def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
        ups = [name for name in one if name.endswith("lora_up.weight")]
        gap = sum(float((one[name] - other[name]).square().sum()) for name in ups)
        return (gap / sum(float(one[name].square().sum()) for name in ups)) ** 0.5

    assert apart(written, found) < 1e-3  # Adam's first steps turn rounding of small gradients into steps
    assert apart(written, without) > 0.1


@pytest.mark.slow
def test_texts_of_a_merged_encoder_have_caches_of_their_own(loras: dict[str, Path]) -> None:
    """By file and strength; a file without text layers leaves them; latents are the same."""
    prints: dict[str, dict[str, str]] = {}
    for name, uses in {
        "plain": [],
        "merged": [LoraUse(loras["lora"], 0.5)],
        "stronger": [LoraUse(loras["lora"], 0.50001)],
        "other": [LoraUse(loras["lokr"], 0.5)],
        "both": [LoraUse(loras["lora"], 0.5), LoraUse(loras["lokr"], 0.5)],
    }.items():
        family = load("tiny-sd")
        merge_into_base(family, uses)
        prints[name] = {part: family.fingerprint(part) for part in ("unet", "vae", "text")}
    assert len({p["text"] for p in prints.values()}) == len({p["unet"] for p in prints.values()}) == 5
    assert len({p["vae"] for p in prints.values()}) == 1


@pytest.mark.slow
def test_conditions_of_a_run_are_the_merged_encoders(
    loras: dict[str, Path], pictures: Callable[..., Path], tmp_path: Path
) -> None:
    """After a run on the plain base has filled the cache for the same captions."""
    images = pictures(2)
    unet_only = {"lr": 1e-3, "text_lr": 0.0}
    conditions = []
    for name, merged in (("plain", []), ("merged", [str(loras["lora"])]), ("again", [])):
        run = build_run(load_config(table(images, tmp_path / name, optimizer=unet_only, merge=merged)))
        run.events.close()
        assert run.dataset.text_cached
        conditioning = run.dataset.load(run.dataset.epoch(0)[0]).conditioning
        assert conditioning is not None
        conditions.append(conditioning["context"])
        family = load("tiny-sd", dtype=torch.float32)
        if merged:
            load_lora(family, loras["lora"])
        captions = [run.dataset.records[item.record].captions[0] for item in run.dataset.epoch(0)[0].views]
        with torch.no_grad():
            torch.testing.assert_close(
                conditioning["context"], family.encode_text(captions)["context"], rtol=1e-4, atol=1e-4
            )
    assert torch.equal(conditions[0], conditions[2])
    assert not torch.allclose(conditions[0], conditions[1], rtol=1e-3, atol=1e-3)


def test_the_base_of_previews_is_the_merged_one(
    loras: dict[str, Path], pictures: Callable[..., Path], tmp_path: Path
) -> None:
    run = build_run(load_config(table(pictures(2), tmp_path / "run", merge=[f"{loras['oft']}:0.5"])))
    run.events.close()
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    other = load("tiny-sd", dtype=torch.float32)
    with torch.no_grad():
        plain = other.predict(x, t, other.encode_text(["a photo"]))
        load_lora(other, loras["oft"]).set_strength(0.5)
        expected = other.predict(x, t, other.encode_text(["a photo"]))
        for p in run.adapters.parameters():
            p.add_(0.1)
        with run.as_base():
            found = run.family.predict(x, t, run.family.encode_text(["a photo"]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, rtol=1e-3, atol=1e-3)
    run.adapters.detach()


def test_a_file_that_cannot_be_merged_is_found_before(
    loras: dict[str, Path], pictures: Callable[..., Path], tmp_path: Path
) -> None:
    missing, small = tmp_path / "none.safetensors", tmp_path / "small.safetensors"
    words = {k: t[..., :-1].contiguous() if t.dim() == 2 else t for k, t in load_file(loras["lora"]).items()}
    save_file(words, small)
    given = table(pictures(2), tmp_path / "run", merge=[f"{missing}:0.5", str(small), str(loras["lora"])])
    found = lorasmith.check(given)
    assert [
        (p.where, word in p.found)
        for p, word in zip(found.errors, ("no such LoRA file", "cannot be multiplied"), strict=True)
    ] == [
        ("merge", True),
        ("merge", True),
    ]
    with pytest.raises(LorasmithError, match=r"none\.safetensors: no such LoRA file"):
        build_run(load_config(given))


@pytest.mark.slow
def test_a_whole_model_holds_what_was_merged(
    float32_base: Path, loras: dict[str, Path], pictures: Callable[..., Path], tmp_path: Path
) -> None:
    given = table(pictures(2), tmp_path / "run", base=str(float32_base), merge=[f"{loras['lora']}:0.5"])
    still = {"lr": 1e-12, "text_lr": 1e-12, "weight_decay": 0.0}
    train(load_config(given | {"export": {"dtype": "fp32", "model": "layout"}, "optimizer": still}))
    merge(float32_base, [LoraInput(loras["lora"], 0.5)], tmp_path / "merged")
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        found = load_file(tmp_path / "run/a.model" / f"{part}.safetensors")
        for name, tensor in load_file(tmp_path / "merged" / f"{part}.safetensors").items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
