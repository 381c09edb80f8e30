"""The base model with what was learned in it: the file of full fine-tuning."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lorasmith.families.resolve import find
from lorasmith.families.source import Folder
from lorasmith.files.lora import Use
from lorasmith.files.merge import merge
from lorasmith.files.original import check, write_original

Layout = Literal["layout", "single_file"]


def check_layout(base: str, layout: Layout) -> None:
    """Raises LorasmithError if the base cannot be written in a layout."""
    source = find(base)
    if layout == "single_file" and source.path.is_dir():
        check(source)


def whole_model(base: str, changes: Sequence[Use], stem: Path, layout: Layout) -> Path:
    """Write the base with the changes of files in it, in their order; returns the file or folder. Dtypes are the
    base's."""
    source = find(base)
    if not source.path.is_dir():
        target = stem.with_name(f"{stem.name}.safetensors")
        merge(base, changes, target, overwrite=True)
        return target
    merge(base, changes, stem, overwrite=True)
    if layout == "layout":
        return stem
    target = write_original(Folder(base, stem, source.kind), stem.with_name(f"{stem.name}.safetensors"))
    shutil.rmtree(stem)
    return target
