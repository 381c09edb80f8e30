"""Two nodes: one loads `NAME.exact.safetensors` (a LoRA, and words with a vector for each cross-attention layer), the
other encodes texts with these words.

A text is encoded once for each layer, and all of it goes along the tokens of one conditioning, (1, layers * tokens + 1,
width); on the model, a patch gives each cross-attention layer its own part. The one row too many tells such texts from
others, whose tokens are a multiple of 77, and keeps ComfyUI from repeating them to the length of others. Texts without
the words stay as they are. Needs nothing but ComfyUI, torch and safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open

PREFIX, KEY = "lorasmith.word.", "lorasmith.words"
WINDOW = 77
ENCODERS = {"te1": "l", "te2": "g"}
"""ComfyUI's keys of SDXL's text encoders; SD 1.x and 2.x have one (`te`), under a key that differs."""
MARKS = ("~", "^", "|", "`", "_", "=", "+")
"""Each is one token of CLIP; one that the text has not stands for a vector until the text is in tokens."""
SD = {("input", i): 1 for i in (1, 2, 4, 5, 7, 8)} | {("middle", 0): 1} | {("output", i): 1 for i in range(3, 12)}
SDXL = (
    {("input", 4): 2, ("input", 5): 2, ("input", 7): 10, ("input", 8): 10, ("middle", 0): 10}
    | {("output", i): 10 for i in range(3)}
    | {("output", i): 2 for i in range(3, 6)}
)
BLOCKS = {sum(blocks.values()): blocks for blocks in (SD, SDXL)}
"""By the number of cross-attention layers: how many each block has, in the order in which they run."""

Words = dict[str, dict[str, torch.Tensor]]
"""Word to its vectors (vectors, layers or 1, width), by text encoder."""


def read(path: str) -> tuple[dict[str, torch.Tensor], Words]:
    """The LoRA of a file and its words."""
    with safe_open(path, "pt", device="cpu") as file:
        names = json.loads((file.metadata() or {}).get(KEY, "[]"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    words: Words = {}
    for name in [name for name in tensors if name.startswith(PREFIX)]:
        index, _, part = name.removeprefix(PREFIX).partition(".")
        words.setdefault(names[int(index)], {})[part] = tensors.pop(name).float()
    return tensors, words


def depth(words: Words) -> int:
    """Layers that the words tell apart. Raises ValueError for words of different models."""
    found = {t.shape[1] for parts in words.values() for t in parts.values()} - {1}
    if len(found) > 1 or not found <= BLOCKS.keys():
        raise ValueError(
            f"words for {sorted(found)} cross-attention layers; models have {sorted(BLOCKS)}, all the same"
        )
    return max(found, default=1)


def patch_of(layers: int) -> Callable[..., Any]:
    """What `set_model_attn2_patch` takes: gives a layer its own part of a text."""
    places, first = {}, 0
    for block, count in BLOCKS[layers].items():
        places[block], first = first, first + count

    def patch(q: Any, context: Any, value: Any, options: dict[str, Any]) -> tuple[Any, Any, Any]:
        tokens = context.shape[1]
        if tokens <= layers * WINDOW or tokens % WINDOW != 1:
            return q, context, value
        if (tokens - 1) % (layers * WINDOW):
            raise ValueError("a text with layer-wise words was joined with another; use Conditioning (Combine) instead")
        size = (tokens - 1) // layers
        at = size * (places[tuple(options["block"][:2])] + options.get("block_index", 0))
        return q, context[:, at : at + size], value[:, at : at + size]

    return patch


def marked(text: str, words: Words) -> tuple[str, str, list[tuple[str, int]]]:
    """The text with a mark for each vector of a word, the mark, and which vectors these are, in their order."""
    ends = [
        (r"(?<!\w)" if w[0].isalnum() else "") + re.escape(w) + (r"(?!\w)" if w[-1].isalnum() else "") for w in words
    ]
    pattern = re.compile("|".join(sorted(ends, key=len, reverse=True)) or r"(?!)")
    mark = next((mark for mark in MARKS if mark not in pattern.sub("", text)), None)
    if mark is None:
        raise ValueError(f"the text has all of {' '.join(MARKS)}; leave one of them out")
    order: list[tuple[str, int]] = []

    def put(found: re.Match[str]) -> str:
        count = next(iter(words[found[0]].values())).shape[0]
        order.extend((found[0], i) for i in range(count))
        return f" {' '.join([mark] * count)} "

    return pattern.sub(put, text), mark, order


def with_vectors(tokens: Any, mark: int, vectors: list[torch.Tensor]) -> list[Any]:
    """Windows of (token, weight) with vectors in place of the marks."""
    rest = iter(vectors)
    found = [[(next(rest, None) if t[0] == mark else t[0], *t[1:]) for t in window] for window in tokens]
    if next(rest, None) is not None or any(t[0] is None for window in found for t in window):
        raise ValueError("the words were not found again in the tokens of the text")
    return found


class LorasmithLora:
    """Loads a LoRA of Lorasmith with its words."""

    RETURN_TYPES = ("MODEL", "CLIP", "LORASMITH_WORDS")
    FUNCTION = "load"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        import folder_paths  # type: ignore[import-not-found]

        strength = ("FLOAT", {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01})
        files = (folder_paths.get_filename_list("loras"),)
        named = {"lora_name": files, "strength_model": strength, "strength_clip": strength}
        return {
            "required": {"model": ("MODEL",), "clip": ("CLIP",), **named},
            "optional": {"words": ("LORASMITH_WORDS",)},
        }

    def load(
        self, model: Any, clip: Any, lora_name: str, strength_model: float, strength_clip: float, words: Any = None
    ) -> tuple[Any, Any, Words]:
        import comfy.sd  # type: ignore[import-not-found]
        import folder_paths  # type: ignore[import-not-found]

        lora, own = read(folder_paths.get_full_path("loras", lora_name))
        found: Words = {**(words or {}), **own}
        layers = depth(found)
        if lora:
            model, clip = comfy.sd.load_lora_for_models(model, clip, lora, strength_model, strength_clip)
        if layers > 1:
            model = model.clone()
            model.set_model_attn2_patch(patch_of(layers))
        return model, clip, found


class LorasmithText:
    """Encodes a text that may have the words."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "conditioning"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"clip": ("CLIP",), "words": ("LORASMITH_WORDS",), "text": ("STRING", {"multiline": True})}}

    def encode(self, clip: Any, words: Words, text: str) -> tuple[list[Any]]:
        plain, mark, order = marked(text, words)
        tokens, alone = clip.tokenize(plain), clip.tokenize(mark)
        layers = depth({word: words[word] for word, _ in order})
        parts = []
        for layer in range(layers):
            filled = {}
            for key, windows in tokens.items():
                own = [vector(words[word], key, i, layer) for word, i in order]
                filled[key] = with_vectors(windows, alone[key][0][1][0], own)
            parts.append(clip.encode_from_tokens(filled, return_pooled=True))
        contexts, pooled = [context for context, _ in parts], [p for _, p in parts if p is not None]
        more = {"pooled_output": torch.stack(pooled).mean(0) if pooled else None}
        if layers > 1:
            more["cross_attn_controlnet"] = torch.stack(contexts).mean(0)  # control nets have no patch
            contexts.append(contexts[0][:, :1])
        return ([[torch.cat(contexts, 1), more]],)


def vector(parts: dict[str, torch.Tensor], key: str, index: int, layer: int) -> torch.Tensor:
    """One vector of a word, for a text encoder by ComfyUI's key and a cross-attention layer."""
    found = next((t for part, t in parts.items() if ENCODERS.get(part, key) == key), None)
    if found is None:
        raise ValueError(f"the words have no vectors for the text encoder {key}; they are of another kind of model")
    return found[index, min(layer, found.shape[1] - 1)]


NODE_CLASS_MAPPINGS = {"LorasmithLora": LorasmithLora, "LorasmithText": LorasmithText}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LorasmithLora": "Load LoRA with words (Lorasmith)",
    "LorasmithText": "Text with words for each layer (Lorasmith)",
}
