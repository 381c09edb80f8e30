"""Two nodes: one loads `NAME.exact.safetensors` (a LoRA, and new tokens with a vector for each cross-attention layer),
the other encodes texts with these tokens.

A text is encoded once for each layer, and all of it goes along the token axis of one conditioning, of shape
(1, layers * tokens + 1, width); on the model, a patch gives each cross-attention layer its own part. The one extra row
distinguishes such texts from others, whose length is a multiple of 77, and keeps ComfyUI from repeating them to the
length of others. Texts without new tokens are unchanged. Needs nothing but ComfyUI, torch and safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open

TENSOR_PREFIX = "lorasmith.word."
METADATA_KEY = "lorasmith.words"
WINDOW = 77
ENCODERS = {"te1": "l", "te2": "g"}
"""ComfyUI's keys of SDXL's text encoders; SD 1.x and 2.x have one (`te`), under a key that differs."""
PLACEHOLDERS = ("~", "^", "|", "`", "_", "=", "+")
"""Each is one token of CLIP. One that the text does not contain stands for a vector until the text is tokenized."""
SD_BLOCKS = {
    **{("input", index): 1 for index in (1, 2, 4, 5, 7, 8)},
    ("middle", 0): 1,
    **{("output", index): 1 for index in range(3, 12)},
}
SDXL_BLOCKS = {
    ("input", 4): 2,
    ("input", 5): 2,
    ("input", 7): 10,
    ("input", 8): 10,
    ("middle", 0): 10,
    **{("output", index): 10 for index in range(3)},
    **{("output", index): 2 for index in range(3, 6)},
}
BLOCKS = {sum(blocks.values()): blocks for blocks in (SD_BLOCKS, SDXL_BLOCKS)}
"""By the number of cross-attention layers: how many each block has, in the order in which they run."""

TokenEmbeddings = dict[str, dict[str, torch.Tensor]]
"""Vectors (vectors, layers or 1, width) by new token and text encoder."""


def read(path: str) -> tuple[dict[str, torch.Tensor], TokenEmbeddings]:
    """The LoRA of a file and its new tokens."""
    lora: dict[str, torch.Tensor] = {}
    tokens: TokenEmbeddings = {}
    with safe_open(path, "pt", device="cpu") as file:
        names = json.loads((file.metadata() or {}).get(METADATA_KEY, "[]"))
        for key in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(key)
            if key.startswith(TENSOR_PREFIX):
                index, _, encoder = key.removeprefix(TENSOR_PREFIX).partition(".")
                tokens.setdefault(names[int(index)], {})[encoder] = tensor.float()
            else:
                lora[key] = tensor
    return lora, tokens


def layer_count(tokens: TokenEmbeddings) -> int:
    """The number of layers that the tokens have vectors for; 1 if they are shared by all.

    Raises ValueError for tokens of different models.
    """
    counts = {tensor.shape[1] for vectors in tokens.values() for tensor in vectors.values()} - {1}
    if len(counts) > 1 or not counts <= BLOCKS.keys():
        raise ValueError(
            f"new tokens for {sorted(counts)} cross-attention layers; models have {sorted(BLOCKS)}, and all tokens "
            "must be for the same number"
        )
    return max(counts, default=1)


def make_patch(layers: int) -> Callable[..., Any]:
    """The argument of `set_model_attn2_patch`: a function that gives a layer its own part of a text."""
    first_layer_of_block: dict[tuple[str, int], int] = {}
    next_layer = 0
    for block, count in BLOCKS[layers].items():
        first_layer_of_block[block] = next_layer
        next_layer += count

    def patch(q: Any, context: Any, value: Any, options: dict[str, Any]) -> tuple[Any, Any, Any]:
        length = context.shape[1]
        # texts without new tokens have no extra row
        if length <= layers * WINDOW or length % WINDOW != 1:
            return q, context, value
        if (length - 1) % (layers * WINDOW):
            raise ValueError(
                "a text with layer-wise tokens was concatenated with another; use Conditioning (Combine) instead"
            )
        part_length = (length - 1) // layers
        layer = first_layer_of_block[tuple(options["block"][:2])] + options.get("block_index", 0)
        part = slice(layer * part_length, (layer + 1) * part_length)
        return q, context[:, part], value[:, part]

    return patch


def insert_placeholders(text: str, tokens: TokenEmbeddings) -> tuple[str, str, list[tuple[str, int]]]:
    """The text with a placeholder for each vector of a new token, the placeholder, and the (token, vector index) that
    each stands for, in their order."""
    # a token that starts or ends with a letter or digit must not match inside a longer word
    patterns: list[str] = []
    for token in tokens:
        start = r"(?<!\w)" if token[0].isalnum() else ""
        end = r"(?!\w)" if token[-1].isalnum() else ""
        patterns.append(start + re.escape(token) + end)
    longest_first = sorted(patterns, key=len, reverse=True)
    any_token = re.compile("|".join(longest_first) or r"(?!)")

    rest = any_token.sub("", text)
    free_placeholders = [placeholder for placeholder in PLACEHOLDERS if placeholder not in rest]
    if not free_placeholders:
        raise ValueError(f"the text contains all of {' '.join(PLACEHOLDERS)}; leave one of them out")
    placeholder = free_placeholders[0]
    order: list[tuple[str, int]] = []

    def replace(match: re.Match[str]) -> str:
        token = match[0]
        count = next(iter(tokens[token].values())).shape[0]
        order.extend((token, index) for index in range(count))
        return f" {' '.join([placeholder] * count)} "

    return any_token.sub(replace, text), placeholder, order


def replace_placeholders(windows: Any, placeholder: int, vectors: list[torch.Tensor]) -> list[Any]:
    """Windows of (token, weight), with vectors in place of the placeholders' token id.

    Raises ValueError if there are more or fewer placeholders than vectors.
    """
    remaining = list(vectors)
    replaced: list[Any] = []
    for window in windows:
        new_window: list[Any] = []
        for entry in window:
            token = entry[0]
            # an embedding that the text names stands there as a tensor
            if not isinstance(token, torch.Tensor) and token == placeholder:
                if not remaining:
                    raise ValueError("the text's tokens have more placeholders than new tokens have vectors")
                token = remaining.pop(0)
            new_window.append((token, *entry[1:]))
        replaced.append(new_window)
    if remaining:
        raise ValueError("not all new tokens were found in the tokens of the text")
    return replaced


def vector_for_layer(vectors: dict[str, torch.Tensor], encoder_key: str, index: int, layer: int) -> torch.Tensor:
    """One vector of a new token, for a text encoder by ComfyUI's key and a cross-attention layer."""
    for encoder, tensor in vectors.items():
        if ENCODERS.get(encoder, encoder_key) == encoder_key:
            # shared vectors have a single layer
            return tensor[index, min(layer, tensor.shape[1] - 1)]
    raise ValueError(
        f"the new tokens have no vectors for the text encoder {encoder_key}; they are of another kind of model"
    )


