"""Lines of Python for the model card: they load the trained files of the repository `repo` into the pipeline `pipe`."""

from __future__ import annotations

from collections.abc import Sequence

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""The original's name of the LoRA's file."""
LOAD_LORA = (f"pipe.load_lora_weights(repo, weight_name={DIFFUSERS_FILE!r})",)
PARTS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}
"""The parts of the pipeline that each tensor of an embedding file belongs to."""


def load_tokens(file: str, tokens: Sequence[str], tensors: Sequence[str]) -> tuple[str, ...]:
    """Lines that load new tokens from a file with one tensor (vectors, width) for each text encoder.

    `tensors`: their names, `clip_l` and, for SDXL, `clip_g`. Several tokens have one vector each.
    """
    token = repr(tokens[0]) if len(tokens) == 1 else repr(list(tokens))
    lines = [
        "from huggingface_hub import hf_hub_download",
        "from safetensors.torch import load_file",
        f"tokens = load_file(hf_hub_download(repo, {file!r}))",
    ]
    for name in tensors:
        encoder, tokenizer = PARTS[name]
        lines.append(
            f"pipe.load_textual_inversion(tokens[{name!r}], token={token}, "
            f"text_encoder=pipe.{encoder}, tokenizer=pipe.{tokenizer})"
        )
    return tuple(lines)
