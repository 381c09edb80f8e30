"""Hashes of parts: the same for the same numbers, another for others, remembered between runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.families import fingerprint
from lorasmith.families.stable_diffusion.source import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("unet", "vae", "text_encoder"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps({"size": 1}))
        save_file({"a": torch.ones(4)}, tmp_path / part / "model.safetensors")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text("{}")
    return tmp_path


def hashes(folder: Path) -> dict[str, str]:
    source = Folder("x", folder, "sd1")
    return {part: fingerprint.part_hash(source, part) for part in ("unet", "vae", "te")}


def test_each_part_has_its_own(folder: Path, tmp_path: Path) -> None:
    before = hashes(folder)
    save_file({"a": torch.zeros(4)}, folder / "vae" / "model.safetensors")
    after = hashes(folder)
    assert {part for part in before if before[part] != after[part]} == {"vae"}
    (folder / "vae" / "config.json").write_text(json.dumps({"size": 2}))
    assert hashes(folder)["vae"] != after["vae"]
    (folder / "tokenizer" / "vocab.json").write_text('{"a": 1}')
    assert hashes(folder)["te"] != after["te"]


def test_bytes_are_read_once_per_state_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = fingerprint.digest
    monkeypatch.setattr(fingerprint, "digest", lambda refs: reads.append(1) or real(refs))
    first = hashes(folder)
    assert len(reads) == 3
    assert hashes(folder) == first
    assert len(reads) == 3
    file = folder / "unet" / "model.safetensors"
    os.utime(file, ns=(1, 1))
    assert hashes(folder) == first
    assert len(reads) == 4


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hashes(folder)
    blocked = folder / "file"
    blocked.write_text("")
    monkeypatch.setenv("LORASMITH_CACHE", str(blocked / "below"))
    assert hashes(folder) == first
