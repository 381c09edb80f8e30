"""sd-scripts' options of textual inversion, converted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lorasmith.compat.kohya.options import OPTIONS as NETWORK
from lorasmith.compat.kohya.options.inversion import ABSENT, OPTIONS
from lorasmith.compat.script import Conversion
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.formats import embeddings, xti
from lorasmith.training.config import load_config

SCRIPT = "train_textual_inversion"
WORD = {"token_string": "<new>", "network_module": None}


def test_the_inventory() -> None:
    assert len(OPTIONS) == 171
    assert {option.name for option in NETWORK} >= ABSENT
    assert len({option.name for option in OPTIONS}) == 171


@pytest.mark.parametrize("script", [SCRIPT, "train_textual_inversion_XTI", "sdxl_train_textual_inversion"])
def test_words_alone_are_trained(script: str, convert: Callable[..., Conversion]) -> None:
    found = convert(script, **WORD, learning_rate=0.01, init_word="red cat", num_vectors_per_token=3)
    config = load_config(found.config)
    assert config.trained_groups() == ["words"]
    (concept,) = config.concepts
    assert concept.words == ("<new>",)
    assert (concept.vectors, concept.init, concept.lr, concept.weight_decay) == (3, ("red cat",), 0.01, 0.01)
    assert concept.layerwise == script.endswith("XTI")


def test_the_optimizers_weight_decay_is_the_words(convert: Callable[..., Conversion]) -> None:
    found = convert(SCRIPT, **WORD, optimizer_args=["weight_decay=0.2"]).config
    assert load_config(found).concepts[0].weight_decay == 0.2
    found = convert(SCRIPT, **WORD, optimizer_type="Lion", optimizer_args=["weight_decay=0.3"]).config
    assert load_config(found).concepts[0].weight_decay == 0.3


@pytest.mark.parametrize("kind", ["object", "style"])
def test_templates_take_the_place_of_captions(kind: str, convert: Callable[..., Conversion]) -> None:
    found = load_config(convert(SCRIPT, **WORD, **{f"use_{kind}_template": True}).config)
    for source in found.data.sources:
        (template,) = source.transforms or ()
        outcomes = template.outcomes("a caption")  # type: ignore[attr-defined]
        assert len(outcomes) > 4
        assert all("<new>" in text and "a caption" not in text for text in outcomes)


def test_what_cannot_be(convert: Callable[..., Conversion]) -> None:
    with pytest.raises(ConfigError, match="token_string"):
        convert(SCRIPT, network_module=None)
    with pytest.raises(ConfigError, match="choose one"):
        convert(SCRIPT, **WORD, use_object_template=True, use_style_template=True)


def test_the_file_is_called_as_the_word(convert: Callable[..., Conversion]) -> None:
    assert convert(SCRIPT, **WORD, output_name=None).config["name"] == "new"


def test_layers_there_and_back() -> None:
    vectors = torch.randn(3, 16, 8)
    tensors = xti.encode(vectors)
    assert tensors["OUT03"].shape == (3, 8)
    assert torch.equal(tensors["MID"], vectors[:, 6])
    assert torch.equal(embeddings.decode(tensors)["te"], vectors)
    with pytest.raises(LorasmithError, match="16 layers"):
        xti.encode(vectors[:, :15])
