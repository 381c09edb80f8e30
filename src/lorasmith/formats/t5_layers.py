"""Layers of T5 in LoRA files of Flux and SD3: other trainers change it, Lorasmith does not.

Tools on files keep them. Where a file is put on a base, to draw, to begin a run or to be merged for one, they are left
out, with a note.
"""

from __future__ import annotations

from dataclasses import replace

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.survey import T5, component_of


def t5_layers_in(file: LoraFile) -> list[str]:
    """The flat names of the layers of T5, in the order of the file."""
    flat_names = dict.fromkeys(key.partition(".")[0] for key in file.tensors)
    return [name for name in flat_names if component_of(name) == T5]


def t5_note(file: LoraFile) -> str:
    """What becomes of the layers of T5, for the description of a file; empty if it has none."""
    count = len(t5_layers_in(file))
    if not count:
        return ""
    return (
        f"{count} of its layers change T5: convert, resize, combine and merge keep them; where Lorasmith draws or "
        "trains with the file they are left out, and T5 stays as the base has it"
    )


def without_t5(file: LoraFile) -> LoraFile:
    """The file without its layers of T5, and a note of them. Raises LorasmithError if it has no others."""
    left_out = set(t5_layers_in(file))
    if not left_out:
        return file
    kept = {key: tensor for key, tensor in file.tensors.items() if key.partition(".")[0] not in left_out}
    if not kept:
        raise LorasmithError(
            f"{file.path}: all of its {len(left_out)} layers change T5, which stays as the base has it here; merge the "
            "file into a base with `lorasmith merge`, and use that base"
        )
    note = f"its {len(left_out)} layers of T5 are left out; T5 stays as the base has it"
    return replace(file, tensors=kept, notes=(*file.notes, note))


def refuse_t5(file: LoraFile) -> None:
    """Raise LorasmithError if a file that a run is to begin from changes T5: the exports of the run would lack it."""
    count = len(t5_layers_in(file))
    if count:
        raise LorasmithError(
            f"start: {file.path} also changes T5 ({count} layers), which no run trains and no export would have; merge "
            "the file into a base with `lorasmith merge`, and train on that base"
        )
