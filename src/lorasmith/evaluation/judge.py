"""A small classifier that names the concept and the background of a picture: the tiny world's measure of whether a
picture shows its prompt.

Its weights and names come with the embedded base (`assets/tiny-sd/judge`); `tools/tiny_base/train_judge.py` trains it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError

HOME = Path(str(resources.files("lorasmith").joinpath("assets/tiny-sd/judge")))
"""The one that comes with Lorasmith."""
SIZE = 128
"""Edge in pixels of the pictures that the judge looks at; others are resized to it."""
WIDTHS = (32, 56, 88, 136)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(F.avg_pool2d(x, 2)))


class JudgeNet(nn.Module):
    """(n, 3, 128, 128) in -1..1 to logits of concepts (n, c) and of backgrounds (n, b)."""

    def __init__(self, concepts: int, backgrounds: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, 2, 2)
        self.blocks = nn.Sequential(*[_Block(i, o) for i, o in zip(WIDTHS, (*WIDTHS[1:], WIDTHS[-1]), strict=True)])
        self.concept = nn.Linear(WIDTHS[-1], concepts)
        self.background = nn.Linear(WIDTHS[-1] * 16, backgrounds)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.blocks(F.relu(self.stem(x)))
        return self.concept(y.mean(dim=(2, 3))), self.background(y.flatten(1))


@dataclass(frozen=True)
class Verdict:
    """`names` best name of each picture, `probabilities` (n,) of those names, `table` (n, k) of all names in the
    judge's order."""

    names: list[str]
    probabilities: Tensor
    table: Tensor

    def share(self, wanted: str | Sequence[str]) -> float:
        """Share of the pictures that were named as `wanted`: one name for all of them, or one for each."""
        asked = [wanted] * len(self.names) if isinstance(wanted, str) else list(wanted)
        return sum(a == b for a, b in zip(asked, self.names, strict=True)) / len(self.names)


class Judge:
    """Names concepts and backgrounds. `concepts` and `backgrounds` list the names that it knows; `other` stands for
    what it does not."""

    def __init__(self, net: JudgeNet, concepts: list[str], backgrounds: list[str]) -> None:
        self.net = net.eval().requires_grad_(False)
        self.concepts, self.backgrounds = concepts, backgrounds

    @classmethod
    def load(cls, folder: Path | None = None) -> Judge:
        """The judge in `folder`, or the one that comes with Lorasmith.

        Raises LorasmithError if there is none.
        """
        home = folder or HOME
        try:
            names = json.loads((home / "judge.json").read_text("utf-8"))
            weights = load_file(home / "judge.safetensors")
        except FileNotFoundError as error:
            raise LorasmithError(f"No judge in {home}: judge.json and judge.safetensors are needed.") from error
        net = JudgeNet(len(names["concepts"]), len(names["backgrounds"]))
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        return cls(net, names["concepts"], names["backgrounds"])

    def to(self, device: str | torch.device) -> Judge:
        """Moves the weights; returns itself."""
        self.net.to(device)
        return self

    def concept(self, images: Sequence[Image.Image] | Tensor) -> Verdict:
        """What each picture shows; a list of pictures or a tensor (n, 3, h, w) in -1..1."""
        return self._verdict(images, 0, self.concepts)

    def background(self, images: Sequence[Image.Image] | Tensor) -> Verdict:
        """What each picture's background is: a colour's word, a scene's name, or `gradient`."""
        return self._verdict(images, 1, self.backgrounds)

    def _verdict(self, images: Sequence[Image.Image] | Tensor, head: int, names: list[str]) -> Verdict:
        x = _tensor(images).to(self.net.stem.weight.device)
        with torch.no_grad():
            table = torch.cat([self.net(part)[head].softmax(1) for part in x.split(64)]).cpu()
        best = table.max(1)
        return Verdict([names[i] for i in best.indices.tolist()], best.values, table)


def _tensor(images: Sequence[Image.Image] | Tensor) -> Tensor:
    if isinstance(images, Tensor):
        x = images.float()
        return x if x.shape[-2:] == (SIZE, SIZE) else F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
    if not images:
        raise LorasmithError("The judge was given no pictures.")
    arrays = [np.asarray(i.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)) for i in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
