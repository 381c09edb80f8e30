"""Tokens in windows, weights of words; the tokenizer is a small one with CLIP's rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.families.stable_diffusion import text

BEGIN, END = 26, 27


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One token a letter: `a</w>` .. `z</w>` are 0 .. 25."""
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {f"{chr(97 + i)}</w>": i for i in range(26)} | {"<|startoftext|>": BEGIN, "<|endoftext|>": END}
    vocabulary |= {chr(97 + i): 28 + i for i in range(26)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder)


def tokens(tokenizer: Any, *texts: str) -> list[list[int]]:
    return [text.tokens(tokenizer, t, None) for t in texts]


def test_one_window(tokenizer: Any) -> None:
    ids = text.windows(tokenizer, tokens(tokenizer, "a b c", ""), 75)
    assert ids.shape == (2, 1, 77)
    assert ids[0, 0, :5].tolist() == [BEGIN, 0, 1, 2, END]
    assert ids[1, 0].tolist() == [BEGIN, *[END] * 76]


@pytest.mark.parametrize("count", [74, 75, 76, 150, 151, 400])
def test_long_texts_fill_one_window_after_the_other(count: int, tokenizer: Any) -> None:
    letters = [i % 26 for i in range(count)]
    ids = text.windows(tokenizer, tokens(tokenizer, " ".join(chr(97 + i) for i in letters)), 150)
    assert ids.shape == (1, 2, 77)
    kept = [i for window in ids[0] for i in window[1:].tolist() if i != END]
    assert kept == letters[:150]
    assert (ids[0, :, 0] == BEGIN).all()
    assert (ids[0, :, -1] == END).all()


@pytest.mark.parametrize("count", [0, 74, 77, 100])
def test_a_window_holds_75(count: int, tokenizer: Any) -> None:
    with pytest.raises(LorasmithError, match="multiple of 75"):
        text.windows(tokenizer, [[0]], count)


def test_filling_up_leaves_the_first_end(tokenizer: Any) -> None:
    ids = text.windows(tokenizer, tokens(tokenizer, "a b"), 75)[0]
    found = text.refill(ids, END, 7)[0].tolist()
    assert found == [BEGIN, 0, 1, END, *[7] * 73]
    assert torch.equal(text.refill(ids, END, END), ids)


def test_weights_keep_the_mean_of_each_window() -> None:
    hidden = torch.randn(2, 77, 8) + 0.3
    weights = torch.ones(2, 77)
    assert torch.allclose(text.weigh(hidden, weights), hidden)
    weights[0, 3] = 1.4
    found = text.weigh(hidden, weights)
    assert torch.allclose(found.mean((1, 2)), hidden.mean((1, 2)))
    assert torch.allclose(found[1], hidden[1])
    ratio = (found[0] / hidden[0]).mean(-1)
    assert torch.allclose(ratio[3] / ratio[4], torch.tensor(1.4))


@pytest.mark.parametrize("prompt", ["caf\udce9", "\ud800", "a b\udfff"])
def test_a_text_that_is_not_unicode(tokenizer: Any, prompt: str) -> None:
    with pytest.raises(LorasmithError, match="which is not text; write it in UTF-8"):
        tokens(tokenizer, prompt)
