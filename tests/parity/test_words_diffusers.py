"""Files of new words, as diffusers reads them, mean to its text encoder what they mean to ours."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from lorasmith.concepts import Concept
from lorasmith.concepts.initial_embeddings import initial_vocabulary
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.formats import embeddings, token_embeddings
from lorasmith.formats.write import write
from lorasmith.sampling.loras import Loras


def test_diffusers_and_we_condition_alike(tmp_path: Path) -> None:
    family = load("tiny-sd")
    size = len(next(iter(family.embedding_tables().values())))
    new = initial_vocabulary(
        [Concept(words=("<x>",), vectors=2, init=("<rand-0.3>",))], family.token_embeddings, size, 16, seed=3
    )
    path = tmp_path / "zork.safetensors"
    write(
        path,
        embeddings.encode(token_embeddings.mean_over_layers(token_embeddings.vocabulary_embeddings(new))["<x>"]),
        {},
        torch.float32,
    )

    folder = find("tiny-sd").path
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    pipe.load_textual_inversion(str(path), token="zork")
    theirs = pipe.encode_prompt("a photo of zork, on grass", "cpu", 1, False)[0]

    loras = Loras(family, new_words=[path])
    with loras.attached([]), torch.no_grad():
        ours = family.encode_text(["a photo of zork, on grass"])["context"]
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert family.vocabulary is None
