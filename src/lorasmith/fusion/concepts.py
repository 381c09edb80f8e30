"""What is to be fused: files, what their prompts call them, and how strong each is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lorasmith.adapters.attach import module_at
from lorasmith.core.component_names import component_of, is_text_encoder
from lorasmith.core.errors import ConfigError, LorasmithError, Problem, did_you_mean
from lorasmith.core.file_strength import split_strength
from lorasmith.core.text_files import read_text
from lorasmith.families.base import Family
from lorasmith.files.lora import DecodedLora, lora_factors, read, restore_adapter
from lorasmith.files.lowrank import MatrixSvd
from lorasmith.files.model import ModelLayers
from lorasmith.formats import token_embeddings
from lorasmith.formats.read import load
from lorasmith.formats.rewrite import to_plain_lora
from lorasmith.formats.token_embeddings import TokenEmbeddings
from lorasmith.fusion.closed_form import Factors
from lorasmith.sampling.loras import new_tokens_of

KEYS = ("lora_path", "unet_alpha", "text_encoder_alpha", "concept_name")


@dataclass(frozen=True)
class ConceptUse:
    """A file, the name that prompts have for it (None: its new words, or its trigger), and the strengths that are
    folded in."""

    path: Path
    name: str | None = None
    unet: float = 1.0
    text: float = 1.0

    @classmethod
    def read(cls, written: str) -> ConceptUse:
        """`file.safetensors`, `file.safetensors:0.8`, `file.safetensors=garp` or `file.safetensors:0.8=garp`."""
        front, _, name = written.partition("=")
        path, strength = split_strength(front)
        return cls(path, name.strip() or None, strength, strength)


@dataclass(frozen=True)
class Concept:
    """A concept as it is fused: its change of each layer, strengths in them, and its new words."""

    name: str
    lora: DecodedLora
    changes: dict[str, Factors]
    words: TokenEmbeddings


def read_list(path: Path) -> list[ConceptUse]:
    """Mix-of-Show's JSON: a list of `{lora_path, unet_alpha, text_encoder_alpha, concept_name}`.

    Paths are looked for as they are and beside the file. Raises ConfigError, with all problems at once.
    """
    try:
        rows: Any = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise LorasmithError(f"{path}: cannot be read as JSON ({error})") from None
    problems: list[Problem] = []
    found = []
    if not isinstance(rows, list):
        raise LorasmithError(f'{path}: it should be a list of concepts, [{{"lora_path": ..., "concept_name": ...}}]')
    for index, row in enumerate(rows):
        where = f"[{index}]"
        if not isinstance(row, dict) or not isinstance(row.get("lora_path"), str):
            problems.append(Problem(where, "no lora_path", 'an object with "lora_path"', "add it"))
            continue
        for key in set(row) - set(KEYS):
            problems.append(Problem(f"{where}.{key}", "unknown key", ", ".join(KEYS), did_you_mean(key, KEYS)))
        numbers = {}
        for key in ("unet_alpha", "text_encoder_alpha"):
            value = row.get(key, 1.0)
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                problems.append(Problem(f"{where}.{key}", f"found {value!r}", "a finite number, such as 1.0"))
                value = 1.0
            numbers[key] = float(value)
        file = Path(row["lora_path"]).expanduser()
        file = file if file.is_file() or not (path.parent / file).is_file() else path.parent / file
        if not file.is_file():
            problems.append(Problem(f"{where}.lora_path", f'"{file}" does not exist', remedy="correct the path"))
        found.append(ConceptUse(file, row.get("concept_name"), numbers["unet_alpha"], numbers["text_encoder_alpha"]))
    if problems:
        raise ConfigError(problems, str(path))
    return found


def read_concepts(family: Family, model: ModelLayers, uses: Sequence[ConceptUse]) -> list[Concept]:
    """The files of all concepts. Raises LorasmithError for one that cannot be fused, and for words that two of them
    have."""
    if len(uses) < 2:
        raise LorasmithError("fusing needs two files or more")
    found = [read_concept(family, model, use) for use in uses]
    owners: dict[str, Path] = {}
    for concept in found:
        for word, vectors in concept.words.items():
            other = next((c for c in found if c is not concept and word in c.words), None)
            if word in owners and other is not None and not _equal(vectors, other.words[word]):
                raise LorasmithError(
                    f'{owners[word]} and {concept.lora.path} both have a word "{word}", with other vectors; '
                    "one of the concepts must be trained under another name"
                )
            owners[word] = concept.lora.path
    check_names([(concept.name, concept.lora.path) for concept in found])
    return found


def check_names(named: Sequence[tuple[str, Path]]) -> None:
    """Raise LorasmithError if prompts would have one name for two files: they would collect inputs for both, and each
    concept would be taught what the other one does. Parts of one file may share a name."""
    owners: dict[str, Path] = {}
    for name, path in named:
        other = owners.setdefault(name, path)
        if other != path:
            raise LorasmithError(
                f'{other} and {path} have one name in prompts, "{name}"; give each its own: '
                f"{other}={name}1 {path}={name}2, with the words that their captions had"
            )


def read_concept(family: Family, model: ModelLayers, use: ConceptUse) -> Concept:
    """One file. Raises LorasmithError if nothing says what prompts call it, or if it changes more than weights of
    linear layers and convolutions."""
    file = load(use.path)
    words = new_tokens_of(file, family, None)
    named = token_embeddings.token_names(file.metadata)
    name = use.name or " ".join(named) or file.metadata.get("modelspec.trigger_phrase", "").split(",")[0].strip()
    if not name:
        raise LorasmithError(f"{use.path}: what prompts call it is not in the file; say it: {use.path.name}=NAME")
    lora = read(use.path, model)
    places = family.named_layers(list(dict.fromkeys(n.split(".", 1)[0] for n in lora.layers)), norms=True)
    changes = {}
    for layer in lora.layers:
        strength = use.text if is_text_encoder(component_of(layer)) else use.unet
        if strength:
            weight: Any = module_at(places[layer]).weight
            up, down = factors(lora, layer, weight.detach())
            changes[layer] = (strength * up, down)
    return Concept(name, lora, changes, words)


def factors(lora: DecodedLora, layer: str, base: Tensor) -> Factors:
    """A layer's change as a product: as it is where it has a low rank, of full rank where it depends on the weight."""
    shape = lora.model.layers[layer].shape
    if len(shape) < 2 or lora.layers[layer].keys() & {"diff_b", "w_norm", "b_norm"}:
        raise LorasmithError(
            f"{lora.path}: it changes norms or biases ({layer}), which cannot be fused; train or extract it without"
        )
    tensors = to_plain_lora(lora.layers[layer], shape)
    if tensors is not None:
        return lora_factors(tensors)
    change = restore_adapter(lora, layer, base.float().cpu()).delta(base.float().cpu()).detach().flatten(1)
    spectrum = MatrixSvd(change)
    return spectrum.truncate(spectrum.numerical_rank)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        t.shape == other[k].shape and bool((t == other[k]).all()) for k, t in one.items()
    )
