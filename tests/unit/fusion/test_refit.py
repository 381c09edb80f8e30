"""Refitted keys and values against least squares solved directly, and against a model with the files on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.lora import LoRA
from lorasmith.concepts import Concept
from lorasmith.concepts.initial_embeddings import initial_vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import torch_generator
from lorasmith.families.load import load
from lorasmith.files.lora import OutputFile, read
from lorasmith.files.model import ModelLayers
from lorasmith.formats import token_embeddings
from lorasmith.formats.kohya import Kohya
from lorasmith.formats.token_embeddings import TokenEmbeddings
from lorasmith.formats.write import write
from lorasmith.fusion.prompts import PROMPTS
from lorasmith.fusion.refit import RefitSettings, refit
from lorasmith.fusion.refit_files import refit_file
from lorasmith.sampling.loras import Loras, LoraUse, vocabulary_of

NAME = "<x> <y>"
SETTINGS = RefitSettings(
    prompts=("a photo of {}", "{}, on grass", "a painting of {} beside a car"),
    held_out=("a drawing of {} at night",),
    preserve=("", "a photo of a dog, on grass"),
    names=(NAME,),
    size=64,
    precision="fp32",
)
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def family() -> Any:
    return load("tiny-sd", dtype=torch.float32)


def made(family: Any, path: Path, spread: float, layers: tuple[str, ...] = ("*.attn2.to_k", "te.*.q_proj")) -> Path:
    """A file with changes of random size and two words whose layers differ by `spread`."""
    size = len(next(iter(family.embedding_tables().values())))
    concept = Concept(words=("<x>", "<y>"), init=("<rand-0.3>", "dog"), layerwise=True)
    new = initial_vocabulary([concept], family.token_embeddings, size, 16, seed=1)
    generator = torch.Generator().manual_seed(0)
    adapters = AdapterSet.create(
        LoRA(rank=2, layers=layers), family.named_layers(("unet", "te")), family.layer_presets, seed=0
    )
    with torch.no_grad():
        for p in adapters.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.05)
        for p in new.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * spread)
    encoded = Kohya().encode_adapters(adapters.adapters, family, adapters.weight_of)
    tensors, metadata = token_embeddings.encode(new)
    return write(path, {**encoded.tensors, **tensors}, metadata, torch.float32)


def words_in(path: Path) -> TokenEmbeddings:
    from lorasmith.formats.read import load as load_file

    return {word: dict(parts) for word, parts in load_file(path).token_embeddings.items()}


def contexts(family: Any, path: Path, words: TokenEmbeddings, texts: list[str]) -> Tensor:
    """(B, [layers,] tokens, width), with the file's LoRA on the text encoder."""
    with Loras(family).attached([LoraUse(path)]), torch.no_grad():
        family.learn(vocabulary_of(family, words))
        found = family.encode_text(texts)["context"]
    family.learn(None)
    return found.double()


def mean_of(words: TokenEmbeddings) -> TokenEmbeddings:
    return {w: {part: t.mean(1, keepdim=True) for part, t in parts.items()} for w, parts in words.items()}


