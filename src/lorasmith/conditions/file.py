"""The file of a run's conditions, beside its LoRA file: `name.conditions.safetensors` beside `name.safetensors`.

Tensors are called `NAME.PARAMETER`, float32. The metadata key `lorasmith.conditions` has the settings of each condition
as JSON, and `lorasmith.plugins` the modules of the kinds. Readers of LoRA files do not meet it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lorasmith.conditions.attach import ConditionSet
from lorasmith.conditions.base import Condition
from lorasmith.core.config import validate
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import Config
from lorasmith.families.base import Family
from lorasmith.formats import plugins
from lorasmith.formats.metadata_json import json_list

METADATA_KEY = "lorasmith.conditions"
SUFFIX = ".conditions.safetensors"


class _Conditions(Config):
    conditions: tuple[Condition, ...]


def conditions_file(lora: Path) -> Path:
    """Where the conditions of a LoRA file are."""
    return lora.with_name(f"{lora.stem}{SUFFIX}")


def metadata_of(conditions: ConditionSet, modules: Sequence[str]) -> dict[str, str]:
    """The metadata of the file of conditions. `modules`: the plug-ins of the run."""
    settings = [attached.condition.model_dump(mode="json") for attached in conditions.conditions]
    family = {"modelspec.architecture": conditions.family.kind}
    return {METADATA_KEY: json.dumps(settings), **family, **plugins.encode(modules)}


def load_conditions(family: Family, path: Path) -> ConditionSet:
    """The conditions of a file, on the family's device, not attached.

    Raises LorasmithError if the file cannot be read, if a kind is not known, or if the tensors do not fit this base.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise LorasmithError(f"{path}: cannot be read ({error})") from None

    settings: dict[str, Any] = {"conditions": json_list(metadata, METADATA_KEY)}
    try:
        conditions = validate(_Conditions, settings, str(path)).conditions
    except LorasmithError as error:
        raise LorasmithError(f"{error}{plugins.advice(metadata)}") from None
    attached = ConditionSet.create(family, conditions, seed=0)
    try:
        attached.load_state_dict(tensors)
    except (KeyError, RuntimeError) as error:
        raise LorasmithError(f"{path}: does not fit this {family.kind} base: {str(error).splitlines()[-1]}") from None
    attached.train(False)
    for one in attached.conditions:
        one.encoder.requires_grad_(False)
    return attached
