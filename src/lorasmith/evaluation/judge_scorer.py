"""The classifier of the tiny base as a scorer: it needs no download, but knows only the motifs of `tiny-sd`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lorasmith.core.store import sha256_of
from lorasmith.evaluation.base import FeatureExtractor, Features, Scorer
from lorasmith.evaluation.judge import BUILT_IN, Judge


class TinyJudge(Scorer):
    """Pictures are vectors of the classifier's probabilities of all concepts; a text is the concept named in it."""

    kind: Literal["judge"] = "judge"
    model: Path | None = None
    """A folder with another judge."""

    @property
    def name(self) -> str:
        return "the tiny base's judge"

    def identity(self) -> str:
        weights = (self.model or BUILT_IN) / "judge.safetensors"
        return f"{super().identity()}\n{sha256_of(weights)}"

    def load(self, device: torch.device) -> FeatureExtractor:
        return JudgeExtractor(Judge.load(self.model).to(device))


class JudgeExtractor(FeatureExtractor):
    """A loaded judge."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def pictures(self, images: Sequence[Image.Image]) -> Features:
        vectors = F.normalize(self.judge.concept(images).table, dim=-1)
        return Features(image=vectors, text=vectors)

    def texts(self, texts: Sequence[str]) -> Tensor:
        names = self.judge.concepts
        vectors = torch.full((len(texts), len(names)), float("nan"))
        for row, text in enumerate(texts):
            mentioned = [name for name in names if re.search(rf"\b{re.escape(name)}\b", text.lower())]
            if mentioned:
                # the longest name is the most specific one
                vectors[row] = 0
                vectors[row, names.index(max(mentioned, key=len))] = 1
        return vectors
