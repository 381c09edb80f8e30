"""A small classifier of the tiny base: it names the concept and the background of a picture, so that a test can tell
whether a picture shows its prompt.

Its weights and names are part of the embedded base (`assets/tiny-sd/judge`); `tools/tiny_base/train_judge.py` trains
it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import assets

BUILT_IN = assets() / "tiny-sd" / "judge"
"""The folder of the judge that is part of the package."""
SIZE = 128
"""Width and height in pixels of the network's input; other pictures are resized to it."""
WIDTHS = (32, 56, 88, 136)
"""Channels of the stem and of the inputs of the residual blocks."""
BATCH_SIZE = 64


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
    """Pictures (n, 3, 128, 128) in -1..1 to logits of concepts (n, c) and of backgrounds (n, b)."""

    def __init__(self, concepts: int, backgrounds: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, 2, 2)
        outputs = (*WIDTHS[1:], WIDTHS[-1])
        self.blocks = nn.Sequential(*[_Block(i, o) for i, o in zip(WIDTHS, outputs, strict=True)])
        # a concept may be anywhere, so its head gets the mean; a background depends on the position (4 x 4 remain)
        self.concept = nn.Linear(WIDTHS[-1], concepts)
        self.background = nn.Linear(WIDTHS[-1] * 16, backgrounds)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.blocks(F.relu(self.stem(x)))
        return self.concept(y.mean(dim=(2, 3))), self.background(y.flatten(1))


@dataclass(frozen=True)
class Classification:
    """The names of n pictures."""

    names: list[str]
    """The most probable name of each picture."""
    probabilities: Tensor
    """(n,): the probabilities of these names."""
    table: Tensor
    """(n, k): the probabilities of all names, in the judge's order."""

    def share(self, expected: str | Sequence[str]) -> float:
        """The fraction of pictures with the expected name: one name for all pictures, or one for each."""
        names = [expected] * len(self.names) if isinstance(expected, str) else list(expected)
        hits = sum(name == found for name, found in zip(names, self.names, strict=True))
        return hits / len(self.names)


class Judge:
    """The classifier with its names. `concepts` and `backgrounds` list the names in the order of the network's outputs;
    `other` is the name of everything else."""

    def __init__(self, net: JudgeNet, concepts: list[str], backgrounds: list[str]) -> None:
        self.net = net.eval().requires_grad_(False)
        self.concepts = concepts
        self.backgrounds = backgrounds

    @classmethod
    def load(cls, folder: Path | None = None) -> Judge:
        """The judge of a folder, or the one that is part of the package.

        Raises LorasmithError if the folder has no judge.
        """
        folder = folder or BUILT_IN
        try:
            names = json.loads((folder / "judge.json").read_text("utf-8"))
            weights = load_file(folder / "judge.safetensors")
        except FileNotFoundError as error:
            raise LorasmithError(f"{folder}: no judge in it; judge.json and judge.safetensors are needed") from error
        net = JudgeNet(len(names["concepts"]), len(names["backgrounds"]))
        # the file has half precision; integers are the counters of the batch norms
        net.load_state_dict({name: w.float() if w.is_floating_point() else w for name, w in weights.items()})
        return cls(net, names["concepts"], names["backgrounds"])

    def to(self, device: str | torch.device) -> Judge:
        """Move the weights; returns itself."""
        self.net.to(device)
        return self

    def concept(self, images: Sequence[Image.Image] | Tensor) -> Classification:
        """The concept of each picture. `images`: pictures, or a tensor (n, 3, h, w) in -1..1."""
        return self._classify(images, 0, self.concepts)

    def background(self, images: Sequence[Image.Image] | Tensor) -> Classification:
        """The background of each picture: the word of a colour, the name of a scene, or `gradient`. `images` as in
        `concept`."""
        return self._classify(images, 1, self.backgrounds)

    def _classify(self, images: Sequence[Image.Image] | Tensor, head: int, names: list[str]) -> Classification:
        # in batches, so that many pictures fit into memory
        x = _to_input(images).to(self.net.stem.weight.device)
        with torch.no_grad():
            probabilities = [self.net(batch)[head].softmax(1) for batch in x.split(BATCH_SIZE)]
        table = torch.cat(probabilities).cpu()
        best = table.max(1)
        return Classification([names[index] for index in best.indices.tolist()], best.values, table)


def _to_input(images: Sequence[Image.Image] | Tensor) -> Tensor:
    """Pictures as the network's input, (n, 3, SIZE, SIZE) in -1..1."""
    if isinstance(images, Tensor):
        x = images.float()
        if x.shape[-2:] == (SIZE, SIZE):
            return x
        return F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
    if not images:
        raise LorasmithError("there is no picture for the judge to classify")
    arrays = []
    for image in images:
        resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        arrays.append(np.asarray(resized))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
