"""How many tokens a caption has, for the vocabulary of Stable Diffusion's text encoders.

The tokenizer is that of the package; `tokenizers` reads it without transformers and torch.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from lorasmith.core.package import assets

LIMIT = 75
"""Tokens that are read of a caption by default (`text.max_tokens`)."""


@cache
def tokenizer() -> Any:
    """CLIP's tokenizer: lower case, spaces joined, then byte pairs."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    folder = assets() / "clip"
    model = models.BPE.from_file(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        end_of_word_suffix="</w>",
        unk_token="<|endoftext|>",
    )
    built = Tokenizer(model)
    built.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return built


def count_tokens(caption: str) -> int:
    """The tokens of a caption, without those of begin and end."""
    return len(tokenizer().encode(caption, add_special_tokens=False).ids)
