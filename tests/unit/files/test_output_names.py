"""Names that some system does not take are refused before a tool writes a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.core.errors import LorasmithError
from lorasmith.files.combine import combine
from lorasmith.files.convert import convert
from lorasmith.files.extract import extract
from lorasmith.files.lora import LoraInput, OutputFile
from lorasmith.files.lowrank import Truncation
from lorasmith.files.merge import merge
from lorasmith.files.resize import resize

RANK = Truncation(rank=1)
TOOLS: dict[str, Callable[[Path, Path, Path], object]] = {
    "convert": lambda lora, base, out: convert(lora, "peft", OutputFile(out), base=base),
    "resize": lambda lora, base, out: resize(lora, RANK, OutputFile(out), base=base),
    "combine": lambda lora, base, out: combine([LoraInput(lora), LoraInput(lora)], OutputFile(out), base=base),
    "extract": lambda lora, base, out: extract(base, base, RANK, OutputFile(out)),
    "merge": lambda lora, base, out: merge(base, [LoraInput(lora)], out.with_suffix("") if base.is_dir() else out),
}


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{stem}.lora_down.weight": torch.ones(1, 32), f"{stem}.lora_up.weight": torch.ones(32, 1)}
    save_file(tensors, tmp_path / "lora.safetensors", {"ss_base_model_version": "sd_v1"})
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    ("name", "fault"),
    [("con", "device on Windows"), ("a:b", "not every file system takes"), ("mia ", "Windows leaves out")],
)
def test_a_name_that_windows_does_not_take_is_refused(
    tool: str, name: str, fault: str, lora: Path, random_base: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(LorasmithError, match=rf"{fault}.*give another name with -o"):
        TOOLS[tool](lora, random_base("sd1"), tmp_path / "out" / f"{name}.safetensors")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_name_may_be_longer_than_that_of_a_run(tmp_path: Path) -> None:
    OutputFile(tmp_path / f"{'a' * 220}.safetensors").check()