class LorasmithLora:
    """Loads a LoRA of Lorasmith with its new tokens."""

    RETURN_TYPES = ("MODEL", "CLIP", "LORASMITH_WORDS")
    FUNCTION = "load"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        import folder_paths  # type: ignore[import-not-found]

        strength = ("FLOAT", {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01})
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "lora_name": (folder_paths.get_filename_list("loras"),),
                "strength_model": strength,
                "strength_clip": strength,
            },
            "optional": {"words": ("LORASMITH_WORDS",)},
        }

    def load(
        self, model: Any, clip: Any, lora_name: str, strength_model: float, strength_clip: float, words: Any = None
    ) -> tuple[Any, Any, TokenEmbeddings]:
        import comfy.sd  # type: ignore[import-not-found]
        import folder_paths  # type: ignore[import-not-found]

        lora, tokens = read(folder_paths.get_full_path("loras", lora_name))
        # the tokens of earlier loaders stay usable
        all_tokens: TokenEmbeddings = {**(words or {}), **tokens}
        layers = layer_count(all_tokens)
        if lora:
            model, clip = comfy.sd.load_lora_for_models(model, clip, lora, strength_model, strength_clip)
        if layers > 1:
            model = model.clone()
            model.set_model_attn2_patch(make_patch(layers))
        return model, clip, all_tokens


class LorasmithText:
    """Encodes a text that may contain the new tokens."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "conditioning"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"clip": ("CLIP",), "words": ("LORASMITH_WORDS",), "text": ("STRING", {"multiline": True})}}

    def encode(self, clip: Any, words: TokenEmbeddings, text: str) -> tuple[list[Any]]:
        text_with_placeholders, placeholder, order = insert_placeholders(text, words)
        windows_by_encoder = clip.tokenize(text_with_placeholders)
        placeholder_windows = clip.tokenize(placeholder)
        layers = layer_count({token: words[token] for token, _ in order})

        # once for each layer, with that layer's vectors
        contexts: list[torch.Tensor] = []
        pooled: list[torch.Tensor] = []
        for layer in range(layers):
            filled: dict[str, Any] = {}
            for key, windows in windows_by_encoder.items():
                # the first token of a window is the start token
                placeholder_id = placeholder_windows[key][0][1][0]
                vectors = [vector_for_layer(words[token], key, index, layer) for token, index in order]
                filled[key] = replace_placeholders(windows, placeholder_id, vectors)
            context, layer_pooled = clip.encode_from_tokens(filled, return_pooled=True)
            contexts.append(context)
            if layer_pooled is not None:
                pooled.append(layer_pooled)

        options: dict[str, Any] = {"pooled_output": torch.stack(pooled).mean(0) if pooled else None}
        if layers > 1:
            # control nets have no patch and read the mean
            options["cross_attn_controlnet"] = torch.stack(contexts).mean(0)
            contexts.append(contexts[0][:, :1])
        return ([[torch.cat(contexts, 1), options]],)


NODE_CLASS_MAPPINGS = {"LorasmithLora": LorasmithLora, "LorasmithText": LorasmithText}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LorasmithLora": "Load LoRA with words (Lorasmith)",
    "LorasmithText": "Text with words for each layer (Lorasmith)",
}
