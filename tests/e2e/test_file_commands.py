"""The commands on LoRA files as their user runs them, on the embedded base; and on files that are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import Program, assert_clear
from safetensors.torch import load_file, save_file

from lorasmith.training.config import load_config
from lorasmith.training.session import train
from tests.conftest import make_pictures

COMMANDS = ("inspect", "convert", "resize", "merge", "combine")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of three steps. Tests must not change it."""
    folder = tmp_path_factory.mktemp("lora")
    table: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(folder / "run"),
        "name": "garp",
        "trigger": ["garp"],
        "steps": 3,
        "data": {"images": str(make_pictures(folder / "images", 4, (80, 72))), "resolution": 64, "batch_size": 2},
        "adapter": {"rank": 2, "layers": "attention"},
        "optimizer": {"lr": 1e-2},
        "checkpoint": {"at_end": False},
    }
    file = train(load_config(table)).file
    assert file is not None
    return file


def arguments(command: str, file: Path, output: Path) -> list[str]:
    """A command on a file, for the embedded base."""
    base = ["--base", "tiny-sd"]
    return {
        "inspect": [str(file)],
        "convert": [str(file), "--to", "portable", *base, "-o", str(output)],
        "resize": [str(file), "--rank", "1", *base, "-o", str(output)],
        "merge": ["tiny-sd", str(file), "-o", str(output.with_suffix(""))],
        "combine": [str(file), f"{file}:0.5", *base, "-o", str(output)],
    }[command]


@pytest.mark.slow
def test_one_after_the_other(here: Program, lora: Path, tmp_path: Path) -> None:
    """A LoRA is merged, extracted again, resized, combined, converted: what comes out is still that LoRA."""
    merged, again = tmp_path / "merged", tmp_path / "again.safetensors"
    assert here("merge", "tiny-sd", lora, "-o", merged).code == 0
    answer = here("extract", merged, "tiny-sd", "--rank", "2", "--dtype", "fp32", "-o", again, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["error"] < 0.05  # the base is float16, so the merged weights are rounded
    half = tmp_path / "half.safetensors"
    assert here("combine", f"{lora}:0.5", f"{again}:0.5", "--base", "tiny-sd", "--rank", "2", "-o", half).code == 0
    small = tmp_path / "small.safetensors"
    assert here("resize", half, "--energy", "0.999", "--base", "tiny-sd", "-o", small).code == 0
    last = tmp_path / "last.safetensors"
    answer = here("convert", small, "--to", "peft", "--base", "tiny-sd", "-o", last, "--json")
    assert answer.code == 0, answer.err
    assert any(name.startswith("unet.") for name in load_file(last))
    shown = here("inspect", last, "--json").json
    assert shown["spelling"] == "peft"
    first = here("inspect", lora, "--json").json
    assert sum(shown["norms"].values()) == pytest.approx(sum(first["norms"].values()), rel=0.05)
    drawn = here("sample", "--base", merged, "--prompt", "garp", "--steps", "1", "--size", "64", "-o", tmp_path / "out")
    assert drawn.code == 0, drawn.err


def damaged(kind: str, good: Path, folder: Path) -> Path:
    """A file that is not what it seems."""
    path = folder / f"{kind}.safetensors"
    data, tensors = good.read_bytes(), load_file(good)
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "header":
        path.write_bytes((1 << 62).to_bytes(8, "little") + data[8:])
    elif kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pickle":
        path = folder / "pickle.ckpt"
        torch.save(tensors, path)
    elif kind == "nan":
        name = next(n for n in tensors if "lora_up" in n)
        save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, path)
    elif kind == "shape":
        save_file({n: torch.cat([t, t], -1) if "lora_down" in n else t for n, t in tensors.items()}, path)
    elif kind == "words":
        save_file({n.replace("lora_up", "lora_sideways"): t for n, t in tensors.items()}, path)
    elif kind == "half":
        save_file({n: t for n, t in tensors.items() if "lora_up" not in n}, path)
    return path


@pytest.mark.parametrize("kind", ["cut", "header", "text", "empty", "pickle", "nan", "shape", "words", "half", "none"])
def test_damaged_files_are_told_and_nothing_is_written(kind: str, here: Program, lora: Path, tmp_path: Path) -> None:
    bad = damaged(kind, lora, tmp_path)
    for command in COMMANDS:
        if command == "inspect" and kind in ("shape", "half", "words"):
            continue  # it shows what is there
        output = tmp_path / "output.safetensors"
        answer = here(command, *arguments(command, bad, output))
        assert_clear(answer, bad.name)
        assert not output.exists()
        assert not output.with_suffix("").exists()
        assert not list(tmp_path.glob("*.tmp*"))
        assert not list(tmp_path.glob(".*"))


def test_what_is_there_is_kept(here: Program, lora: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.safetensors"
    output.write_bytes(b"mine")
    for command in ("convert", "resize", "combine"):
        assert_clear(here(command, *arguments(command, lora, output)), "--overwrite")
        assert output.read_bytes() == b"mine"
    assert here("resize", *arguments("resize", lora, output), "--overwrite").code == 0


def test_a_picture_of_the_change(here: Program, lora: Path, tmp_path: Path) -> None:
    from PIL import Image

    answer = here("inspect", lora, "--plot", tmp_path / "norms.png", "--json")
    assert answer.code == 0, answer.err
    picture = Image.open(tmp_path / "norms.png").convert("RGB")
    assert picture.width > 300
    colours = picture.getcolors(1 << 20) or []
    assert len(colours) > 3  # bars and letters, not a blank sheet
    blocks = json.loads(answer.out)["norms"]
    assert picture.height > 18 * len(blocks)
