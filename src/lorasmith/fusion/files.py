"""From files to a file: what the command and the Python API call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lorasmith.concepts import Vocabulary
from lorasmith.core.dtypes import dtype_of
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.files.lora import (
    DecodedLora,
    OutputFile,
    encode_as,
    lora_tensors,
    network_metadata,
    rank_counts,
    updated_metadata,
)
from lorasmith.files.lowrank import MatrixSvd, ProductSvd, Truncation, TruncationErrors
from lorasmith.files.model import ModelLayers
from lorasmith.formats import embeddings, token_embeddings
from lorasmith.formats.rewrite import LayerTensors
from lorasmith.formats.write import write
from lorasmith.fusion.concepts import Concept, ConceptUse, read_concepts
from lorasmith.fusion.fuse import METHODS, Fused, FuseSettings, fuse
from lorasmith.sampling.loras import vocabulary_of
from lorasmith.sampling.settings import pick_device


@dataclass
class FuseReport:
    """What was written, and how well each concept survived (`Fused.missed`). `error`: of cutting to a rank."""

    file: Path
    concepts: list[str]
    layers: int
    ranks: dict[int, int]
    missed: dict[str, dict[str, list[float]]]
    seconds: float
    peak_gib: float
    error: float | None = None
    exact: Path | None = None
    embeddings: list[Path] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        found = {key: value for key, value in vars(self).items() if not isinstance(value, Path)}
        found |= {"file": str(self.file), "exact": None if self.exact is None else str(self.exact)}
        return found | {"embeddings": [str(path) for path in self.embeddings]}


def fuse_files(
    base: str | Path,
    uses: Sequence[ConceptUse],
    output: OutputFile,
    settings: FuseSettings | None = None,
    *,
    progress: Progress | None = None,
) -> FuseReport:
    """Fuse LoRAs on `base` and write one LoRA; new words go into files beside it, as training writes them.

    Raises LorasmithError for what the user can repair, before anything is computed.
    """
    settings = settings or FuseSettings()
    if settings.method not in METHODS:
        raise LorasmithError(f'method "{settings.method}": there are {", ".join(METHODS)}')
    output.check()
    missing = [str(use.path) for use in uses if not use.path.is_file()]
    if missing:
        raise LorasmithError(f"{missing[0]}: no such file")
    cut = None if settings.rank is None else Truncation(rank=settings.rank)
    dtype = dtype_of(settings.precision)
    family = load(base, dtype=dtype, device=pick_device(settings.device))
    model = ModelLayers.from_base(base)
    concepts = read_concepts(family, model, uses)
    result = fuse(family, concepts, settings, progress)
    layers, error = layers_of(model, result, cut)
    note = f"fused ({settings.method}) from " + ", ".join(f"{c.lora.path.name} as {c.name}" for c in concepts)
    report = FuseReport(
        output.path,
        [concept.name for concept in concepts],
        len(layers),
        rank_counts(layers),
        result.missed,
        round(result.seconds, 1),
        round(result.peak_gib, 2),
        error,
    )
    save(family, concepts, layers, output, note, report)
    return report


def layers_of(
    model: ModelLayers, result: Fused, cut: Truncation | None
) -> tuple[dict[str, LayerTensors], float | None]:
    """LoRA tensors of each layer, and what cutting them left out."""
    layers, loss = {}, TruncationErrors()
    for name, (up, down) in result.layers.items():
        if cut is not None:
            small = up.shape[1] < min(up.shape[0], down.shape[1])
            spectrum = ProductSvd(up, down) if small else MatrixSvd(up @ down)
            up, down = spectrum.truncate(cut.rank_for(spectrum))
            loss.add(name, spectrum.squared_norm, spectrum.squared_error(down.shape[0]))
        layers[name] = lora_tensors(up, down, model.layers[name].shape)
    return layers, None if cut is None else loss.relative_error


def save(
    family: Family,
    concepts: Sequence[Concept],
    layers: dict[str, LayerTensors],
    output: OutputFile,
    note: str,
    report: FuseReport,
) -> None:
    """Write the LoRA; where there are new words, the exact file of both and an embedding for each word."""
    lora: DecodedLora = replace(concepts[0].lora, layers=layers)
    words = {word: vectors for concept in concepts for word, vectors in concept.words.items()}
    lora.metadata.pop("lorasmith.config", None)
    trigger = {"modelspec.trigger_phrase": ", ".join(c.name for c in concepts)}
    vocabulary = vocabulary_of(family, words) if words else None
    report.exact, report.embeddings = write_all(lora, output, note, vocabulary, trigger)


def write_all(
    lora: DecodedLora, output: OutputFile, note: str, vocabulary: Vocabulary | None, more: Mapping[str, str]
) -> tuple[Path | None, list[Path]]:
    """Write a LoRA as training does: the LoRA alone, and with new words the exact file of both and an embedding for
    each word; the paths of these. `more`: metadata."""
    encoded = encode_as(lora, lora.layers, "kohya")
    metadata = (
        updated_metadata(lora.metadata, note)
        | network_metadata(encoded.tensors, lora.metadata)
        | encoded.metadata
        | dict(more)
    )
    named = {} if vocabulary is None else token_embeddings.token_metadata(vocabulary)
    write(output.path, encoded.tensors, metadata | named, output.dtype or torch.float32)
    if vocabulary is None:
        return None, []
    tensors, said = token_embeddings.encode(vocabulary)
    exact = output.path.with_name(f"{output.path.stem}.exact.safetensors")
    write(exact, {**encoded.tensors, **tensors}, metadata | said, torch.float32)
    folder = output.path.parent / "embeddings"
    folder.mkdir(exist_ok=True)
    found = []
    for word, vectors in token_embeddings.mean_over_layers(token_embeddings.vocabulary_embeddings(vocabulary)).items():
        path = folder / f"{token_embeddings.file_name(word)}.safetensors"
        found.append(write(path, embeddings.encode(vectors), {}, torch.float32))
    return exact, found
