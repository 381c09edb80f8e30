"""What is in a LoRA file and which programs can use it, as plain data. Needs no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.file_contents import SUPPORTED
from lorasmith.formats.consumers import reader_support
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.metadata_json import json_table
from lorasmith.formats.other_files import contents_advice
from lorasmith.formats.plugins import plugins_of
from lorasmith.formats.read import load
from lorasmith.formats.survey import Survey, block_of, change_norm, rank_of
from lorasmith.formats.t5_layers import t5_note

MAX_TAGS = 20
MAX_COUNT = 1e15
"""A tag that occurs more often, or NaN times, is not counted."""
LONG_KEYS = ("ss_tag_frequency", "ss_bucket_info", "ss_datasets", "ss_dataset_dirs", "ss_reg_dataset_dirs")
"""Metadata that `training_settings` leaves out, since they list the data."""


def inspect(path: Path) -> dict[str, Any]:
    """Kind, family, ranks, alphas, norm of the change per block, trigger words, settings, and the programs' support.

    Raises LorasmithError for a file that cannot be read or holds no LoRA.
    """
    file = load(path)
    survey = Survey(file)
    if not survey.layers and not file.token_embeddings:
        first_keys = ", ".join(file.original_keys[:3])
        raise LorasmithError(
            f"{path}: not a LoRA for {SUPPORTED}; none of its {len(file.original_keys)} keys is that of a layer: "
            f"{first_keys} ...{contents_advice(file.original_keys)}"
        )

    # one value for each layer or tensor, which are summarized below
    ranks: list[int] = []
    alphas: list[float] = []
    dtypes: list[str] = []
    parameters = 0
    for tensors in survey.layers.values():
        rank = rank_of(tensors)
        if rank is not None:
            ranks.append(rank)
        if "alpha" in tensors:
            alphas.append(float(tensors["alpha"]))
        for tensor in tensors.values():
            if tensor.dim():
                parameters += tensor.numel()
                dtypes.append(str(tensor.dtype).removeprefix("torch."))

    kinds = dict(survey.kinds.most_common())
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "kind": next(iter(kinds)) if len(kinds) == 1 else kinds or "words",
        "family": survey.family,
        "base": file.metadata.get("ss_sd_model_name") or None,
        "rank": _value_or_counts(ranks),
        "alpha": _value_or_counts(alphas),
        "layers": len(survey.layers),
        "components": dict(survey.components),
        "parameters": parameters,
        "dtype": _value_or_counts(dtypes),
        "spelling": file.spelling,
        "trigger": trigger_words(file.metadata),
        "tags": common_tags(file.metadata),
        "words": sorted({*file.bundled_embeddings, *file.token_embeddings}),
        "strangers": survey.unknown_keys,
        "plugins": plugins_of(file.metadata),
        "notes": list(filter(None, (*file.notes, t5_note(file)))),
        "readers": reader_support(survey),
        "norms": block_norms(survey),
        "training": training_settings(file),
        "hash": file.metadata.get("sshs_model_hash"),
        "config": file.metadata.get("lorasmith.config"),
    }


def block_norms(survey: Survey) -> dict[str, float]:
    """Frobenius norm of the change per block, over the layers whose change does not depend on the base weights.
    Raises LorasmithError for factors that cannot be multiplied."""
    squared_norms: dict[str, float] = {}
    for flat_name, tensors in survey.layers.items():
        try:
            norm = change_norm(tensors)
        except (RuntimeError, KeyError, IndexError):
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
            raise LorasmithError(f"{survey.file.path}: {flat_name} is damaged; it has {shapes}") from None
        if norm is not None:
            block = block_of(flat_name)
            squared_norms[block] = squared_norms.get(block, 0.0) + norm**2
    return {block: squared_norm**0.5 for block, squared_norm in squared_norms.items()}


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """The trigger words that the file names."""
    phrase = metadata.get("modelspec.trigger_phrase", "")
    return [part.strip() for part in phrase.split(",") if part.strip()]


def common_tags(metadata: Mapping[str, str]) -> dict[str, int]:
    """The commonest tags of the captions, with how often each occurs."""
    # other trainers' metadata are not to be trusted: what is not a table of counts by folder does not count
    counts: Counter[str] = Counter()
    for tags in json_table(metadata, "ss_tag_frequency").values():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int | float) and abs(count) < MAX_COUNT:
                counts[tag.strip()] += int(count)
    return dict(counts.most_common(MAX_TAGS))


def training_settings(file: LoraFile) -> dict[str, Any]:
    """How the file was made: kohya's settings by name, and the model metadata."""
    settings: dict[str, Any] = {}
    for key, value in file.metadata.items():
        if key.startswith(("ss_", "modelspec.")) and key not in LONG_KEYS and value not in ("None", "", "{}"):
            settings[key.removeprefix("ss_").removeprefix("modelspec.")] = value
    return settings


def _value_or_counts(values: Iterable[Hashable]) -> Any:
    """None if there are no values, the value if all are equal, or else how often each occurs, as text."""
    counts = Counter(values)
    if len(counts) <= 1:
        return next(iter(counts), None)
    return {str(value): count for value, count in counts.most_common()}
