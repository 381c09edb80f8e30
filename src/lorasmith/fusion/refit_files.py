"""From a file with layer-wise tokens to one for programs that know one vector for each token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorasmith.core.devices import pick_device
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
from lorasmith.fusion.layerwise_texts import mean_tokens
from lorasmith.fusion.refit import RefitResult, RefitSettings, refit
from lorasmith.sampling.loras import new_tokens_of, vocabulary_of


@dataclass
class RefitReport:
    """What was written, and the errors that remain (`RefitResult`)."""

    file: Path
    exact: Path | None
    embeddings: list[Path]
    layers: int
    ranks: dict[int, int]
    names: list[str]
    result: RefitResult
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "file": str(self.file),
            "exact": str(self.exact),
            "embeddings": [str(path) for path in self.embeddings],
            "layers": self.layers,
            "ranks": {str(rank): count for rank, count in sorted(self.ranks.items())},
            "names": self.names,
            "prediction": self.result.prediction,
            "cosines": self.result.cosines,
            "errors": self.result.errors,
            "moved": self.result.moved,
            "notes": self.notes,
        }


def refit_file(
    path: Path, base: str | Path, output: OutputFile, settings: RefitSettings, progress: Progress | None = None
) -> RefitReport:
    """Read a file with layer-wise tokens (ours, or Mix-of-Show's `.pth`) and write the refitted LoRA, with its tokens
    beside it as training writes them.

    Raises LorasmithError if the file has no such tokens, or does not fit the base.
    """
    output.check()
    if settings.rank is not None and settings.rank < 1:
        raise LorasmithError(f"--rank {settings.rank}: a rank must be 1 or more")
    file = load_file(path)
    family = load(base, dtype=dtype_of(settings.precision), device=pick_device(settings.device))
    tokens = new_tokens_of(file, family, progress)
    check_layerwise(path, tokens)

    # A file may hold tokens alone; then the LoRA starts empty.
    model = ModelLayers.from_base(base)
    lora = read(path, model) if file.tensors else DecodedLora(path, model, {}, dict(file.metadata))
    names = concept_names(file, tokens, settings)
    settings = replace(settings, names=names, clip_skip=clip_skip_of(file, settings))
    result = refit(family, lora, tokens, settings, progress)

    # Other layers stay as they are in the file.
    layers = dict(lora.layers)
    for name, (up, down) in result.layers.items():
        layers[name] = lora_tensors(up, down, model.layers[name].shape)
    note = f"refitted: the layer-wise words of {path.name} as one vector each, keys and values make up for the rest"
    trigger = {"modelspec.trigger_phrase": ", ".join(names)}
    vocabulary = vocabulary_of(family, mean_tokens(tokens))
    exact, embeddings = write_all(replace(lora, layers=layers), output, note, vocabulary, trigger)

    notes = ["keys and values compensate for the words at the full strength of the LoRA only"]
    if sum(result.prediction["refit"].values()) > sum(result.prediction["collapse"].values()):
        notes.append(
            "here the refit is worse than the mean alone, whose LoRA and embeddings training has written; add prompts "
            "like those that you will use with --prompt, or increase --ridge"
        )
    ranks = rank_counts(layers)
    return RefitReport(output.path, exact, embeddings, len(layers), ranks, list(names), result, notes)


def check_layerwise(path: Path, tokens: TokenEmbeddings) -> None:
    """Raises LorasmithError if no token has a vector for each layer."""
    if any(tensor.shape[1] > 1 for by_encoder in tokens.values() for tensor in by_encoder.values()):
        return
    reason = "it has no words"
    if tokens:
        reason = f"its words ({', '.join(tokens)}) have one vector for all layers"
    raise LorasmithError(f"{path}: {reason}, so there is nothing to refit; it can be used as it is")


def concept_names(file: LoraFile, tokens: TokenEmbeddings, settings: RefitSettings) -> tuple[str, ...]:
    """What prompts call the concepts: the names in the settings; else the trigger phrases that contain new tokens; else
    all tokens. Raises LorasmithError for a name that contains none."""

    def has_token(name: str) -> bool:
        return any(token in name for token in tokens)

    phrases = file.metadata.get("modelspec.trigger_phrase", "").split(",")
    trigger_names = tuple(phrase.strip() for phrase in phrases if has_token(phrase))
    # Trigger phrases are what the captions of the training had.
    names = settings.names or trigger_names or (" ".join(tokens),)
    for name in names:
        if not has_token(name):
            raise LorasmithError(f'--name "{name}": contains none of the words of {file.path} ({", ".join(tokens)})')
    return names


def clip_skip_of(file: LoraFile, settings: RefitSettings) -> int:
    """The CLIP skip of the settings, else that of the training according to the file, else 1."""
    if settings.clip_skip:
        return settings.clip_skip
    trained_with = file.metadata.get("ss_clip_skip", "")
    return int(trained_with) if trained_with.isdigit() and int(trained_with) > 0 else 1
