"""The LoRAs that are fused: their files, what prompts call them, and their strengths."""

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
from lorasmith.files.lora import DecodedLora, decode, lora_factors, restore_adapter
from lorasmith.files.lowrank import MatrixSvd
from lorasmith.files.model import ModelLayers
from lorasmith.formats import token_embeddings
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.read import load
from lorasmith.formats.rewrite import to_plain_lora
from lorasmith.formats.t5_layers import t5_layers_in
from lorasmith.formats.token_embeddings import TokenEmbeddings
from lorasmith.fusion.closed_form import Factors
from lorasmith.fusion.inputs import components_of
from lorasmith.sampling.loras import new_tokens_of

LIST_KEYS = ("lora_path", "unet_alpha", "text_encoder_alpha", "concept_name")
"""Keys of an entry in Mix-of-Show's list of concepts."""


@dataclass(frozen=True)
class ConceptUse:
    """A LoRA file, the name that prompts use for it (None: its new words, or its trigger phrase), and the strengths
    that its changes of the UNet and of the text encoders are multiplied with."""

    path: Path
    name: str | None = None
    unet: float = 1.0
    text: float = 1.0

    @classmethod
    def read(cls, text: str) -> ConceptUse:
        """`file.safetensors`, `file.safetensors:0.8`, `file.safetensors=garp` or `file.safetensors:0.8=garp`."""
        file, _, name = text.partition("=")
        path, strength = split_strength(file)
        return cls(path, name.strip() or None, strength, strength)


@dataclass(frozen=True)
class ConceptFile:
    """A LoRA file that was read, as it is and by the layers of the base, and how it is used."""

    use: ConceptUse
    file: LoraFile
    lora: DecodedLora

    @classmethod
    def read(cls, use: ConceptUse, model: ModelLayers) -> ConceptFile:
        """Raises LorasmithError if the file is damaged or missing, or does not fit the base."""
        file = load(use.path)
        return cls(use, file, decode(file, model))


@dataclass(frozen=True)
class LoadedConcept:
    """A concept that is fused: its name in prompts, its change of each layer with the strength multiplied in, and its
    new tokens."""

    name: str
    lora: DecodedLora
    changes: dict[str, Factors]
    tokens: TokenEmbeddings


def read_list(path: Path) -> list[ConceptUse]:
    """Mix-of-Show's JSON: a list of `{lora_path, unet_alpha, text_encoder_alpha, concept_name}`.

    Paths are relative to the working folder or to the file. Raises ConfigError with all problems at once.
    """
    try:
        entries: Any = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise LorasmithError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(entries, list):
        raise LorasmithError(f'{path}: must be a list of concepts, [{{"lora_path": ..., "concept_name": ...}}]')

    problems: list[Problem] = []
    uses: list[ConceptUse] = []
    for index, entry in enumerate(entries):
        where = f"[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("lora_path"), str):
            problems.append(Problem(where, "no lora_path", 'an object with "lora_path"', "add it"))
            continue
        uses.append(_read_list_entry(entry, where, path.parent, problems))
    if problems:
        raise ConfigError(problems, str(path))
    return uses


def _read_list_entry(entry: dict[str, Any], where: str, folder: Path, problems: list[Problem]) -> ConceptUse:
    for key in set(entry) - set(LIST_KEYS):
        allowed = ", ".join(LIST_KEYS)
        problems.append(Problem(f"{where}.{key}", "unknown key", allowed, did_you_mean(key, LIST_KEYS)))

    strengths: dict[str, float] = {}
    for key in ("unet_alpha", "text_encoder_alpha"):
        value = entry.get(key, 1.0)
        # A bool is an int in Python.
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            problems.append(Problem(f"{where}.{key}", f"found {value!r}", "a finite number, such as 1.0"))
            value = 1.0
        strengths[key] = float(value)

    # A list may lie beside its LoRAs and name them relative to itself.
    file = Path(entry["lora_path"]).expanduser()
    if not file.is_file() and (folder / file).is_file():
        file = folder / file
    if not file.is_file():
        problems.append(Problem(f"{where}.lora_path", f'"{file}" does not exist', remedy="correct the path"))
    return ConceptUse(file, entry.get("concept_name"), strengths["unet_alpha"], strengths["text_encoder_alpha"])


