"""Masks from a model that separates the foreground."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

from PIL import Image

from lorasmith.core.errors import LorasmithError
from lorasmith.data.maskers.base import Masker


class FromRembg(Masker):
    """The subject is the foreground that a model of the package `rembg` finds; `isnet-anime` is made for drawings,
    `u2net` for photographs. The package downloads a model when it is first used."""

    kind: Literal["rembg"] = "rembg"
    model: str = "u2net"

    def __call__(self, picture: Image.Image, alpha: Image.Image | None) -> Image.Image:
        module = package()
        return module.remove(picture, session=session(module, self.model), only_mask=True).convert("L")


def package() -> Any:
    """The module rembg. Raises LorasmithError with the command that installs it."""
    try:
        return import_module("rembg")
    except (ImportError, SystemExit) as error:  # rembg exits the program if onnxruntime is missing
        why = error if isinstance(error, ImportError) else "onnxruntime is not installed"
        raise LorasmithError(
            f'--from rembg needs the package rembg ({why}): pip install "lorasmith[masks]"; '
            "or use --from alpha or --from color"
        ) from None


@lru_cache(1)
def session(module: Any, model: str) -> Any:
    """A loaded model. Raises LorasmithError if there is no model of this name or it cannot be downloaded."""
    try:
        return module.new_session(model)
    except (Exception, SystemExit) as error:
        raise LorasmithError(f'the model "{model}" of rembg cannot be loaded: {error}') from error
