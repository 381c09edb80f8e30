"""LoRA files of Flux and SD3 that change T5: kept by tools on files, left out with a word where they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.api import fuse
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.load import load
from lorasmith.files.convert import convert
from lorasmith.files.extract import extract
from lorasmith.files.lora import LoraInput, OutputFile, read
from lorasmith.files.lowrank import Truncation
from lorasmith.files.merge import merge
from lorasmith.files.model import ModelLayers
from lorasmith.formats.inspect import inspect
from lorasmith.sampling.loras import Loras, LoraUse, load_lora
from lorasmith.training.config import load_config
from lorasmith.training.setup.build import load_adapters
from lorasmith.training.setup.merge_into_base import merge_into_base
from tests.transformer_bases import QKV, T5_WIDTH, VERSIONS, original_names, whole_checkpoint

FOLDERS = {"flux": "text_encoder_2", "sd3": "text_encoder_3"}
T5_ROWS = 96
"""Four heads of 24."""
PATH = "encoder.block.0.layer.0.SelfAttention.q"
LAYER = f"t5.{PATH}"


def change(rows: int, width: int, names: tuple[str, str]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return {
        names[0]: torch.randn(2, width, generator=generator) * 0.2,
        names[1]: torch.randn(rows, 2, generator=generator) * 0.2,
    }


def write_lora(path: Path, kind: str, spelling: str = "sd-scripts", *, transformer: bool = True) -> Path:
    """A LoRA of q, k and v of a block, and of a layer of T5 under the names of a program."""
    kohya = ("lora_down.weight", "lora_up.weight")
    stems = {
        "sd-scripts": ("lora_te3_" + PATH.replace(".", "_"), kohya),
        "diffusers": (f"{FOLDERS[kind]}.{PATH}", ("lora_A.weight", "lora_B.weight")),
        "ComfyUI": (f"text_encoders.t5xxl.transformer.{PATH}", ("lora_A.weight", "lora_B.weight")),
    }
    stem, names = stems[spelling]
    tensors = {f"{stem}.{name}": tensor for name, tensor in change(T5_ROWS, T5_WIDTH, names).items()}
    if transformer:
        more = change(192, 64, kohya)
        tensors |= {f"lora_unet_{QKV[kind]}.{name}": tensor for name, tensor in more.items()}
    save_file(tensors, path, {"ss_base_model_version": VERSIONS[kind]})
    return path


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.slow_except("flux-*")
@pytest.mark.parametrize("spelling", ["sd-scripts", "diffusers", "ComfyUI"])
def test_convert_keeps_the_layers_of_t5(
    transformer_kind: str, transformer_folder: Path, spelling: str, tmp_path: Path
) -> None:
    lora = write_lora(tmp_path / "lora.safetensors", transformer_kind, spelling)
    tensors = read(lora, ModelLayers.from_base(transformer_folder)).layers[LAYER]
    for form in ("kohya", "peft"):
        output = OutputFile(tmp_path / f"{form}.safetensors")
        convert(lora, form, output, base=transformer_folder)
        again = read(output.path, ModelLayers.from_base(transformer_folder)).layers[LAYER]
        torch.testing.assert_close(
            again["lora_up.weight"] @ again["lora_down.weight"], tensors["lora_up.weight"] @ tensors["lora_down.weight"]
        )


@pytest.mark.slow_except("flux*")
def test_merge_changes_t5_in_a_folder_and_in_a_single_file(
    transformer_kind: str, transformer_folder: Path, tmp_path: Path
) -> None:
    lora = write_lora(tmp_path / "lora.safetensors", transformer_kind)
    save_file(whole_checkpoint(transformer_folder, transformer_kind), tmp_path / "whole.safetensors")
    merge(transformer_folder, [LoraInput(lora)], tmp_path / "merged")
    merge(tmp_path / "whole.safetensors", [LoraInput(lora)], tmp_path / "merged.safetensors")
    file = Path(FOLDERS[transformer_kind]) / "model.safetensors"
    before, after = load_file(transformer_folder / file), load_file(tmp_path / "merged" / file)
    down, up = change(T5_ROWS, T5_WIDTH, ("down", "up")).values()
    torch.testing.assert_close(after[f"{PATH}.weight"], before[f"{PATH}.weight"] + up @ down)
    single = load_file(tmp_path / "merged.safetensors")[f"text_encoders.t5xxl.transformer.{PATH}.weight"]
    torch.testing.assert_close(single, after[f"{PATH}.weight"])


def test_extract_compares_no_t5(transformer_kind: str, transformer_folder: Path, tmp_path: Path) -> None:
    merge(
        transformer_folder,
        [LoraInput(write_lora(tmp_path / "lora.safetensors", transformer_kind))],
        tmp_path / "merged",
    )
    report = extract(
        tmp_path / "merged", transformer_folder, Truncation(rank=2), OutputFile(tmp_path / "out.safetensors")
    )
    assert report.layers == 3


def test_a_base_without_t5_is_named(transformer_kind: str, transformer_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    save_file(original_names(transformer_folder, transformer_kind), tmp_path / "alone" / "base.safetensors")
    lora = write_lora(tmp_path / "lora.safetensors", transformer_kind)
    with pytest.raises(LorasmithError, match="text encoders that the base lacks: t5"):
        merge(tmp_path / "alone" / "base.safetensors", [LoraInput(lora)], tmp_path / "merged.safetensors")


def test_a_description_says_what_becomes_of_t5(transformer_kind: str, tmp_path: Path) -> None:
    contents = inspect(write_lora(tmp_path / "lora.safetensors", transformer_kind))
    assert contents["components"]["t5"] == 1
    assert contents["family"] == transformer_kind
    assert any("1 of its layers change T5: convert" in note for note in contents["notes"])


def test_t5_is_left_out_with_a_word_where_a_file_is_loaded(
    transformer_kind: str, transformer_folder: Path, tmp_path: Path
) -> None:
    lora = write_lora(tmp_path / "lora.safetensors", transformer_kind)
    family = load(transformer_folder, dtype=torch.float32)
    said = Said()
    assert list(Loras(family, said).get(lora).components()) == ["transformer"]
    load_lora(family, lora, said).detach()
    assert sum("its 1 layers of T5 are left out" in line for line in said.lines) == 2
    assert any("its 1 layers of T5 are left out" in note for note in merge_into_base(family, [LoraUse(lora)]))
    only_t5 = write_lora(tmp_path / "t5.safetensors", transformer_kind, transformer=False)
    with pytest.raises(LorasmithError, match="all of its 1 layers change T5"):
        load_lora(family, only_t5)


def test_a_run_does_not_begin_from_a_file_with_t5(
    transformer_kind: str, transformer_folder: Path, tmp_path: Path
) -> None:
    lora = write_lora(tmp_path / "lora.safetensors", transformer_kind)
    table = {
        "base": str(transformer_folder),
        "output": str(tmp_path / "run"),
        "start": str(lora),
        "data": {"images": "photos"},
    }
    with pytest.raises(LorasmithError, match=r"start: .* also changes T5"):
        load_adapters(load_config(table), load(transformer_folder, dtype=torch.float32), lora, ["transformer"])


def test_layers_of_t5_are_not_fused(transformer_kind: str, transformer_folder: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora.safetensors", transformer_kind)
    with pytest.raises(LorasmithError, match="it changes T5, which cannot be fused"):
        fuse([f"{lora}=garp", f"{lora}=zork"], transformer_folder, tmp_path / "fused.safetensors", steps=1, size=64)
