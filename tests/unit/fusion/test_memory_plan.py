"""The memory of a fusion's sums: what it is for full-size models, passes that fit, and that passes change nothing."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import lorasmith
from lorasmith.cli.main import app
from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import read
from lorasmith.files.model import ModelLayers
from lorasmith.fusion import memory_plan
from lorasmith.fusion.memory_plan import FreeMemory, SumsNeed, make_plan, pattern_of, plan_passes
from tests.transformer_bases import write_lora_of_block

GIB = 2**30


def free(bytes_: int, *, shared: bool = True) -> FreeMemory:
    return FreeMemory(bytes_, bytes_, shared)


def flux_widths() -> dict[str, int]:
    """The input widths of all linear layers of the blocks of Flux.1 as it is published."""
    layers = ModelLayers.published("flux").layers
    return {name: math.prod(spec.shape[1:]) for name, spec in layers.items() if "transformer_blocks." in name}


def test_the_need_of_flux_is_that_of_its_layers() -> None:
    """38 single blocks with a layer of 15,360 numbers, 19 double blocks with two of 12,288, and many of 3,072."""
    widths = flux_widths()
    wide = [width for width in widths.values() if width > 3072]
    assert sorted(set(wide)) == [12288, 15360]
    assert (wide.count(15360), wide.count(12288)) == (38, 38)
    sums = 4 * sum(width**2 for width in widths.values())
    assert sums > 60 * GIB
    need = SumsNeed.of(list(widths.values()))
    assert need.device == sums
    assert need.host == sums + 2 * 8 * 15360**2
    # on a CPU, the sums of one concept and those of all concepts are there at the same time
    assert need.together == 2 * sums


@pytest.mark.parametrize("shared", [True, False])
def test_passes_fit_and_contain_each_layer_once(shared: bool) -> None:
    widths = flux_widths()
    available = free(20 * GIB, shared=shared)
    passes = plan_passes(list(widths), widths, available)
    assert sorted(name for group in passes for name in group) == sorted(widths)
    assert all(available.holds(SumsNeed.of([widths[name] for name in group])) for group in passes)
    # a pass draws all pictures again, so that there are no more than twice as many as the sums need
    assert len(passes) <= 2 * math.ceil(SumsNeed.of(list(widths.values())).together / (20 * GIB))
    assert plan_passes(list(widths), widths, free(1000 * GIB)) == [list(widths)]


def test_a_layer_that_does_not_fit_alone_is_named_with_what_to_do() -> None:
    widths = {"transformer.single_transformer_blocks.3.proj_out": 15360, "transformer.x": 3072}
    with pytest.raises(LorasmithError, match=r"single_transformer_blocks\.3\.proj_out[\s\S]*Free memory") as raised:
        plan_passes(list(widths), widths, free(2 * GIB))
    assert '"!transformer.single_transformer_blocks.*.proj_out"' in str(raised.value)


def test_the_plan_counts_the_weights_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "free_memory", lambda device: 64 * GIB)
    widths = flux_widths()
    plan = make_plan(widths, 24 * GIB, torch.device("cpu"))
    assert plan.free == int(0.75 * 40 * GIB)
    assert plan.passes > 1
    text = "\n".join(plan.lines())
    assert f"{plan.need / GIB:.1f} GiB for {len(widths)} layers, beside 24.0 GiB of the base" in text
    assert "transformer.single_transformer_blocks.*.proj_out" in text
    with pytest.raises(LorasmithError, match="alone"):
        make_plan(widths, 62 * GIB, torch.device("cpu"))


def test_patterns_stand_for_the_layers_of_all_blocks() -> None:
    assert pattern_of("transformer.transformer_blocks.12.ff.net.2") == "transformer.transformer_blocks.*.ff.net.2"


@pytest.fixture
def files(transformer_kind: str, tmp_path: Path) -> list[str]:
    """Two LoRAs of a block and of a layer of CLIP, each with its name in prompts."""
    for seed, name in enumerate(("garp", "zork")):
        write_lora_of_block(tmp_path / f"{name}.safetensors", transformer_kind, text=True, seed=seed)
    return [f"{tmp_path / name}.safetensors={name}" for name in ("garp", "zork")]


@pytest.mark.slow
def test_several_passes_give_what_one_pass_gives(
    transformer_folder: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = lorasmith.fuse(files, transformer_folder, tmp_path / "once.safetensors", steps=2, size=64)

    def one_layer_each(layers: list[str], *rest: Any) -> list[list[str]]:
        return [[name] for name in layers]

    # the package has a function of the same name
    module = importlib.import_module("lorasmith.fusion.fuse")
    monkeypatch.setattr(module, "plan_passes", one_layer_each)
    often = lorasmith.fuse(files, transformer_folder, tmp_path / "often.safetensors", steps=2, size=64)
    model = ModelLayers.from_base(transformer_folder)
    expected, found = read(once.file, model).layers, read(often.file, model).layers
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(found[name][key], tensor)
    assert often.missed == once.missed
    assert often.held_out == once.held_out


def test_a_dry_run_says_the_need_and_writes_nothing(
    transformer_folder: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("lorasmith.fusion.files.load", load)
    output = tmp_path / "fused.safetensors"
    arguments = ["fuse", *files, "--base", str(transformer_folder), "--output", str(output), "--dry-run", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    # q, k and v of a block and a layer of CLIP, each 64 wide, on a CPU for one concept and for all
    assert json.loads(done.stdout)["need"] == 2 * 4 * 4 * 64**2
    assert "free for them" in done.stderr
    assert not output.exists()


def test_too_little_memory_is_said_before_the_base_is_loaded(
    transformer_folder: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("lorasmith.fusion.files.load", load)
    monkeypatch.setattr(memory_plan, "free_memory", lambda device: 1000)
    with pytest.raises(LorasmithError, match=r"fusing needs [\s\S]* are free for them beside the base"):
        lorasmith.fuse(files, transformer_folder, tmp_path / "fused.safetensors", steps=2, size=64)
