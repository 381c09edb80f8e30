"""Make a file ready to be passed on: a picture, trigger words, licence and notes in its metadata.

User interfaces show `modelspec.thumbnail` as the card of the file. The tensors stay as they are, byte for byte.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path
from lorasmith.families.reader import read_header
from lorasmith.files.lora import OutputFile
from lorasmith.files.stream import rewrite
from lorasmith.formats.metadata import hashes
from lorasmith.formats.privacy import filter_metadata
from lorasmith.formats.read_tensors import read_tensors

THUMBNAIL_SIDE = 384
"""Pixels of the longer side."""
QUALITY = 85


@dataclass(frozen=True)
class Card:
    """What a file says about itself; what is empty stays as it is."""

    thumbnail: Path | None = None
    trigger: str = ""
    title: str = ""
    author: str = ""
    license: str = ""
    description: str = ""
    usage_hint: str = ""

    def metadata(self) -> dict[str, str]:
        """As fields of the model spec."""
        texts = {
            "title": self.title,
            "author": self.author,
            "license": self.license,
            "description": self.description,
            "usage_hint": self.usage_hint,
            "trigger_phrase": self.trigger,
        }
        if self.thumbnail is not None:
            texts["thumbnail"] = thumbnail_url(self.thumbnail)
        return {f"modelspec.{key}": text for key, text in texts.items() if text}


def ship(file: Path, card: Card, output: OutputFile) -> Path:
    """Write a copy of a file with a card, without private metadata; returns its path.

    Raises LorasmithError if the file or the picture cannot be read, or the output exists and must not be replaced.
    """
    if file.suffix.lower() != ".safetensors" or not file.is_file():
        raise LorasmithError(f"{file}: is not a .safetensors file that is there")
    output.check()
    _, header = read_header(file)
    before = {str(key): str(value) for key, value in dict(header or {}).items()}
    metadata = {**filter_metadata(before, "public"), **card.metadata()}
    if "sshs_legacy_hash" in metadata:
        # this hash covers kohya's metadata too
        metadata |= hashes(read_tensors(file)[0], metadata)
    with atomic_path(output.path) as temporary:
        rewrite(file, temporary, {}, metadata)
    return output.path


def thumbnail_url(picture: Path) -> str:
    """A small JPEG of a picture as a data URL, which is what the model spec wants. Without what the picture knows of
    its making: prompts may be private."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(picture) as opened:
            small = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise LorasmithError(f"{picture}: cannot be read as a picture ({error})") from None
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
