"""New words from config to files: with an adapter, alone, in phases, resumed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import Program
from safetensors.torch import load_file

from lorasmith.training.config import load_config
from lorasmith.training.session import finish, train
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.loop import fit


def settings(images: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A run of six steps that learns two words of one concept."""
    table: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "steps": 6,
        "name": "garp",
        "data": {
            "images": str(images),
            "resolution": 64,
            "batch_size": 2,
            "transforms": [{"kind": "template", "templates": ["a photo of <g1> <g2>", "<g1> <g2>"]}],
        },
        "adapter": {"kind": "lora", "rank": 2, "layers": "attention"},
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "concepts": [{"words": ["<g1>", "<g2>"], "init": ["<rand-0.02>", "robot"], "layerwise": True, "lr": 1e-2}],
        "checkpoint": {"every_steps": 3},
    }
    return table | changes


@pytest.mark.slow
def test_phases_move_each_part_in_its_time_alone(pictures: Callable[..., Path], tmp_path: Path) -> None:
    config = load_config(settings(pictures(4), tmp_path / "run", phases={"words": [0, 0.5], "unet": [0.5, 1]}))
    run = build_run(config)
    seen = []

    class Watch:
        def open(self, run: Any) -> None: ...
        def start(self, run: Any) -> None: ...
        def finish(self, run: Any) -> None: ...
        def after_step(self, run: Any) -> None:
            words = torch.cat([p.detach().flatten() for p in run.token_trainer.vocabulary.parameters()])
            layers = torch.cat([p.detach().flatten() for p in run.adapters.parameters()])
            seen.append((words.clone(), layers.clone()))

    run.hooks = (*run.hooks, Watch())  # type: ignore[assignment]
    fit(run)
    run.events.close()
    moved = [(not torch.equal(a[0], b[0]), not torch.equal(a[1], b[1])) for a, b in itertools.pairwise(seen)]
    assert moved == [(True, False), (True, False), (False, True), (False, True), (False, True)]


@pytest.mark.slow
def test_a_resumed_run_has_the_same_words(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(4)
    changes = {"ema": 0.5, "phases": {"words": [0, 0.8]}}
    train(load_config(settings(images, tmp_path / "whole", **changes)))
    config = load_config(settings(images, tmp_path / "parts", **changes))
    run = build_run(config)
    run.stopping = True  # ends after the first step
    fit(run)
    finish(config, run)
    run.events.close()
    run.adapters.detach()
    train(load_config(settings(images, tmp_path / "parts", **changes)), resume=tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "garp.exact.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_words_alone(pictures: Callable[..., Path], tmp_path: Path, here: Program) -> None:
    table = settings(pictures(4), tmp_path / "run", optimizer={"kind": "adamw", "unet_lr": 0.0})
    table["concepts"][0] |= {"layerwise": False, "vectors": 2}
    result = train(load_config(table))
    assert result.file is not None
    assert result.file.name == "garp.exact.safetensors"
    assert not (tmp_path / "run" / "garp.safetensors").exists()
    embedding = load_file(tmp_path / "run" / "embeddings" / "g2.safetensors")["emb_params"]
    assert embedding.shape[0] == 2

    sampled = []
    for arguments in (["--lora", result.file], ["--embedding", tmp_path / "run/embeddings/g1.safetensors"]):
        out = tmp_path / f"out{len(sampled)}"
        answer = here(
            "sample", "--base", "tiny-sd", *arguments, "--prompt", "g1", "--steps", "2", "--size", "64", "-o", out
        )
        assert answer.code == 0, answer.err
        sampled.append((out / "00000-0.png").read_bytes())
    assert sampled[0] != sampled[1]  # in the exact file the word is <g1>, as it was trained


@pytest.mark.slow
def test_the_lora_finds_its_words_beside_it(pictures: Callable[..., Path], tmp_path: Path, here: Program) -> None:
    from PIL import Image, ImageChops

    result = train(load_config(settings(pictures(4), tmp_path / "run")))
    assert result.file is not None
    images = []
    for name in ("garp", "garp.exact"):
        out = tmp_path / name
        arguments = ["--lora", tmp_path / "run" / f"{name}.safetensors", "--prompt", "a <g1> <g2>", "--steps", "2"]
        answer = here("sample", "--base", "tiny-sd", *arguments, "--size", "64", "-o", out)
        assert answer.code == 0, answer.err
        images.append(Image.open(out / "00000-0.png").convert("RGB"))
    assert ImageChops.difference(*images).getbbox() is None
    converted = ["--to", "portable", "--base", "tiny-sd", "-o", tmp_path / "plain.safetensors", "--json"]
    answer = here("convert", tmp_path / "run" / "garp.exact.safetensors", *converted)
    assert answer.code == 0, answer.err
    assert "<g1>, <g2>" in answer.json["notes"][0]
    (tmp_path / "run" / "garp.exact.safetensors").unlink()
    answer = here(
        "sample", "--base", "tiny-sd", "--lora", result.file, "--prompt", "<g1>", "--steps", "1", "-o", tmp_path / "x"
    )
    assert "<g1>, <g2>" in answer.err + answer.out


def test_a_gap_between_phases_is_an_error(pictures: Callable[..., Path], tmp_path: Path, here: Program) -> None:
    config = tmp_path / "gap.json"
    import json

    table = settings(pictures(4), tmp_path / "run", phases={"words": [0, 0.4], "unet": [0.5, 1]})
    config.write_text(json.dumps(table))
    answer = here("train", config)
    assert answer.code != 0
    assert "phases" in answer.err
    assert "0.4" in answer.err


def test_words_that_are_not_trained_leave_the_cache_alone(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """Texts are cached by what they say, which another run reads without these words."""
    table = settings(pictures(4), tmp_path / "words", steps=1)
    table["data"]["cache_dir"] = str(tmp_path / "cache")
    table["concepts"][0]["lr"] = 0.0
    assert not build_run(load_config(table)).dataset.text_cached
    del table["concepts"]
    table |= {"output": str(tmp_path / "plain")}
    run = build_run(load_config(table))
    assert run.dataset.text_cached
    assert all("words" not in load_file(path) for path in (tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_bundle_beside(pictures: Callable[..., Path], tmp_path: Path, here: Program) -> None:
    """The words inside the LoRA, called as their embedding files are, mean what these mean."""
    config = tmp_path / "c.json"
    table = settings(pictures(3), tmp_path / "run", trigger=["<g1> <g2>"], export={"also": ["bundle"]}, steps=2)
    config.write_text(json.dumps(table))
    told = here("train", config)
    assert told.code == 0, told.err
    assert "lorasmith refit" in told.err, "embeddings of layer-wise words are their mean"
    bundle = load_file(tmp_path / "run" / "garp.bundle.safetensors")
    lora = load_file(tmp_path / "run" / "garp.safetensors")
    assert {name for name in bundle if name not in lora} == {
        "bundle_emb.g1.string_to_param.*",
        "bundle_emb.g2.string_to_param.*",
    }
    word = load_file(tmp_path / "run" / "embeddings" / "g1.safetensors")["emb_params"]
    torch.testing.assert_close(bundle["bundle_emb.g1.string_to_param.*"], word)
    concepts = [{"words": ["my.word"], "init": "robot"}]
    dotted = table | {"concepts": concepts, "trigger": ["my.word"], "output": str(tmp_path / "no")}
    dotted["data"] = table["data"] | {"transforms": [{"kind": "template", "templates": ["my.word"]}]}
    config.write_text(json.dumps(dotted))
    assert "has a dot" in here("train", config).err
