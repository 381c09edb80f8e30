"""LoRA files on a loaded base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lorasmith.adapters.attach import AdapterSet, current
from lorasmith.adapters.base import Adapter, kind_of
from lorasmith.adapters.layer import spec_of, tensor_of
from lorasmith.concepts import Vocabulary
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.progress import Progress
from lorasmith.core.store import sha256_of
from lorasmith.families.base import Family
from lorasmith.formats import embeddings, kohya, mixofshow, token_embeddings
from lorasmith.formats.read import LoraFile, load
from lorasmith.formats.token_embeddings import Words
from lorasmith.sampling.prompts import LoraTag

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file and its strength; `text` is the text encoders', if it differs."""

    path: Path
    strength: float = 1.0
    text: float | None = None

    @classmethod
    def read(cls, written: str) -> LoraUse:
        """`file.safetensors` or `file.safetensors:0.8`."""
        stem, _, number = written.rpartition(":")
        try:
            return cls(Path(stem), float(number)) if stem else cls(Path(written))
        except ValueError:
            return cls(Path(written))

    def times(self, factor: float) -> LoraUse:
        """The same file at a multiple of its strength."""
        return LoraUse(self.path, self.strength * factor, None if self.text is None else self.text * factor)

    def by_component(self, components: Sequence[str]) -> dict[str, float]:
        """The strength of each component that carries adapters."""
        text = self.strength if self.text is None else self.text
        return {name: self.strength if name == "unet" else text for name in components}

    def __str__(self) -> str:
        """As a tag in a prompt."""
        text = "" if self.text is None or self.text == self.strength else f"{self.text:g}:"
        return f"<lora:{self.path.stem}:{text}{self.strength:g}>"


class Loras:
    """The LoRA files of one call, each read once and attached when it is used, with the new words they bring along."""

    def __init__(self, family: Family, progress: Progress | None = None, new_words: Sequence[Path] = ()) -> None:
        """`new_words`: files of new words (textual inversion), each called by its file's name."""
        self.family, self.progress = family, progress
        self._sets: dict[Path, AdapterSet] = {}
        self._words: dict[Path, Words] = {path: load_words(family, path) for path in new_words}
        self._always = tuple(new_words)

    def get(self, path: Path) -> AdapterSet:
        """The adapters of a file, not attached. Raises LorasmithError if the file does not fit this base."""
        if path not in self._sets:
            file = load(path)
            self._words[path] = words_of(file, self.family, self.progress)
            self._sets[path] = adapters_of(self.family, file)
            self._sets[path].detach()
        return self._sets[path]

    @contextmanager
    def attached(self, uses: Sequence[LoraUse]) -> Iterator[None]:
        """With these files on the base, in their order; afterwards the base is as before."""
        chosen = [(self.get(use.path), use) for use in uses]
        before = self.family.vocabulary
        known = {w: v for path in (*self._always, *(use.path for use in uses)) for w, v in self._words[path].items()}
        if known:
            self.family.learn(vocabulary_of(self.family, known))
        try:
            for adapters, use in chosen:
                adapters.attach().set_strength(use.by_component(adapters.components()))
            yield
        finally:
            for adapters, _ in reversed(chosen):
                adapters.detach()
            if known:
                self.family.learn(before)


def vocabulary_of(family: Family, words: Words) -> Vocabulary:
    """These words for this base. Raises LorasmithError if they were made for another."""
    table = family.own_table()
    for word, vectors in words.items():
        for part, own in table.items():
            width = vectors[part].shape[-1] if part in vectors else None
            if width != own.shape[1]:
                has = f"vectors of width {width}" if width else f"no vectors for {part}"
                raise LorasmithError(f"the word {word} has {has}; this {family.kind} base needs {own.shape[1]}")
    layers = len(getattr(family.unet, "cross_attentions", ()))
    size = len(next(iter(table.values())))
    return Vocabulary(list(words), list(words.values()), size, layers).to(family.device).requires_grad_(False)


def load_words(family: Family, path: Path) -> Words:
    """The words of a file: of our own form, of a fused model of Mix-of-Show (its JSON), or one word of textual
    inversion, called as its file is."""
    if path.suffix == ".json":
        return mixofshow.fused_words(path, next(iter(family.own_table().values())))
    if path.suffix == SUFFIX and (file := load(path)).words:
        return {word: dict(vectors) for word, vectors in file.words.items()}
    word, vectors = embeddings.load(path)
    return {word: token_embeddings.deep(vectors, family.text_components)}


def words_of(file: LoraFile, family: Family, progress: Progress | None) -> Words:
    """The words that a LoRA brings along, or those that training left in the exact file beside it."""
    found = token_embeddings.beside(file) | token_embeddings.bundled(file.embeddings, family.text_components)
    missing = [word for word in token_embeddings.word_list(file.metadata) if word not in found]
    if missing and progress is not None:
        progress.say(
            f"{file.path}: it was trained with new words ({', '.join(missing)}) that are not in it, nor beside it"
        )
    return found


