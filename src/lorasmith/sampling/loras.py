"""LoRA files on a loaded base."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lorasmith.adapters.attach import AdapterSet, module_at
from lorasmith.adapters.base import Adapter, kind_of
from lorasmith.adapters.layer import spec_of, tensor_of
from lorasmith.concepts import Vocabulary
from lorasmith.conditions.attach import ConditionSet
from lorasmith.conditions.file import conditions_file, load_conditions
from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.file_contents import foreign_lora
from lorasmith.core.file_strength import split_strength
from lorasmith.core.progress import Progress
from lorasmith.core.store import sha256_of
from lorasmith.families.base import Family
from lorasmith.formats import embeddings, kohya, mixofshow, other_files, plugins, token_embeddings
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.read import load, load_token_embeddings
from lorasmith.formats.survey import Survey
from lorasmith.formats.t5_layers import without_t5
from lorasmith.formats.token_embeddings import TokenEmbeddings
from lorasmith.sampling.prompts import LoraTag

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file and its strength; `text` is the strength of the text encoders, if it differs."""

    path: Path
    strength: float = 1.0
    text: float | None = None

    @classmethod
    def read(cls, text: str) -> LoraUse:
        """`file.safetensors` or `file.safetensors:0.8`."""
        return cls(*split_strength(text))

    def times(self, factor: float) -> LoraUse:
        """The same file at a multiple of its strength."""
        return LoraUse(self.path, self.strength * factor, None if self.text is None else self.text * factor)

    def by_component(self, components: Sequence[str]) -> dict[str, float]:
        """The strength of each component that carries adapters."""
        text = self.strength if self.text is None else self.text
        return {name: text if is_text_encoder(name) else self.strength for name in components}

    def __str__(self) -> str:
        """As a tag in a prompt."""
        text = "" if self.text is None or self.text == self.strength else f"{self.text:g}:"
        return f"<lora:{self.path.stem}:{text}{self.strength:g}>"


class Loras:
    """The LoRA files of one call, with the new tokens that they contain: each is read once, and attached when used."""

    def __init__(self, family: Family, progress: Progress | None = None, new_words: Sequence[Path] = ()) -> None:
        """`new_words`: files of new tokens (textual inversion), known to all prompts; each token is called like its
        file."""
        self.family, self.progress = family, progress
        self._sets: dict[Path, AdapterSet] = {}
        self._conditions: dict[Path, ConditionSet] = {}
        self._tokens: dict[Path, TokenEmbeddings] = {path: load_new_tokens(family, path) for path in new_words}
        self._token_files = tuple(new_words)

    def get(self, path: Path) -> AdapterSet:
        """The adapters of a file, not attached. Raises LorasmithError if the file does not fit this base."""
        if path not in self._sets:
            file = without_t5(load(path))
            if self.progress is not None:
                say_notes(file, self.progress)
            self._tokens[path] = new_tokens_of(file, self.family, self.progress)
            self._sets[path] = build_adapters(self.family, file, decode_layers(file, self.family))
            # training left the conditions beside the file
            beside = conditions_file(path)
            if beside.is_file():
                self._conditions[path] = load_conditions(self.family, beside)
        return self._sets[path]

    @contextmanager
    def _with_conditions(self, uses: Sequence[LoraUse]) -> Iterator[None]:
        """With the conditions of these files, without those of files at strength 0, which change nothing."""
        paths = dict.fromkeys(use.path for use in uses if use.strength)
        sets = [self._conditions[path].attach() for path in paths if path in self._conditions]
        try:
            yield
        finally:
            for conditions in sets:
                conditions.detach()

    def condition_names(self, uses: Sequence[LoraUse]) -> tuple[str, ...]:
        """The names of the conditions of these files, which have been read."""
        return tuple(name for use in uses if use.path in self._conditions for name in self._conditions[use.path].names)

    @contextmanager
    def attached(self, uses: Sequence[LoraUse]) -> Iterator[None]:
        """With these files on the base, in their order, and their tokens known; afterwards the base is as before."""
        # all files are read before anything is changed, so that an error leaves the base alone
        sets = [(self.get(use.path), use) for use in uses]
        tokens: TokenEmbeddings = {}
        for path in (*self._token_files, *(use.path for use in uses)):
            tokens.update(self._tokens[path])
        vocabulary_before = self.family.vocabulary
        if tokens:
            self.family.learn(vocabulary_of(self.family, tokens))
        try:
            for adapters, use in sets:
                adapters.attach().set_strength(use.by_component(adapters.components()))
            with self._with_conditions(uses):
                yield
        finally:
            # the last one is on top
            for adapters, _ in reversed(sets):
                adapters.detach()
            if tokens:
                self.family.learn(vocabulary_before)