def test_it_solves_the_least_squares_problem(family: Any, tmp_path: Path) -> None:
    """Rows of three kinds: texts with the words, texts without, and the ridge, which is a share of the others."""
    path = made(family, tmp_path / "f.safetensors", 0.2)
    words, lora = words_in(path), read(path, ModelLayers.from_base("tiny-sd"))
    found = refit(family, lora, words, replace(SETTINGS, rank=128, ridge=0.05))

    texts = [p.replace("{}", NAME) for p in SETTINGS.prompts]
    own = contexts(family, path, words, texts)[:, 2].flatten(0, 1)
    mean = contexts(family, path, mean_of(words), texts).flatten(0, 1)
    plain = contexts(family, path, words, list(SETTINGS.preserve)).flatten(0, 1)
    weight = family.unet.get_submodule(f"{LAYER}.to_k").weight.double()
    words_of_layer = lora.layers[f"unet.{LAYER}.to_k"]
    whole = weight + (words_of_layer["lora_up.weight"] @ words_of_layer["lora_down.weight"]).double() * float(
        words_of_layer["alpha"] / 2
    )
    parts = [mean / len(mean) ** 0.5, plain / len(plain) ** 0.5]
    ridge = 0.05 * sum(p.square().sum() for p in parts) / 128
    a = torch.cat([*parts, ridge.sqrt() * torch.eye(128, dtype=torch.float64)])
    b = torch.zeros(len(a), len(whole), dtype=torch.float64)
    b[: len(mean)] = (own - mean) @ whole.T / len(mean) ** 0.5
    expected = whole - weight + torch.linalg.lstsq(a, b).solution.T
    up, down = found.layers[f"unet.{LAYER}.to_k"]
    torch.testing.assert_close((up @ down).double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_words_that_are_alike_in_all_layers_need_nothing(family: Any, tmp_path: Path) -> None:
    path = made(family, tmp_path / "f.safetensors", 0.2)
    alike = {
        w: {p: t.mean(1, keepdim=True).repeat(1, 16, 1) for p, t in parts.items()}
        for w, parts in words_in(path).items()
    }
    found = refit(family, read(path, ModelLayers.from_base("tiny-sd")), alike, SETTINGS)
    for method in ("collapse", "refit"):
        assert max(found.errors[method].values()) < 1e-4
        assert max(found.prediction[method].values()) < 1e-3
    assert max(found.moved.values()) < 1e-3
    assert all(abs(c - 1) < 1e-5 for values in found.cosines.values() for c in values)


@pytest.mark.slow
def test_the_files_do_what_the_report_says(family: Any, tmp_path: Path) -> None:
    """Loaded as a program without layers loads them: a LoRA, and an embedding for each word."""
    path = made(family, tmp_path / "f.exact.safetensors", 0.3)
    many = replace(SETTINGS, prompts=PROMPTS[::2], ridge=0.1)
    report = refit_file(path, "tiny-sd", OutputFile(tmp_path / "out" / "g.safetensors"), many)
    errors = report.result.errors
    assert report.names == [NAME]
    assert sum(errors["refit"].values()) < 0.9 * sum(errors["collapse"].values())
    assert report.ranks[18] == 16, "to_k: two of its own and 16 more"
    assert report.ranks[16] == 16, "to_v had none"

    text = SETTINGS.held_out[0].replace("{}", NAME)
    wanted, exact, empty = keys(family, path, [], text)
    plain = tmp_path / "plain.safetensors"
    (tmp_path / "out" / "g.safetensors").rename(plain)  # away from the exact file
    for word in ("x", "y"):
        (tmp_path / "out" / "embeddings" / f"{word}.safetensors").rename(tmp_path / f"<{word}>.safetensors")
    found, refitted, _ = keys(family, plain, [tmp_path / "<x>.safetensors", tmp_path / "<y>.safetensors"], text)
    behind = slice(1 + len(family.tokens("a drawing of ")), None)
    for name, value in found.items():
        own = wanted[name][0, behind]
        error = float((value[0, behind] - own).norm() / own.norm())
        assert error == pytest.approx(errors["refit"][f"unet.{name}"], rel=0.02, abs=1e-4)
    error = float((refitted - exact).norm() / (exact - empty).norm())
    assert error == pytest.approx(report.result.prediction["refit"][600], rel=0.01)


def keys(family: Any, path: Path, new_words: list[Path], text: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """What each layer makes of a text, with a file on the model; and the predictions of it and of the empty text."""
    found: dict[str, Tensor] = {}
    x, t = torch.randn((1, 4, 8, 8), generator=torch_generator(0, "refit", 0)), torch.tensor([600])
    with Loras(family, new_words=new_words).attached([LoraUse(path)]), torch.no_grad():
        empty = family.predict(x, t, family.encode_text([""]))
        handles = []
        for name in family.unet.cross_attentions:
            for leaf in ("to_k", "to_v"):
                layer = family.unet.get_submodule(f"{name}.{leaf}")
                handles.append(
                    layer.register_forward_hook(lambda m, a, out, n=f"{name}.{leaf}": found.__setitem__(n, out))
                )
        output = family.predict(x, t, family.encode_text([text]))
        for handle in handles:
            handle.remove()
    return found, output, empty


def test_mistakes_are_told(family: Any, tmp_path: Path) -> None:
    path = made(family, tmp_path / "f.safetensors", 0.2)
    output = OutputFile(tmp_path / "g.safetensors")
    with pytest.raises(LorasmithError, match="a rank must be 1 or more"):
        refit_file(path, "tiny-sd", output, replace(SETTINGS, rank=0))
    with pytest.raises(LorasmithError, match="contains none of the words"):
        refit_file(path, "tiny-sd", output, replace(SETTINGS, names=("garp",)))
    words = {f"{token_embeddings.TENSOR_PREFIX}0.te": torch.ones(1, 1, 128)}
    write(tmp_path / "h.safetensors", words, {token_embeddings.METADATA_KEY: '["<x>"]'}, torch.float32)
    with pytest.raises(LorasmithError, match="one vector for all layers, so there is nothing"):
        refit_file(tmp_path / "h.safetensors", "tiny-sd", output, SETTINGS)
    assert not output.path.exists()
