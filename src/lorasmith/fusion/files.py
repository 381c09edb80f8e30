"""Fusing files into a file: what the command line and the Python API call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lorasmith.concepts import Vocabulary
from lorasmith.core.devices import pick_device
from lorasmith.core.dtypes import dtype_of
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.load import load, open_base
from lorasmith.families.source import Source
from lorasmith.files.lora import (
    DecodedLora,
    OutputFile,
    encode_as,
    lora_tensors,
    network_metadata,
    rank_counts,
    updated_metadata,
)
from lorasmith.files.lowrank import Truncation, TruncationErrors, svd_of_product
from lorasmith.files.model import ModelLayers
from lorasmith.formats import embeddings, token_embeddings
from lorasmith.formats.rewrite import LayerTensors
from lorasmith.formats.write import write
from lorasmith.fusion.concepts import ConceptFile, ConceptUse, concepts_of
from lorasmith.fusion.fuse import METHODS, FuseSettings, FusionResult, fuse
from lorasmith.fusion.memory_plan import FusionPlan, make_plan
from lorasmith.sampling.loras import vocabulary_of


@dataclass
class FuseReport:
    """What was written, and how much of each concept is missed, on the inputs of the fit and on others
    (`FusionResult`). `error`: the relative error of the truncation to a rank, if there was one."""

    file: Path
    concepts: list[str]
    layers: int
    ranks: dict[int, int]
    missed: dict[str, dict[str, list[float]]]
    held_out: dict[str, dict[str, list[float]]]
    ridge: dict[str, float]
    seconds: float
    peak_gib: float
    error: float | None = None
    exact: Path | None = None
    embeddings: list[Path] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The report as JSON data."""
        data = dict(vars(self))
        data["file"] = str(self.file)
        data["exact"] = None if self.exact is None else str(self.exact)
        data["embeddings"] = [str(path) for path in self.embeddings]
        return data


def fuse_files(
    base: str | Path,
    uses: Sequence[ConceptUse],
    output: OutputFile,
    settings: FuseSettings | None = None,
    *,
    progress: Progress | None = None,
) -> FuseReport:
    """Fuse LoRAs on `base` and write one LoRA; new tokens go into files beside it, as training writes them.

    Raises LorasmithError for mistakes of the user, before anything is computed.
    """
    settings = settings or FuseSettings()
    # Everything that the user can get wrong is checked before the model is loaded.
    output.check()
    truncation = None if settings.rank is None else Truncation(rank=settings.rank)
    source, files = read_files(base, uses, settings)
    plan = make_plan_for(source, files, settings)
    for line in plan.lines() if plan.passes > 1 else []:
        (progress or Progress()).say(line)

    dtype, device = dtype_of(settings.precision), pick_device(settings.device)
    family = load(base, dtype=dtype, device=device, parts=settings.base_parts)
    concepts = concepts_of(family, files)
    result = fuse(family, concepts, settings, progress)
    layers, error = lora_layers(concepts[0].lora.model, result, truncation)

    # The first file's metadata stay, except for what holds for that file alone.
    lora: DecodedLora = replace(concepts[0].lora, layers=layers)
    lora.metadata.pop("lorasmith.config", None)
    sources = ", ".join(f"{concept.lora.path.name} as {concept.name}" for concept in concepts)
    note = f"fused ({settings.method}) from {sources}"
    names = [concept.name for concept in concepts]
    trigger = {"modelspec.trigger_phrase": ", ".join(names)}
    tokens = {token: vectors for concept in concepts for token, vectors in concept.tokens.items()}
    vocabulary = vocabulary_of(family, tokens) if tokens else None
    exact_file, embedding_files = write_all(lora, output, note, vocabulary, trigger)

    return FuseReport(
        file=output.path,
        concepts=names,
        layers=len(layers),
        ranks=rank_counts(layers),
        missed=result.missed,
        held_out=result.held_out,
        ridge=result.ridge,
        seconds=round(result.seconds, 1),
        peak_gib=round(result.peak_gib, 2),
        error=error,
        exact=exact_file,
        embeddings=embedding_files,
    )


