"""CLIP (arXiv 2103.00020): pictures and texts in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.evaluation.base import Eyes, Scorer, Seen

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Clip(Scorer):
    """A CLIP model as transformers loads it."""

    kind: Literal["clip"] = "clip"
    model: str = "openai/clip-vit-base-patch32"
    """A folder or a hub id; the default is the one that papers on new concepts measure with."""
    batch_size: int = Field(default=32, ge=1)

    @property
    def name(self) -> str:
        return f"CLIP, {self.model}"

    def load(self, device: torch.device) -> Eyes:
        from transformers import CLIPModel, CLIPTokenizer

        try:
            model: Any = CLIPModel.from_pretrained(self.model)
            tokenizer = CLIPTokenizer.from_pretrained(self.model)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise LorasmithError(
                f"scorer.model: no CLIP model can be loaded from {self.model} ({first}); give --model a folder with "
                "config.json, model.safetensors and the tokenizer's files, or a hub id while there is a connection"
            ) from error
        return ClipEyes(model.eval().requires_grad_(False).float().to(device), tokenizer, self.batch_size)


class ClipEyes(Eyes):
    """CLIP, loaded."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    @torch.no_grad()
    def pictures(self, images: Sequence[Image.Image]) -> Seen:
        side = int(self.model.config.vision_config.image_size)
        found = []
        for start in range(0, len(images), self.batch_size):
            pixels = torch.stack([prepared(image, side) for image in images[start : start + self.batch_size]])
            pooled = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
            found.append(F.normalize(self.model.visual_projection(pooled).float(), dim=-1).cpu())
        vectors = torch.cat(found)
        return Seen(vectors, vectors)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        longest = int(self.model.config.text_config.max_position_embeddings)
        found = []
        for start in range(0, len(texts), self.batch_size):
            part = list(texts[start : start + self.batch_size])
            tokens = self.tokenizer(part, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            pooled = self.model.text_model(**tokens.to(self.model.device)).pooler_output
            found.append(F.normalize(self.model.text_projection(pooled).float(), dim=-1).cpu())
        return torch.cat(found)


def prepared(image: Image.Image, side: int) -> Tensor:
    """CLIP's own preparation: the shorter side to `side` (bicubic), the middle cut out, channels normalised; (3, side,
    side)."""
    factor = side / min(image.size)
    width, height = (max(side, round(edge * factor)) for edge in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    middle = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(middle.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    return torch.from_numpy((values - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).permute(2, 0, 1)
