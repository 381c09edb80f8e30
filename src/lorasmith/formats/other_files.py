"""Files that are given as a LoRA for Stable Diffusion and are something else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lorasmith.core.errors import LorasmithError
from lorasmith.core.file_contents import (
    EMBEDDING_KEYS,
    SUPPORTED,
    control_lora_key,
    foreign_lora,
    is_readable_transformer,
    other_file,
)


def refuse_other_files(keys: Sequence[str], is_lora_key: Callable[[str], bool]) -> None:
    """Raise LorasmithError for keys of a LoRA for another model, and of a model in place of a LoRA."""
    if any(is_lora_key(key) for key in keys):
        control_key = control_lora_key(keys)
        if control_key is not None:
            raise LorasmithError(
                f"is a control LoRA of Black Forest Labs (depth, canny), by its key {control_key}: it changes norms "
                "and biases and takes a control image as input, which no LoRA format can hold\n"
                "    to do: use it in ComfyUI or diffusers as it is"
            )
        foreign = foreign_lora(keys)
        if foreign is not None and not is_readable_transformer(keys):
            raise LorasmithError(f"is {foreign.what}, by its key {foreign.key}; LoRAs for {SUPPORTED} are read")
        return
    contents = other_file(keys)
    if contents is not None:
        advice = f"\n    to do: {contents.remedy}" if contents.remedy else ""
        raise LorasmithError(f"is {contents.what}, not a LoRA, by its key {contents.key}{advice}")


def embedding_advice(keys: Iterable[str]) -> str:
    """What to do with an embedding that was given as a LoRA, as the end of an error message; empty for other files."""
    if not set(keys) & EMBEDDING_KEYS:
        return ""
    return (
        "\n    to do: it is an embedding (textual inversion), a new token and not a change of layers; "
        "sample takes it with --embedding"
    )


def contents_advice(keys: Sequence[str]) -> str:
    """What a file is whose layers a command does not know, as the end of an error message; empty if that is unclear."""
    foreign = foreign_lora(keys)
    if foreign is None:
        return embedding_advice(keys)
    return f"\n    it is {foreign.what}; name its base with --base if it is not one of the published size"
