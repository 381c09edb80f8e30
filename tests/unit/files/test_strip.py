"""lorasmith strip: less metadata, the same bytes of weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file
from typer.testing import CliRunner

import lorasmith
from lorasmith.cli.main import app
from lorasmith.core.errors import LorasmithError
from lorasmith.formats.metadata import hashes

METADATA = {
    "format": "pt",
    "ss_output_name": "mia",
    "ss_tag_frequency": json.dumps({"10_secret": {"secret": 3}}),
    "ss_network_dim": "4",
    "modelspec.trigger_phrase": "mia",
    "lorasmith.config": 'base = "/secret/x.safetensors"\noutput = "/secret/mia"\n[data]\nimages = "/secret/a"\n',
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tensors = {"b": torch.arange(6.0).reshape(2, 3).half(), "a": torch.ones(3, dtype=torch.bfloat16)}
    path = tmp_path / "mia.safetensors"
    save_file(tensors, path, METADATA | hashes(tensors, METADATA))
    return path


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return dict(opened.metadata())


def weights_of(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


@pytest.mark.parametrize(("level", "name"), [("public", "mia"), ("minimal", None), ("none", None)])
def test_the_weights_stay_and_nothing_private_does(file: Path, level: str, name: str | None) -> None:
    report = lorasmith.strip(file, level)
    assert report.file == file.with_name(f"mia-{level}.safetensors")
    assert weights_of(report.file) == weights_of(file)
    metadata = metadata_of(report.file)
    assert "secret" not in str(metadata)
    assert metadata.get("ss_output_name") == name
    assert metadata["ss_network_dim"] == "4"
    assert "ss_tag_frequency" in report.removed
    assert ("modelspec.trigger_phrase" in metadata) == (level != "none")


def test_hashes_are_those_of_the_new_file(file: Path) -> None:
    new = metadata_of(lorasmith.strip(file, "none").file)
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    assert {key: new[key] for key in ("sshs_model_hash", "sshs_legacy_hash")} == hashes(tensors, new)


def test_in_place_and_twice(file: Path) -> None:
    lorasmith.strip(file, "public", output=file, overwrite=True)
    once = file.read_bytes()
    assert "secret" not in str(metadata_of(file))
    lorasmith.strip(file, "public", output=file, overwrite=True)
    assert file.read_bytes() == once


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(save({"a": torch.ones(1)})[:-2]), "cut off"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.with_name("mia-public.safetensors").write_bytes(b"x"), "exists already"),
    ],
)
def test_what_cannot_be_stripped(file: Path, make: Callable[[Path], Any], message: str) -> None:
    make(file)
    with pytest.raises(LorasmithError, match=message):
        lorasmith.strip(file)


def test_a_wrong_level_and_a_pickle(file: Path, tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="public, minimal, none"):
        lorasmith.strip(file, "full")
    torch.save({}, tmp_path / "a.ckpt")
    with pytest.raises(LorasmithError, match="pickle"):
        lorasmith.strip(tmp_path / "a.ckpt")


def test_the_command_says_what_it_took_out(file: Path) -> None:
    done = CliRunner().invoke(app, ["strip", str(file), "--json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert (report["removed"], report["file"]) == (["ss_tag_frequency"], str(file.with_name("mia-public.safetensors")))
    assert "lorasmith.config" in report["changed"]
