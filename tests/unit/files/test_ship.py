"""A file that is passed on has a card, keeps its weights, and tells nothing private."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open
from safetensors.torch import save_file

from lorasmith import api
from lorasmith.core.errors import LorasmithError


def test_a_shipped_file_has_its_card_and_the_same_weights(tmp_path: Path) -> None:
    file, picture = tmp_path / "mia.safetensors", tmp_path / "p.png"
    save_file({"a.lora_down.weight": torch.arange(6.0)}, file, {"ss_dataset_dirs": "{}", "modelspec.title": "mia"})
    notes = PngInfo()
    notes.add_text("parameters", "a secret prompt")
    Image.new("RGB", (800, 400), (9, 90, 9)).save(picture, pnginfo=notes)
    made = api.ship(file, thumbnail=picture, trigger="mia", license="CC-BY-4.0", description="a <b>woman</b>")
    assert made == tmp_path / "mia-ship.safetensors"
    with safe_open(made, "pt") as opened:
        metadata = opened.metadata()
        assert opened.get_tensor("a.lora_down.weight").equal(torch.arange(6.0))
    head, _, data = metadata["modelspec.thumbnail"].partition(",")
    content = base64.b64decode(data)
    assert (head, Image.open(io.BytesIO(content)).size) == ("data:image/jpeg;base64", (384, 192))
    assert b"secret" not in content
    texts = {key: metadata[f"modelspec.{key}"] for key in ("title", "trigger_phrase", "license", "description")}
    assert texts == {"title": "mia", "trigger_phrase": "mia", "license": "CC-BY-4.0", "description": "a <b>woman</b>"}
    assert "ss_dataset_dirs" not in metadata
    with pytest.raises(LorasmithError, match="mia-ship"):
        api.ship(file)
    with pytest.raises(LorasmithError, match="cannot be read as a picture"):
        api.ship(file, thumbnail=file, overwrite=True)
