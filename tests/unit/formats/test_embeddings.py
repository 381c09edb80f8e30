"""Files of new words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.core.errors import LorasmithError
from lorasmith.formats import embeddings, token_embeddings

V = torch.arange(12.0).view(2, 6)


@pytest.mark.parametrize("vectors", [{"te": V}, {"te1": V, "te2": V + 1}], ids=["sd1", "sdxl"])
def test_there_and_back(vectors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "garp.safetensors"
    save_file(embeddings.encode(vectors), path)
    word, found = embeddings.load(path)
    assert word == "garp"
    assert found.keys() == vectors.keys()
    assert all(torch.equal(found[k], vectors[k]) for k in vectors)


def test_layouts_of_others(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"<garp>": V[0]}, path)  # diffusers
    assert torch.equal(embeddings.load(path)[1]["te"], V[:1])
    torch.save({"string_to_param": {"*": V}, "name": "garp", "string_to_token": {"*": 265}}, tmp_path / "b.pt")
    word, found = embeddings.load(tmp_path / "b.pt")
    assert word == "garp"
    assert torch.equal(found["te"], V)
    save_file({"clip_l": V, "clip_l_out": V + 1}, path)
    assert torch.equal(embeddings.load(path)[1]["te"], V)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("opened",))


def test_pickles_run_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"string_to_param": {"*": V}, "name": Evil()}, tmp_path / "x.pt")
    with pytest.raises(LorasmithError, match=r"x\.pt"):
        embeddings.load(tmp_path / "x.pt")
    assert "opened" not in capsys.readouterr().out


def test_refusals() -> None:
    with pytest.raises(LorasmithError, match="te1 and te2"):
        embeddings.encode({"te2": V})
    with pytest.raises(LorasmithError, match="not a file of one new token"):
        embeddings.decode({"a": V, "b": V})
    with pytest.raises(LorasmithError, match="has a dot"):
        embeddings.encode_bundle({"my.word": {"te": V}})
    with pytest.raises(LorasmithError, match="shape"):
        embeddings.encode({"te": torch.zeros(1, 2, 3)})


def test_bundles() -> None:
    assert set(embeddings.encode_bundle({"garp": {"te": V}})) == {"bundle_emb.garp.string_to_param.*"}
    assert set(embeddings.encode_bundle({"g": {"te1": V, "te2": V}})) == {"bundle_emb.g.clip_l", "bundle_emb.g.clip_g"}


def test_cosines_are_of_the_layers_with_their_mean() -> None:
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert token_embeddings.layer_cosines({"w": {"te": rows}})["w"] == pytest.approx([0.5**0.5] * 2)
    assert "w 0.71" in token_embeddings.averaging_warning({"w": {"te": rows}})
    assert token_embeddings.averaging_warning({"w": {"te": rows[:, :1]}}) == ""


def test_trigger_phrases_call_words_as_their_files_are() -> None:
    said = token_embeddings.trigger_metadata({"modelspec.trigger_phrase": "a <g1> <g2>"}, ["<g1>", "<g2>"])
    assert said == {"modelspec.trigger_phrase": "a g1 g2"}
    assert token_embeddings.trigger_metadata({}, ["<g1>"]) == {}


@pytest.mark.parametrize("shape", [(0, 8), (2, 0), (0,)])
def test_vectors_without_numbers_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LorasmithError, match="must have shape"):
        embeddings.decode({"emb_params": torch.zeros(shape)})
