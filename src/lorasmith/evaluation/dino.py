"""DINO (arXiv 2104.14294) and DINOv2 (arXiv 2304.07193) as scorers: vectors of pictures that tell subjects of one class
apart, which CLIP does less well. DreamBooth (arXiv 2208.12242, section 4.2) measures subject fidelity with DINO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from lorasmith.core.text_files import read_text
from lorasmith.evaluation.base import FeatureExtractor, Features, Scorer
from lorasmith.evaluation.clip import preprocess
from lorasmith.evaluation.pretrained import load_pretrained, require_model

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of the channels of ImageNet."""
CROP = 224
RESIZED = 256
"""Side in pixels of the shorter side before the crop, where the model does not say otherwise."""


class Dino(Scorer):
    """A DINO or DINOv2 model in the format of transformers. It knows no texts, so the number `text` is unknown."""

    kind: Literal["dino"] = "dino"
    model: str = "facebook/dino-vits16"
    """A folder or a hub id. The default is the model of DreamBooth's paper."""
    batch_size: int = Field(default=32, ge=1)

    @property
    def name(self) -> str:
        return f"DINO, {self.model}"

    def ready(self) -> None:
        require_model("DINO", self.model)

    def load(self, device: torch.device) -> FeatureExtractor:
        from transformers import AutoModel

        def read(local_files_only: bool) -> Any:
            return AutoModel.from_pretrained(self.model, local_files_only=local_files_only)

        model = load_pretrained("DINO", self.model, read)
        model = model.eval().requires_grad_(False).float().to(device)
        return DinoExtractor(model, crop_of(Path(self.model)), self.batch_size)


@dataclass(frozen=True)
class Crop:
    """How pictures are made to the network's input: the shorter side is resized, and the centre is cut out."""

    resized: int = RESIZED
    side: int = CROP


def crop_of(folder: Path) -> Crop:
    """The preprocessing that the model's `preprocessor_config.json` names; the usual one if there is none."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return Crop()
    try:
        table = json.loads(read_text(file))
    except ValueError:
        return Crop()
    resized = side_in(table.get("size"), RESIZED)
    # DINO's own models resize both sides and crop nothing
    crops = table.get("do_center_crop", "crop_size" in table)
    return Crop(resized, side_in(table.get("crop_size"), CROP) if crops else resized)


def side_in(size: Any, default: int) -> int:
    """A side in pixels, as a number or in a table of transformers."""
    if isinstance(size, dict):
        size = next((size[key] for key in ("shortest_edge", "height") if key in size), None)
    return size if isinstance(size, int) and size > 0 else default


class DinoExtractor(FeatureExtractor):
    """A loaded DINO model. The vector of a picture is the class token of the last layer."""

    def __init__(self, model: Any, crop: Crop, batch_size: int) -> None:
        self.model = model
        self.crop = crop
        self.batch_size = batch_size

    @torch.no_grad()
    def pictures(self, images: Sequence[Image.Image]) -> Features:
        vectors: list[Tensor] = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            pixels = torch.stack(
                [preprocess(image, self.crop.side, self.crop.resized, mean=MEAN, std=STD) for image in batch]
            )
            states = self.model(pixel_values=pixels.to(self.model.device)).last_hidden_state
            vectors.append(F.normalize(states[:, 0].float(), dim=-1).cpu())
        joined = torch.cat(vectors)
        return Features(image=joined, text=torch.full((len(joined), 1), float("nan")))

    def texts(self, texts: Sequence[str]) -> Tensor:
        return torch.full((len(texts), 1), float("nan"))
