"""CLIP (arXiv 2103.00020) as a scorer: pictures and texts in one vector space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from lorasmith.evaluation.base import FeatureExtractor, Features, Scorer
from lorasmith.evaluation.pretrained import load_pretrained, require_model

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the channels in CLIP's training data."""


class Clip(Scorer):
    """A CLIP model in the format of transformers."""

    kind: Literal["clip"] = "clip"
    model: str = "openai/clip-vit-base-patch32"
    """A folder or a hub id. The default is the model that most papers on concept learning report."""
    batch_size: int = Field(default=32, ge=1)

    @property
    def name(self) -> str:
        return f"CLIP, {self.model}"

    def ready(self) -> None:
        require_model("CLIP", self.model)

    def load(self, device: torch.device) -> FeatureExtractor:
        def read(local_files_only: bool) -> tuple[Any, Any]:
            return load_model(self.model, local_files_only)

        model, tokenizer = load_pretrained("CLIP", self.model, read)
        model = model.eval().requires_grad_(False).float().to(device)
        return ClipExtractor(model, tokenizer, self.batch_size)


def load_model(name: str, local_files_only: bool) -> tuple[Any, Any]:
    """The model and its tokenizer, from a folder, from the cache of the hub's client or from the hub."""
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(name, local_files_only=local_files_only)
    return model, CLIPTokenizer.from_pretrained(name, local_files_only=local_files_only)


class ClipExtractor(FeatureExtractor):
    """A loaded CLIP model. Pictures have one vector, which is compared with pictures and texts."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @torch.no_grad()
    def pictures(self, images: Sequence[Image.Image]) -> Features:
        side = int(self.model.config.vision_config.image_size)
        vectors = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            pixels = torch.stack([preprocess(image, side) for image in batch]).to(self.model.device)
            # the projections map both encoders into the common space
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            projected = self.model.visual_projection(pooled).float()
            vectors.append(F.normalize(projected, dim=-1).cpu())
        joined = torch.cat(vectors)
        return Features(image=joined, text=joined)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        max_length = int(self.model.config.text_config.max_position_embeddings)
        vectors = []
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            tokens = self.tokenizer(batch, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            pooled = self.model.text_model(**tokens.to(self.model.device)).pooler_output
            projected = self.model.text_projection(pooled).float()
            vectors.append(F.normalize(projected, dim=-1).cpu())
        return torch.cat(vectors)


def preprocess(
    image: Image.Image,
    side: int,
    resized_side: int | None = None,
    *,
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
) -> Tensor:
    """CLIP's preprocessing: the shorter side resized to `resized_side` pixels (bicubic; default: `side`), a centre crop
    of `side`, normalised channels; (3, side, side)."""
    scale = max(side, resized_side or side) / min(image.size)
    # rounding must not make a side shorter than the crop
    width = max(side, round(image.width * scale))
    height = max(side, round(image.height * scale))
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left = (width - side) // 2
    top = (height - side) // 2
    cropped = resized.crop((left, top, left + side, top + side))
    values = np.asarray(cropped, dtype=np.float32) / 255
    normalised = (values - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(normalised).permute(2, 0, 1)