# New tokens


def vocabulary_of(family: Family, tokens: TokenEmbeddings) -> Vocabulary:
    """These new tokens for this base. Raises LorasmithError if they were trained for another one."""
    # a vector must be as wide as those of the text encoder that it is used in
    tables = family.embedding_tables()
    for token, vectors in tokens.items():
        for component, table in tables.items():
            width = vectors[component].shape[-1] if component in vectors else None
            if width != table.shape[1]:
                found = f"vectors of width {width}" if width else f"no vectors for {component}"
                raise LorasmithError(
                    f"the word {token} has {found}; this {family.kind} base needs width {table.shape[1]}"
                )
    layers = len(family.cross_attention_layers())
    table_size = len(next(iter(tables.values())))
    vocabulary = Vocabulary(list(tokens), list(tokens.values()), table_size, layers)
    return vocabulary.to(family.device).requires_grad_(False)


def load_new_tokens(family: Family, path: Path) -> TokenEmbeddings:
    """The new tokens of a file: of Lorasmith's own format, of a fused model of Mix-of-Show (its JSON), or one token of
    textual inversion, called like its file."""
    if path.suffix == ".json":
        return mixofshow.fused_tokens(path, next(iter(family.embedding_tables().values())))
    if path.suffix == SUFFIX:
        own_format = load(path).token_embeddings
        if own_format:
            return {token: dict(vectors) for token, vectors in own_format.items()}
    token, vectors = embeddings.load(path)
    return {token: token_embeddings.with_layer_axis(vectors, family.text_components)}


def new_tokens_of(file: LoraFile, family: Family, progress: Progress | None) -> TokenEmbeddings:
    """The new tokens that a LoRA file contains, or those in the exact file that training left beside it.

    `progress` gets a warning about tokens that the LoRA was trained with and that are in neither.
    """
    # a token in the file itself goes before one of the same name beside it
    bundled = token_embeddings.decode_bundled(file.bundled_embeddings, family.text_components)
    tokens = load_token_embeddings(file) | bundled
    missing = [token for token in token_embeddings.token_names(file.metadata) if token not in tokens]
    if missing and progress is not None:
        progress.say(
            f"{file.path}: it was trained with new words ({', '.join(missing)}) that are not in it, nor beside it"
        )
    return tokens


# Adapters


def load_lora(family: Family, path: Path, progress: Progress | None = None) -> AdapterSet:
    """The adapters of a file, in any known spelling, attached at strength 1; its new tokens are only mentioned.

    Raises LorasmithError if the file does not fit this base.
    """
    file = without_t5(load(path))
    if progress is not None:
        say_notes(file, progress)
    tokens = [*file.bundled_embeddings, *file.token_embeddings]
    if tokens and progress is not None:
        progress.say(f"{path}: its new words ({', '.join(tokens)}) are not used here, only its changed layers")
    return attach_file(family, file)


def attach_file(family: Family, file: LoraFile) -> AdapterSet:
    """The adapters of a file that has been read, attached at strength 1. Raises LorasmithError as `load_lora` does."""
    return build_adapters(family, file, decode_layers(file, family)).attach()


def say_notes(file: LoraFile, progress: Progress) -> None:
    """Tell the user what was left out or assumed when the file was read."""
    for note in file.notes:
        progress.say(f"{file.path}: {note}")


