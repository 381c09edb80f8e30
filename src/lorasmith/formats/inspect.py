"""What is in a LoRA file and who can use it, as plain data. Needs no model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.consumers import verdicts
from lorasmith.formats.read import LoraFile, load
from lorasmith.formats.survey import Survey, block, change_norm, rank

MOST_TAGS = 20
OWN = ("ss_tag_frequency", "ss_bucket_info", "ss_datasets", "ss_dataset_dirs", "ss_reg_dataset_dirs")


def inspect(path: Path) -> dict[str, Any]:
    """Kind, family, ranks, alphas, size of the change per block, trigger words, settings, and what each reader does.

    Raises LorasmithError for a file that cannot be read or holds no LoRA.
    """
    file = load(path)
    survey = Survey(file)
    if not survey.layers and not file.words:
        named = ", ".join(list(file.names)[:3])
        raise LorasmithError(f"{path}: no LoRA; none of its {len(file.names)} names is a layer's: {named} ...")
    kinds = dict(survey.kinds.most_common())
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "kind": next(iter(kinds)) if len(kinds) == 1 else kinds or "words",
        "family": survey.family,
        "base": file.metadata.get("ss_sd_model_name") or None,
        "rank": _spread(r for tensors in survey.layers.values() if (r := rank(tensors)) is not None),
        "alpha": _spread(float(tensors["alpha"]) for tensors in survey.layers.values() if "alpha" in tensors),
        "layers": len(survey.layers),
        "components": dict(survey.components),
        "parameters": sum(t.numel() for tensors in survey.layers.values() for t in tensors.values() if t.dim()),
        "dtype": _spread(str(t.dtype)[6:] for tensors in survey.layers.values() for t in tensors.values() if t.dim()),
        "spelling": file.spelling,
        "trigger": triggers(file.metadata),
        "tags": tags(file.metadata),
        "words": sorted({*file.embeddings, *file.words}),
        "strangers": survey.strangers,
        "readers": verdicts(survey),
        "norms": norms(survey),
        "training": training(file),
        "hash": file.metadata.get("sshs_model_hash"),
        "config": file.metadata.get("lorasmith.config"),
    }


def norms(survey: Survey) -> dict[str, float]:
    """Frobenius norm of the change per block, over the layers whose change does not depend on the weights."""
    squares: dict[str, float] = {}
    for flat, tensors in survey.layers.items():
        if (norm := change_norm(tensors)) is not None:
            where = block(flat)
            squares[where] = squares.get(where, 0.0) + norm**2
    return {where: square**0.5 for where, square in squares.items()}


def triggers(metadata: Mapping[str, str]) -> list[str]:
    """The trigger words that the file names."""
    said = metadata.get("modelspec.trigger_phrase", "")
    return [part.strip() for part in said.split(",") if part.strip()]


def tags(metadata: Mapping[str, str]) -> dict[str, int]:
    """The commonest tags of the captions, with how often each occurs."""
    found = _json(metadata.get("ss_tag_frequency"))
    counts: Counter[str] = Counter()
    for folder in found.values() if isinstance(found, dict) else ():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            counts[tag.strip()] += int(count)
    return dict(counts.most_common(MOST_TAGS))


def training(file: LoraFile) -> dict[str, Any]:
    """How the file was made: kohya's settings by name, and the model metadata."""
    found: dict[str, Any] = {}
    for key, value in file.metadata.items():
        name = key.removeprefix("ss_").removeprefix("modelspec.")
        if key.startswith(("ss_", "modelspec.")) and key not in OWN and value not in ("None", "", "{}"):
            found[name] = value
    return found


def _spread(values: Any) -> Any:
    """None, the one value, or how many layers have each."""
    counts = Counter(values)
    if len(counts) <= 1:
        return next(iter(counts), None)
    return {str(value): count for value, count in counts.most_common()}


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return None