def plan_files(base: str | Path, uses: Sequence[ConceptUse], settings: FuseSettings) -> FusionPlan:
    """The memory that fusing these files will take, from the headers of the base.

    Raises LorasmithError for a wrong method, a missing file, a base without all parts, and sums that cannot fit.
    """
    return make_plan_for(*read_files(base, uses, settings), settings)


def read_files(
    base: str | Path, uses: Sequence[ConceptUse], settings: FuseSettings
) -> tuple[Source, list[ConceptFile]]:
    """The opened base, and the LoRA files. Raises LorasmithError for a wrong method, a missing file, and a base without
    all parts."""
    if settings.method not in METHODS:
        raise LorasmithError(f'method "{settings.method}" does not exist; choose one of {", ".join(METHODS)}')
    for use in uses:
        if not use.path.is_file():
            raise LorasmithError(f"{use.path}: no such file")
    source = open_base(base, parts=settings.base_parts)
    check_base(source)
    model = ModelLayers.from_source(source)
    return source, [ConceptFile.read(use, model) for use in uses]


def make_plan_for(source: Source, files: Sequence[ConceptFile], settings: FuseSettings) -> FusionPlan:
    """The memory that fusing takes, by the layers of the files. Raises LorasmithError for sums that cannot fit."""
    widths = {name: math.prod(file.lora.model.layers[name].shape[1:]) for file in files for name in file.lora.layers}
    dtype = dtype_of(settings.precision) or source.default_dtype
    return make_plan(widths, source.count_weights() * dtype.itemsize, pick_device(settings.device))


def check_base(source: Source) -> None:
    """Raise LorasmithError, before any weights are loaded, unless pictures can be drawn with a base."""
    try:
        source.check_parts(every_name=False)
    except LorasmithError as error:
        raise LorasmithError(
            f"fusing draws pictures with the base, which needs all of its parts: {error}\n"
            "  Put files with the other parts beside the base, name them with --base-part, or name a diffusers folder "
            "with --base"
        ) from None


def lora_layers(
    model: ModelLayers, result: FusionResult, truncation: Truncation | None
) -> tuple[dict[str, LayerTensors], float | None]:
    """The LoRA tensors of each layer, and the relative error of the truncation, if there is one."""
    layers: dict[str, LayerTensors] = {}
    errors = TruncationErrors()
    for name, (up, down) in result.layers.items():
        if truncation is not None:
            svd = svd_of_product(up, down)
            up, down = errors.truncate(name, svd, truncation.rank_for(svd))
        layers[name] = lora_tensors(up, down, model.layers[name].shape)
    return layers, None if truncation is None else errors.relative_error


def write_all(
    lora: DecodedLora,
    output: OutputFile,
    note: str,
    vocabulary: Vocabulary | None,
    extra_metadata: Mapping[str, str],
) -> tuple[Path | None, list[Path]]:
    """Write a LoRA as training does. With new tokens, also write an exact file of LoRA and tokens, and an embedding
    file for each token; returns the paths of these."""
    encoded = encode_as(lora, lora.layers, "kohya")
    # Later entries win: what this file is, over what its sources were.
    metadata = updated_metadata(lora.metadata, note)
    metadata |= network_metadata(encoded.tensors, lora.metadata, lora.model.kind)
    metadata |= encoded.metadata
    metadata |= extra_metadata
    if vocabulary is None:
        write(output.path, encoded.tensors, metadata, output.dtype or torch.float32)
        return None, []

    token_metadata = token_embeddings.token_metadata(vocabulary)
    write(output.path, encoded.tensors, metadata | token_metadata, output.dtype or torch.float32)

    token_tensors, exact_metadata = token_embeddings.encode(vocabulary)
    exact_file = output.path.with_name(f"{output.path.stem}.exact.safetensors")
    write(exact_file, {**encoded.tensors, **token_tensors}, metadata | exact_metadata, torch.float32)

    # Most programs read one vector for all layers: embedding files hold the mean.
    folder = output.path.parent / "embeddings"
    folder.mkdir(exist_ok=True)
    by_token = token_embeddings.mean_over_layers(token_embeddings.vocabulary_embeddings(vocabulary))
    embedding_files: list[Path] = []
    for token, vectors in by_token.items():
        path = folder / f"{token_embeddings.file_name(token)}.safetensors"
        embedding_files.append(write(path, embeddings.encode(vectors), {}, torch.float32))
    return exact_file, embedding_files
