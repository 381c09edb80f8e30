"""New words: where they stand in texts, which rows they have, what their vectors do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.concepts import Concept, Vocabulary
from lorasmith.concepts.initial_embeddings import initial_vocabulary
from lorasmith.concepts.token_trainer import TokenTrainer
from lorasmith.core.config import validate
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.formats import token_embeddings
from lorasmith.formats.read import load as load_file
from lorasmith.formats.write import write

SIZE, WIDTH = 100, 8


def own(text: str) -> dict[str, Tensor]:
    """A model whose vector of a word is full of the word's length."""
    lengths = [float(len(word)) for word in text.split()]
    return {"te": torch.tensor(lengths)[:, None].expand(-1, WIDTH)}


def vocabulary(*concepts: Concept, layers: int = 4) -> Vocabulary:
    return initial_vocabulary(concepts, own, SIZE, layers, seed=0)


def test_texts_are_cut_at_new_words() -> None:
    new = vocabulary(Concept(words=("<a>", ["<a>", "b"][1])), Concept(words=("<a>1",)))
    found = [p if isinstance(p, str) else p.text for p in new.split("x <a>1, <a> b <a>")]
    assert found == ["x ", "<a>1", ", ", "<a>", "b", "<a>"]


@pytest.mark.parametrize("text", ["garply", "agarp", "garp2", "GARP"])
def test_a_word_of_letters_stands_alone(text: str) -> None:
    assert vocabulary(Concept(words=("garp",))).split(text) == [text]
    assert len(vocabulary(Concept(words=("garp",))).split(f"{text}, garp.")) == 3


def test_rows_follow_each_other() -> None:
    new = vocabulary(Concept(words=("<a>", "<b>"), vectors=3), Concept(words=("<c>",)))
    assert [(w.text, w.first, w.count) for w in new.tokens] == [("<a>", 0, 3), ("<b>", 3, 3), ("<c>", 6, 1)]
    assert new.token_ids(new.tokens[1]) == [103, 104, 105]
    assert new.row_numbers(torch.tensor([5, 99, 100, 106])).tolist() == [0, 0, 1, 7]


def test_each_layer_has_its_rows_and_shared_words_the_same() -> None:
    new = vocabulary(Concept(words=("<a>",), layerwise=True), Concept(words=("<b>",), init=("wolf",)), layers=3)
    with torch.no_grad():
        new.values[0].get_parameter("te")[:] = torch.arange(3.0)[None, :, None]
    ids = new.ids_per_layer(torch.tensor([[7, 100, 101]]))[0]
    table = new.table("te").detach()
    assert ids[:, 0].tolist() == [7, 7, 7]
    assert [float(table[row - SIZE][0]) for row in ids[:, 1]] == [0, 1, 2]
    assert [float(table[row - SIZE][0]) for row in ids[:, 2]] == [4, 4, 4]
    assert new.row_numbers(ids).tolist() == [[0, 1, 2]] * 3


def test_initial_words() -> None:
    new = vocabulary(Concept(words=("<a>", "<b>"), vectors=3, init=("<rand-0.5>", "big dog x")))
    drawn, named = (next(v.parameters()) for v in new.values)
    assert named[:, 0, 0].tolist() == [3, 3, 1]
    assert 0.2 < float(drawn.detach().std()) < 0.8
    again = vocabulary(Concept(words=("<a>",), vectors=3, init=("<rand-0.5>",)), Concept(words=("<z>",)))
    assert torch.equal(next(again.values[0].parameters()), drawn)  # other words do not move it
    two = vocabulary(Concept(words=("<a>",), vectors=3, init=("dog",)))
    assert next(two.values[0].parameters())[:, 0, 0].tolist() == [3, 3, 3]
    with pytest.raises(LorasmithError, match="no tokens"):
        vocabulary(Concept(words=("<a>",), init=(" ",)))


