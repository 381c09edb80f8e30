"""Captions of tags, from a tagging model in ONNX format such as the WD taggers of SmilingWolf."""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lorasmith.core.errors import LorasmithError
from lorasmith.data.captioners.base import Captioner

MODEL, TAGS = "model.onnx", "selected_tags.csv"
RATING = "9"
"""The category of tags about how decent a picture is; they are no description."""
WHITE = (255, 255, 255)
FACES = frozenset({"0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o"})
FACES |= {"@_@", "^_^", "o_o", "u_u", "x_x", "|_|", "||_||"}
"""Tags in which the underscore is part of a drawn face and not a space."""


class Tagger(Captioner):
    """Tags whose probability is at least `threshold`, the most probable first, joined by commas. The folder holds
    `model.onnx` and `selected_tags.csv`."""

    kind: Literal["tagger"] = "tagger"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return (folder / MODEL).is_file() and (folder / TAGS).is_file()

    def __call__(self, picture: Image.Image) -> str:
        session = load_session(self.model, self.device)
        entry = session.get_inputs()[0]
        # (batch, height, width, channels); a side that is not fixed in the model is a name
        side = entry.shape[1] if isinstance(entry.shape[1], int) else 448
        probabilities = session.run(None, {entry.name: pixels_of(picture, side)})[0][0]

        tags = read_tags(self.model / TAGS)
        if len(tags) != len(probabilities):
            raise LorasmithError(
                f"{self.model / TAGS}: has {len(tags)} tags, but the model gives {len(probabilities)} probabilities; "
                "both files must be of the same model"
            )
        rows = sorted(zip(probabilities, tags, strict=True), key=lambda row: -row[0])
        return ", ".join(
            name for probability, (name, category) in rows if probability >= self.threshold and category != RATING
        )


def pixels_of(picture: Image.Image, side: int) -> NDArray[np.float32]:
    """(1, side, side, 3): the picture in the middle of a white square, blue first, 0 to 255, as in their training."""
    longer = max(picture.size)
    square = Image.new("RGB", (longer, longer), WHITE)
    square.paste(picture, ((longer - picture.width) // 2, (longer - picture.height) // 2))
    resized = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32)[None, :, :, ::-1].copy()


@lru_cache(2)
def read_tags(path: Path) -> list[tuple[str, str]]:
    """The tags of a model in the order of its output, each with its category."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [(plain(row["name"]), row["category"]) for row in rows]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise LorasmithError(f"{path}: is not a table of tags with the columns name and category ({error})") from None


def plain(tag: str) -> str:
    """A tag with spaces."""
    return tag if tag in FACES else tag.replace("_", " ")


@lru_cache(1)
def load_session(folder: Path, device: str) -> Any:
    """A loaded model. Raises LorasmithError if onnxruntime is not installed or the file is no model."""
    try:
        onnxruntime = import_module("onnxruntime")
    except ImportError:
        raise LorasmithError(
            'a tagging model needs the package onnxruntime: pip install "lorasmith[captions]"'
        ) from None
    providers = [] if device == "cpu" else ["CUDAExecutionProvider"]
    available = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(
            str(folder / MODEL), providers=[*(name for name in providers if name in available), "CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own exceptions share no base class
        reason = str(error).splitlines()[0]
        raise LorasmithError(f"{folder / MODEL}: cannot be loaded ({reason})") from None
