"""DINO as a scorer: the class token of transformers' own model, with the preprocessing that its folder names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorasmith.core.errors import LorasmithError
from lorasmith.evaluation.dino import Crop, Dino, crop_of


@pytest.fixture(params=["ViT", "Dinov2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of random weights, saved as transformers saves it."""
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    if request.param == "ViT":
        config = transformers.ViTConfig(**sizes, intermediate_size=32, image_size=32)
        transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    else:
        transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2, image_size=48)).save_pretrained(
            tmp_path
        )
    size = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(size))
    return tmp_path


def test_dino_sees_as_transformers_does(folder: Path) -> None:
    from transformers import AutoModel

    values = np.random.default_rng(0).integers(0, 255, (54, 72, 3), dtype=np.uint8)
    images = [Image.fromarray(values), Image.fromarray(values[::-1].copy())]
    seen = Dino(model=str(folder), batch_size=1).load(torch.device("cpu")).pictures(images)
    pixels = []
    for image in images:
        small = image.resize((48, 36), Image.Resampling.BICUBIC).crop((8, 2, 40, 34))
        normed = (np.asarray(small, dtype=np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        pixels.append(torch.from_numpy(normed).permute(2, 0, 1).float())
    model: Any = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        token = model.eval()(pixel_values=torch.stack(pixels)).last_hidden_state[:, 0]
    torch.testing.assert_close(seen.image, token / token.norm(dim=-1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_dino_knows_no_texts(folder: Path) -> None:
    extractor = Dino(model=str(folder)).load(torch.device("cpu"))
    assert bool(extractor.texts(["a photo of a dog"]).isnan().all())
    assert bool(extractor.pictures([Image.new("RGB", (40, 40))]).text.isnan().all())


def test_the_preprocessing_is_that_of_the_folder(tmp_path: Path) -> None:
    assert crop_of(tmp_path) == Crop(256, 224)
    file = tmp_path / "preprocessor_config.json"
    # as DINO's, DINOv2's and older models have it
    for table, crop in (
        ({"size": 224}, Crop(224, 224)),
        ({"size": {"height": 224, "width": 224}}, Crop(224, 224)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, Crop(256, 224)),
        ({"size": "large"}, Crop(256, 256)),
    ):
        file.write_text(json.dumps(table))
        assert crop_of(tmp_path) == crop
    file.write_text("{")
    assert crop_of(tmp_path) == Crop(256, 224)


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="no DINO model can be loaded"):
        Dino(model=str(tmp_path / "none")).load(torch.device("cpu"))
