"""A LoRA of the difference of two checkpoints."""

from __future__ import annotations

import pytest
import torch
from changes import deltas, distance, same

from lorasmith.adapters.lora import LoRA
from lorasmith.adapters.norm import Norm
from lorasmith.core.errors import LorasmithError
from lorasmith.files.extract import extract
from lorasmith.files.lora import LoraInput, OutputFile
from lorasmith.files.lowrank import Truncation
from lorasmith.files.merge import merge

LAYERS = ("unet.mid_block.*", "te*.q_proj")


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_what_was_merged_comes_back(kind, make, bases, families, tmp_path) -> None:
    path, _ = make(LoRA(rank=3, conv_rank=3, layers=LAYERS), kind)
    merge(bases(kind), [LoraInput(path)], tmp_path / "tuned")
    report = extract(
        tmp_path / "tuned", bases(kind), Truncation(rank=3), OutputFile(tmp_path / "x.safetensors", torch.float32)
    )
    same(deltas(families(kind), report.file), deltas(families(kind), path), 1e-4)
    assert report.error < 1e-4


def test_less_than_there_is_has_the_error_that_is_said(make, bases, families, tmp_path) -> None:
    path, _ = make(LoRA(rank=4, layers=LAYERS))
    merge(bases(), [LoraInput(path)], tmp_path / "tuned")
    exact = deltas(families(), path)
    for name, cut in (("r", Truncation(rank=1)), ("e", Truncation(energy=0.8))):
        report = extract(tmp_path / "tuned", bases(), cut, OutputFile(tmp_path / f"{name}.safetensors", torch.float32))
        assert report.error == pytest.approx(distance(deltas(families(), report.file), exact), rel=1e-2)
    assert report.error <= 0.2**0.5 + 1e-3


def test_what_a_lora_cannot_hold_is_named(make, bases, tmp_path) -> None:
    (norms, _), (lora, _) = make(Norm()), make(LoRA(rank=2, layers=LAYERS))
    merge(bases(), [LoraInput(norms), LoraInput(lora)], tmp_path / "tuned")
    report = extract(tmp_path / "tuned", bases(), Truncation(rank=2), OutputFile(tmp_path / "x.safetensors"))
    assert any("norms" in note for note in report.notes)


def test_what_does_not_belong_together_is_refused(bases, tmp_path) -> None:
    with pytest.raises(LorasmithError, match="do not differ"):
        extract(bases(), bases(), Truncation(rank=2), OutputFile(tmp_path / "x.safetensors"))
    with pytest.raises(LorasmithError, match="is not a model like"):
        extract(bases("sdxl"), bases(), Truncation(rank=2), OutputFile(tmp_path / "x.safetensors"))
    assert not (tmp_path / "x.safetensors").exists()
