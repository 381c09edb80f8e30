"""The judge of the tiny base, as a scorer: no download, and only for pictures of the tiny world."""

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
from lorasmith.evaluation.base import Eyes, Scorer, Seen
from lorasmith.evaluation.judge import HOME, Judge


class TinyJudge(Scorer):
    """Pictures are compared by the chances that the judge gives to its concepts' names, texts by the name in them."""

    kind: Literal["judge"] = "judge"
    model: Path | None = None
    """A folder with another judge."""

    @property
    def name(self) -> str:
        return "the tiny base's judge"

    def identity(self) -> str:
        return f"{super().identity()}\n{sha256_of((self.model or HOME) / 'judge.safetensors')}"

    def load(self, device: torch.device) -> Eyes:
        return JudgeEyes(Judge.load(self.model).to(device))


class JudgeEyes(Eyes):
    """A judge that looks."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def pictures(self, images: Sequence[Image.Image]) -> Seen:
        chances = F.normalize(self.judge.concept(images).table, dim=-1)
        return Seen(chances, chances)

    def texts(self, texts: Sequence[str]) -> Tensor:
        names = self.judge.concepts
        table = torch.full((len(texts), len(names)), float("nan"))
        for row, text in enumerate(texts):
            known = [name for name in names if re.search(rf"\b{re.escape(name)}\b", text.lower())]
            if known:
                table[row] = 0
                table[row, names.index(max(known, key=len))] = 1
        return table