def load_lora(family: Family, path: Path, progress: Progress | None = None) -> AdapterSet:
    """The adapters of a file, in any known spelling, attached at strength 1; of its new words only a note.

    Raises LorasmithError if the file does not fit this base.
    """
    file = load(path)
    new = [*file.embeddings, *file.words]
    if new and progress is not None:
        progress.say(f"{path}: its new words ({', '.join(new)}) are not used here, only its changed layers")
    return adapters_of(family, file)


def adapters_of(family: Family, file: LoraFile) -> AdapterSet:
    """The adapters of a file that was read, attached at strength 1; none if it holds new words alone."""
    layers = changes_in(file, family)
    return built(family, file, layers).attach()


def changes_in(file: LoraFile, family: Family) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file by layer and word; none if it holds new words alone.

    Raises LorasmithError if some of them belong to no layer of this base.
    """
    path = file.path
    if not file.tensors and (file.words or file.embeddings):
        return {}
    layers, strangers = kohya.decode(file.tensors, family.from_kohya)
    if not layers:
        raise LorasmithError(
            f"{path}: none of its {len(file.tensors)} tensors belongs to a layer of this {family.kind} base"
            f"{_made_for(file)}. First name: {next(iter(file.names or file.tensors), 'none')}"
        )
    if strangers:
        raise LorasmithError(
            f"{path}: {len(strangers)} of its tensors belong to no layer of this {family.kind} base{_made_for(file)}, "
            f"for example {strangers[0]}"
        )
    return layers


def built(family: Family, file: LoraFile, layers: Mapping[str, Mapping[str, Tensor]]) -> AdapterSet:
    """Adapters with the tensors of some layers of a file, not attached."""
    places = family.named_layers(dict.fromkeys(name.split(".", 1)[0] for name in layers), norms=True)
    adapters: dict[str, Adapter] = {}
    for name, words in layers.items():
        adapters[name] = restore(name, current(places[name]), words, file.path, _made_for(file))
    found = AdapterSet.restore(adapters, places)
    found.eval()
    return found


@torch.no_grad()
def restore(name: str, layer: nn.Module, words: Mapping[str, Tensor], path: Path, made_for: str) -> Adapter:
    """One layer's adapter. Raises LorasmithError for an unknown kind or other shapes than the layer's."""
    kind, spec = kind_of(words), spec_of(name, layer)
    if kind is None or spec is None:
        raise LorasmithError(f"{path}: {name} has tensors of no known adapter kind: {', '.join(sorted(words))}")
    base = tensor_of(layer, "weight")
    try:
        adapter = kind().restore(spec, base, words).to(base.device)
        if adapter.delta(base.float()).shape == base.shape:
            return adapter
    except (RuntimeError, KeyError, IndexError, ValueError):
        pass  # told below, with the shapes
    shapes = ", ".join(f"{word} {tuple(tensor.shape)}" for word, tensor in words.items() if tensor.dim())
    raise LorasmithError(
        f"{path}: it does not fit this base{made_for}: {name} has shape {spec.shape}, the file has {shapes}"
    )


def find_lora(tag: LoraTag, loras: Sequence[LoraUse]) -> LoraUse:
    """The file that a tag in a prompt means: one of `loras`, or a file beside them or in the current folder.

    Raises LorasmithError, with the nearest name there is, if it is in none of them.
    """
    text = None if tag.text == tag.unet else tag.text
    folders = list(dict.fromkeys([*(use.path.parent for use in loras), Path()]))
    for path in [use.path for use in loras if use.path.stem == tag.name] + [f / f"{tag.name}{SUFFIX}" for f in folders]:
        if path.is_file():
            return LoraUse(path, tag.unet, text)
    beside = [file.stem for folder in folders for file in folder.glob(f"*{SUFFIX}")]
    raise LorasmithError(
        f"<lora:{tag.name}>: there is no {tag.name}{SUFFIX} in {', '.join(str(f) for f in folders)}; "
        f"{did_you_mean(tag.name, beside) or 'give it with --lora'}"
    )


def short_hash(path: Path) -> str:
    """What A1111 identifies a LoRA by: 12 digits of the SHA-256 of its tensors."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return sha256_of(path, 8 + header)[:12]


def _made_for(file: LoraFile) -> str:
    version = file.metadata.get("ss_base_model_version") or file.metadata.get("modelspec.architecture")
    if version:
        return f" (the file says that it was made for {version})"
    return f" (its shapes are those of {file.family})" if file.family and file.family != "unknown" else ""
