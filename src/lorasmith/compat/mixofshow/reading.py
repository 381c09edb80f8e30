"""A YAML file of Mix-of-Show as flat keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError

WHOLE = (
    "finetune_cfg.text_embedding", "finetune_cfg.text_encoder", "finetune_cfg.unet", "optim_g", "sample",
    "replace_mapping", "instance_transform",
)  # fmt: skip
"""Tables that are one option."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys with dots, values as they are. `1e-3` is a number, as OmegaConf has it. Raises LorasmithError."""
    import yaml

    if not path.is_file():
        raise LorasmithError(f"-opt {path}: no such file")
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise LorasmithError(f"{path}: not YAML: {error}") from None
    if not isinstance(table, dict):
        raise LorasmithError(f"{path}: expected keys and values")
    return dict(_flat(_numbers(table)))


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and not name.endswith(WHOLE):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _numbers(value: Any) -> Any:
    """YAML 1.1 takes `1e-3` for text."""
    if isinstance(value, dict):
        return {str(key): _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def arguments(argv: Sequence[str]) -> list[str]:
    """`-opt F` as `--opt F`, `--lora-path F` as `--lora_path F`."""
    found = []
    for word in argv:
        name, sign, value = word.partition("=")
        if name.startswith("-") and not name.lstrip("-").replace(".", "").isdigit():
            name = "--" + name.lstrip("-").replace("-", "_")
        found.append(name + sign + value)
    return found


def pairs(mapping: Any) -> dict[str, str]:
    """A replace mapping; also as a list of tables."""
    if isinstance(mapping, list):
        return {k: v for table in mapping for k, v in pairs(table).items()}
    return {str(k): str(v) for k, v in (mapping or {}).items()}