@pytest.mark.parametrize(
    "bad", [{"words": []}, {"words": ["a b"]}, {"words": ["a", "a"]}, {"words": ["a", "b", "c"], "init": ["x", "y"]}]
)
def test_what_is_no_concept(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        validate(Concept, bad, "test")


def test_two_concepts_need_two_words() -> None:
    with pytest.raises(LorasmithError, match="<a>"):
        vocabulary(Concept(words=("<a>",)), Concept(words=("<a>",)))


def test_long_enough_words_stop_for_good_and_the_others_go_on() -> None:
    concepts = (Concept(words=("<a>",), norm_stop=6.0, init=("on",)), Concept(words=("<b>",), init=("on",)))
    new = vocabulary(*concepts)
    learning = TokenTrainer(new, concepts, own("x"))
    grown = []
    for _ in range(5):
        with torch.no_grad():
            for p in new.parameters():
                p.add_(0.1)
        learning.after_step()
        grown.append([round(float(next(v.parameters()).detach()[0, 0, 0]), 4) for v in new.values])
    # length = 2 * sqrt(8) = 5.66 at first; 2.2 * sqrt(8) = 6.2 is the first that is long enough
    assert [a for a, _ in grown] == [2.1, 2.2, 2.2, 2.2, 2.2]
    assert grown[-1][1] == 2.5
    resumed = TokenTrainer(vocabulary(*concepts), concepts, own("x"))
    resumed.load_state_dict(learning.state_dict())
    with torch.no_grad():
        for p in resumed.vocabulary.parameters():
            p.add_(1.0)
    resumed.after_step()
    assert [round(float(next(v.parameters()).detach()[0, 0, 0]), 4) for v in resumed.vocabulary.values] == [2.2, 3.5]


def test_the_spread_of_the_models_own_words_is_kept() -> None:
    concepts = (Concept(words=("<a>",), keep_std=True, init=("<rand-1.0>",)),)
    new = vocabulary(*concepts)
    TokenTrainer(new, concepts, {"te": torch.randn(50, WIDTH) * 0.03}).after_step()
    assert float(next(new.parameters()).detach().std()) == pytest.approx(0.03, rel=0.2)


def test_files_give_back_every_vector(tmp_path: Path) -> None:
    new = vocabulary(Concept(words=("<a>", "b.c"), layerwise=True, vectors=2), Concept(words=("<d>",)))
    tensors, metadata = token_embeddings.encode(new)
    write(tmp_path / "f.safetensors", tensors, metadata, torch.float32)
    found = load_file(tmp_path / "f.safetensors").token_embeddings
    assert list(found) == ["<a>", "b.c", "<d>"]
    again = Vocabulary(list(found), list(found.values()), SIZE, 4)
    assert torch.equal(again.table("te"), new.table("te"))
    plain = token_embeddings.mean_over_layers({w: dict(v) for w, v in found.items()})
    assert plain["<a>"]["te"].shape == (2, WIDTH)
    with pytest.raises(LorasmithError, match="none of its new tokens"):
        token_embeddings.decode({"lorasmith.word.9.te": torch.zeros(1, 1, 2)}, metadata, "f")


def test_a_family_reads_new_words() -> None:
    family = load("tiny-sd")
    before = family.encode_text(["a photo of a dog, on grass"])["context"]
    concept = Concept(words=("<x>",), init=("dog",))
    size = len(next(iter(family.embedding_tables().values())))
    new = initial_vocabulary([concept], family.token_embeddings, size, 16, seed=0)
    family.learn(new)
    conditioning = family.encode_text(["a photo of a <x>, on grass", "grass"])
    assert torch.allclose(conditioning["context"][:1], before, atol=1e-5)  # it starts as that very word
    assert conditioning["new_token_index"] is not None
    place = [t == size for t in family.tokenize(["a photo of a <x>, on grass"])[0, 0].tolist()].index(True)
    assert conditioning["new_token_index"].nonzero().tolist() == [[0, place]]
    conditioning["context"][0].sum().backward()
    grad = next(new.parameters()).grad
    assert grad is not None
    assert float(grad.abs().sum()) > 0
    family.learn(None)
    assert torch.equal(family.encode_text(["a photo of a dog, on grass"])["context"], before)


def test_layers_get_conditions_of_their_own() -> None:
    family = load("tiny-sd")
    size = len(next(iter(family.embedding_tables().values())))
    new = initial_vocabulary(
        [Concept(words=("<x>",), init=("dog",), layerwise=True)], family.token_embeddings, size, 16, seed=0
    )
    family.learn(new)
    with torch.no_grad():
        next(new.parameters())[0, 5] = family.token_embeddings("cat")["te"][0]
    context = family.encode_text(["a <x>"])["context"]
    assert context.shape[:2] == (1, 16)
    with torch.no_grad():
        assert torch.allclose(context[0, 5], family.encode_text(["a cat"])["context"][0], atol=1e-5)
        assert torch.allclose(context[0, 6], family.encode_text(["a dog"])["context"][0], atol=1e-5)
    assert family.encode_text(["a cat"])["context"].dim() == 3


def test_the_embedded_base_is_there() -> None:
    assert find("tiny-sd")
