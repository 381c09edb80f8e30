"""The tiny base's tokenizer: a prefix of CLIP's merge list, ids in CLIP's order."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from transformers import CLIPTokenizer

MERGES = 3582
"""Merges kept; with 512 byte symbols and two specials they give VOCABULARY ids."""
VOCABULARY = 4096
BOS, EOS, LENGTH = VOCABULARY - 2, VOCABULARY - 1, 77


def write(folder: Path) -> None:
    """Writes vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json to `folder`.

    CLIP numbers the bytes, the bytes that end a word, the merges in their order, and the two specials: a prefix of the
    merge list is a complete tokenizer of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clip = resources.files("lorasmith").joinpath("assets/clip")
    lines = clip.joinpath("merges.txt").read_text("utf-8").splitlines()
    merges = [line for line in lines if not line.startswith("#version")][:MERGES]
    full = json.loads(clip.joinpath("vocab.json").read_text("utf-8"))
    symbols = sorted(full, key=full.get)[:512]
    tokens = [*symbols, *(m.replace(" ", "") for m in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != VOCABULARY:
        raise ValueError(f"the merge list gives {len(vocabulary)} tokens, {VOCABULARY} are needed")
    specials = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "do_lower_case": True,
        "errors": "replace",
        **specials,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(specials, indent=2), "utf-8")


def load(folder: Path) -> CLIPTokenizer:
    """The tokenizer in `folder`, written there first if it is missing."""
    if not (folder / "merges.txt").exists():
        write(folder)
    return CLIPTokenizer.from_pretrained(folder)