def concepts_of(family: Family, files: Sequence[ConceptFile]) -> list[LoadedConcept]:
    """The concepts of all files. Raises LorasmithError for a file that cannot be fused, and if two concepts have the
    same word with different vectors."""
    if len(files) < 2:
        raise LorasmithError("fusing needs two files or more")
    concepts = [concept_of(family, file) for file in files]
    first_with: dict[str, LoadedConcept] = {}
    # Two files may know the same word, such as parts of one training, if they mean the same by it.
    for concept in concepts:
        for word, vectors in concept.tokens.items():
            first = first_with.setdefault(word, concept)
            if not _equal_vectors(vectors, first.tokens[word]):
                raise LorasmithError(
                    f'{first.lora.path} and {concept.lora.path} both have a word "{word}", with different vectors; '
                    "train one of the concepts with another word"
                )
    check_names([(concept.name, concept.lora.path) for concept in concepts])
    return concepts


def check_names(named: Sequence[tuple[str, Path]]) -> None:
    """Raises LorasmithError if prompts have the same name for two files: their inputs would be collected for both, and
    each concept would be fitted to what the other does. Parts of one file may share a name."""
    first_file: dict[str, Path] = {}
    for name, path in named:
        other = first_file.setdefault(name, path)
        if other != path:
            raise LorasmithError(
                f'{other} and {path} have one name in prompts, "{name}"; give each its own: '
                f"{other}={name}1 {path}={name}2, with the words that their captions had"
            )


def concept_of(family: Family, concept_file: ConceptFile) -> LoadedConcept:
    """The concept of one file. Raises LorasmithError if its name in prompts is unknown, or if it changes anything but
    the weights of linear layers and convolutions."""
    use, file, lora = concept_file.use, concept_file.file, concept_file.lora
    if t5_layers_in(file):
        raise LorasmithError(f"{use.path}: it changes T5, which cannot be fused; fuse files without layers of T5")
    tokens = new_tokens_of(file, family, None)
    name = use.name or " ".join(token_embeddings.token_names(file.metadata))
    if not name:
        trigger_phrases = file.metadata.get("modelspec.trigger_phrase", "").split(",")
        name = trigger_phrases[0].strip()
    if not name:
        raise LorasmithError(
            f"{use.path}: the file does not say what prompts call its concept; give it as {use.path.name}=NAME"
        )

    modules = family.named_layers(components_of(lora.layers), norms=True)
    changes: dict[str, Factors] = {}
    for layer in lora.layers:
        strength = use.text if is_text_encoder(component_of(layer)) else use.unet
        # A layer without a change is left out of the regression.
        if strength == 0:
            continue
        weight: Any = module_at(modules[layer]).weight
        up, down = change_factors(lora, layer, weight.detach())
        changes[layer] = (strength * up, down)
    return LoadedConcept(name, lora, changes, tokens)


def change_factors(lora: DecodedLora, layer: str, base: Tensor) -> Factors:
    """A layer's change as a product up @ down: the LoRA's own factors, or an exact decomposition of full rank where the
    change depends on the base weight. Raises LorasmithError for changes of norms and biases."""
    shape = lora.model.layers[layer].shape
    if len(shape) < 2 or lora.layers[layer].keys() & {"diff_b", "w_norm", "b_norm"}:
        raise LorasmithError(
            f"{lora.path}: it changes norms or biases ({layer}), which cannot be fused; "
            "train or extract it without them"
        )
    lora_layer = to_plain_lora(lora.layers[layer], shape)
    if lora_layer is not None:
        return lora_factors(lora_layer)
    # Such as DoRA, whose change depends on the base weight.
    base = base.float().cpu()
    change = restore_adapter(lora, layer, base).delta(base).detach().flatten(1)
    svd = MatrixSvd(change)
    return svd.truncate(svd.numerical_rank)


def _equal_vectors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    if one.keys() != other.keys():
        return False
    return all(one[part].shape == other[part].shape and bool((one[part] == other[part]).all()) for part in one)
