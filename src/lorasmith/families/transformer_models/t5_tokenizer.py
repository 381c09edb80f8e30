"""Finding T5's tokenizer, which single files do not have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lorasmith.core.errors import LorasmithError

HUB_ID = "google/t5-v1_1-xxl"
"""The encoder that SD3 and Flux were trained with, whose repository has the tokenizer."""
_FILES = ("tokenizer.json", "spiece.model")
_FOLDERS = ("", "t5_tokenizer", "tokenizer_2", "tokenizer_3")


def find_t5_tokenizer(places: Iterable[Path], folder: str) -> Path:
    """The folder with the tokenizer: at or below one of the places, else from the hub.

    `folder`: what diffusers calls it beside its text encoder. Raises LorasmithError if it is in none and cannot be
    fetched.
    """
    for place in places:
        root = place if place.is_dir() else place.parent
        for candidate in (*(root / name for name in _FOLDERS), root.parent / folder):
            if has_tokenizer(candidate):
                return candidate
    return _from_hub()


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer like T5's."""
    return any((folder / file).is_file() for file in _FILES)


def _from_hub() -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*_FILES, "tokenizer_config.json", "special_tokens_map.json", "config.json"]
    try:
        return Path(snapshot_download(HUB_ID, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LorasmithError(
            f"T5's tokenizer is not beside the model, and fetching it from the hub ({HUB_ID}) failed: {reason}\n"
            "  Name a folder that has its tokenizer.json with base_parts: tokenizer_2 of a diffusers folder of Flux, "
            "tokenizer_3 of one of SD3, or ComfyUI's comfy/text_encoders/t5_tokenizer."
        ) from error