def decode_layers(file: LoraFile, family: Family) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file by layer and tensor name; empty if the file holds new tokens alone.

    Raises LorasmithError if some of the tensors belong to no layer of this base.
    """
    # new tokens alone change no layer, which is not an error
    if not file.tensors and (file.token_embeddings or file.bundled_embeddings):
        return {}
    layers, unknown = kohya.decode_modules(file.tensors, family)
    if not layers:
        raise LorasmithError(
            f"{file.path}: none of its {len(file.tensors)} tensors belongs to a layer of this {family.kind} base"
            f"{origin_of(file)}{_foreign(file)}. First name: {next(iter(file.original_keys or file.tensors), 'none')}"
            + other_files.embedding_advice(file.original_keys)
        )
    if unknown:
        raise LorasmithError(
            f"{file.path}: {len(unknown)} of its tensors belong to no layer of this {family.kind} base"
            f"{origin_of(file)}, for example {unknown[0]}"
        )
    return layers


def _foreign(file: LoraFile) -> str:
    """What a LoRA for another architecture is, as a part of an error message; empty if its keys do not tell."""
    foreign = foreign_lora(file.original_keys)
    return "" if foreign is None else f": it is {foreign.what}"


def build_adapters(family: Family, file: LoraFile, layers: Mapping[str, Mapping[str, Tensor]]) -> AdapterSet:
    """Adapters with the tensors of some layers of a file, not attached. Raises LorasmithError if one does not fit."""
    # naming the layers of a text encoder loads it, so only components that the file changes are named
    components = dict.fromkeys(name.split(".", 1)[0] for name in layers)
    places = family.named_layers(components, norms=True)
    restored = {
        # frozen weights may wait on the host, away from where the family computes
        name: restore_adapter(name, module_at(places[name]), layers[name], file).to(family.device)
        for name in layers
    }
    adapters = AdapterSet.restore(restored, places)
    adapters.eval()
    return adapters


@torch.no_grad()
def restore_adapter(name: str, layer: nn.Module, tensors: Mapping[str, Tensor], file: LoraFile) -> Adapter:
    """One layer's adapter. Raises LorasmithError for an unknown kind and for tensors that are
    missing or have other shapes than the layer needs."""
    kind, spec = kind_of(tensors), spec_of(name, layer)
    if kind is None or spec is None:
        raise LorasmithError(
            f"{file.path}: {name} has tensors of no known adapter kind: {', '.join(sorted(tensors))}"
            + plugins.advice(file.metadata)
        )
    if not kind.fits(spec, tensors):
        shapes = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in tensors.items() if tensor.dim())
        raise LorasmithError(
            f"{file.path}: it does not fit this base{origin_of(file)}: {name} has shape {spec.shape}, "
            f"the file has {shapes}"
        )
    weight = tensor_of(layer, "weight")
    return kind().restore(spec, weight, tensors)


def origin_of(file: LoraFile) -> str:
    """What the file says about its base model, in parentheses, for error messages; empty if nothing is known."""
    version = file.metadata.get("ss_base_model_version") or file.metadata.get("modelspec.architecture")
    if version:
        return f" (the file says that it was made for {version})"
    family = Survey(file).family
    return f" (its shapes are those of {family})" if family else ""


# Files


def find_lora(tag: LoraTag, loras: Sequence[LoraUse]) -> LoraUse:
    """The file that a tag in a prompt refers to: one of `loras`, or a file beside them or in the current folder.

    Raises LorasmithError, with the nearest name, if it is in none of them.
    """
    text = None if tag.text == tag.unet else tag.text
    folders = list(dict.fromkeys([*(use.path.parent for use in loras), Path()]))
    # a file that was named with --lora goes before one with the same name elsewhere
    candidates = [use.path for use in loras if use.path.stem == tag.name]
    candidates += lora_files(folders, tag.name)
    for path in candidates:
        if path.is_file():
            return LoraUse(path, tag.unet, text)
    names = [file.stem for file in lora_files(folders)]
    raise LorasmithError(
        f"<lora:{tag.name}>: there is no {tag.name}{SUFFIX} in {', '.join(str(folder) for folder in folders)}; "
        f"{did_you_mean(tag.name, names) or 'give it with --lora'}"
    )


def lora_files(folders: Sequence[Path], name: str = "") -> list[Path]:
    """The files of LoRAs in folders: all of them, or those with this name without suffix."""
    pattern = glob.escape(name) or "*"
    patterns = [f"{pattern}{suffix}" for suffix in (SUFFIX, mixofshow.SUFFIX)]
    return [file for folder in folders for suffixed in patterns for file in folder.glob(suffixed)]


def short_hash(path: Path) -> str:
    """What A1111 identifies a LoRA by: the first 12 digits of the SHA-256 of the file, without the header of a
    .safetensors file."""
    # a pickle has no such header: its first bytes would be read as a length that reaches far beyond the file
    if path.suffix.lower() != SUFFIX:
        return sha256_of(path)[:12]
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
    return sha256_of(path, 8 + header_size)[:12]
