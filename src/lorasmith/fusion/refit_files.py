"""From a file with layer-wise words to one for programs that know one vector a word."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorasmith.core.dtypes import dtype_of
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.load import load
from lorasmith.files.lora import DecodedLora, OutputFile, lora_tensors, rank_counts, read
from lorasmith.files.model import ModelLayers
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.read import load as load_file
from lorasmith.formats.token_embeddings import TokenEmbeddings
from lorasmith.fusion.files import write_all
from lorasmith.fusion.refit import RefitSettings, Refitted, refit, shared
from lorasmith.sampling.loras import new_tokens_of, vocabulary_of
from lorasmith.sampling.settings import pick_device


@dataclass
class RefitReport:
    """What was written, and what remains of the error (`Refitted`)."""

    file: Path
    exact: Path | None
    embeddings: list[Path]
    layers: int
    ranks: dict[int, int]
    names: list[str]
    found: Refitted
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        found = {"file": str(self.file), "exact": str(self.exact), "embeddings": [str(p) for p in self.embeddings]}
        found |= {"layers": self.layers, "ranks": {str(r): n for r, n in sorted(self.ranks.items())}}
        measured = {"cosines": self.found.cosines, "errors": self.found.errors, "moved": self.found.moved}
        return found | {"names": self.names, "prediction": self.found.prediction, **measured, "notes": self.notes}


def refit_file(
    path: Path, base: str | Path, output: OutputFile, settings: RefitSettings, progress: Progress | None = None
) -> RefitReport:
    """Read a file with layer-wise words (ours, or Mix-of-Show's `.pth`) and write the refitted LoRA, with its words
    beside it as training writes them.

    Raises LorasmithError if the file has no such words, or does not fit the base.
    """
    output.check()
    if settings.rank is not None and settings.rank < 1:
        raise LorasmithError(f"--rank {settings.rank}: a rank is 1 or more")
    file = load_file(path)
    dtype = dtype_of(settings.precision)
    family = load(base, dtype=dtype, device=pick_device(settings.device))
    words = new_tokens_of(file, family, progress)
    if not any(t.shape[1] > 1 for parts in words.values() for t in parts.values()):
        has = f"its words ({', '.join(words)}) have one vector for all layers" if words else "it has no words"
        raise LorasmithError(f"{path}: {has}, so there is nothing to refit; it can be used as it is")
    model = ModelLayers.from_base(base)
    lora = read(path, model) if file.tensors else DecodedLora(path, model, {}, dict(file.metadata))
    settings = replace(settings, names=names_of(file, words, settings), clip_skip=clip_skip_of(file, settings))
    found = refit(family, lora, words, settings, progress)
    layers = dict(lora.layers)
    layers |= {name: lora_tensors(*pair, model.layers[name].shape) for name, pair in found.layers.items()}
    note = f"refitted: the layer-wise words of {path.name} as one vector each, keys and values make up for the rest"
    trigger = {"modelspec.trigger_phrase": ", ".join(settings.names)}
    whole = replace(lora, layers=layers)
    exact, embeddings = write_all(whole, output, note, vocabulary_of(family, shared(words)), trigger)
    notes = ["keys and values make up for the words at the LoRA's full strength only"]
    if sum(found.prediction["refit"].values()) > sum(found.prediction["collapse"].values()):
        notes.append(
            "here the refit is worse than the mean alone, whose LoRA and embeddings training wrote; give --prompt such "
            "as you will write, or a larger --ridge"
        )
    return RefitReport(
        output.path, exact, embeddings, len(layers), rank_counts(layers), list(settings.names), found, notes
    )


def names_of(file: LoraFile, words: TokenEmbeddings, settings: RefitSettings) -> tuple[str, ...]:
    """What prompts call the concepts: as asked; or the trigger phrases that hold new words; or all the words."""
    said = file.metadata.get("modelspec.trigger_phrase", "").split(",")
    phrases = [phrase.strip() for phrase in said if any(word in phrase for word in words)]
    names = settings.names or tuple(phrases) or (" ".join(words),)
    if without := [name for name in names if not any(word in name for word in words)]:
        raise LorasmithError(f'--name "{without[0]}": holds none of the words of {file.path} ({", ".join(words)})')
    return names


def clip_skip_of(file: LoraFile, settings: RefitSettings) -> int:
    """As asked, or as the file says that it was trained."""
    said = file.metadata.get("ss_clip_skip", "")
    return settings.clip_skip or (int(said) if said.isdigit() and int(said) > 0 else 1)
