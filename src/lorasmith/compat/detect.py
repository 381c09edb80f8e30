"""Which script a config file of another trainer belongs to, by its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.ai_toolkit.reading import looks_like_ai_toolkit
from lorasmith.compat.kohya.reading import flatten_sections, read_file
from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import parse_json, read_text
from lorasmith.core.yaml_files import parse_yaml

YAML = (".yaml", ".yml")
SUFFIXES = (".toml", ".json", *YAML)
FLUX_KEYS = ("ae", "guidance_scale", "timestep_sampling", "model_prediction_type", "discrete_flow_shift")
SD3_KEYS = ("clip_g", "training_shift", "apply_lg_attn_mask", "pos_emb_random_crop_rate")
"""Options that only one script of sd-scripts has."""


def command_of(path: Path) -> list[str]:
    """The script and its arguments for a file, such as `["train_network", "--config_file", "my.toml"]`."""
    suffix = path.suffix.lower()
    if suffix in YAML:
        content = read_content(path)
        return ["ai-toolkit", str(path)] if looks_like_ai_toolkit(content) else ["train_edlora", "-opt", str(path)]
    if suffix == ".json" and looks_like_ai_toolkit(read_content(path)):
        return ["ai-toolkit", str(path)]
    return [kohya_script(path), "--config_file", str(path)]


def read_content(path: Path) -> Any:
    """The content of a YAML or JSON file; None if it cannot be read, which the script reports then."""
    try:
        text = read_text(path)
        return parse_yaml(text, path) if path.suffix.lower() in YAML else parse_json(text, path)
    except LorasmithError:
        return None


def kohya_script(path: Path) -> str:
    """The script of sd-scripts that trains the model which a TOML or JSON file is for, as its network module says."""
    try:
        values, _ = flatten_sections(read_file(path))
    except LorasmithError:
        return "train_network"
    return script_of_options(values)


def script_of_options(values: Mapping[str, Any]) -> str:
    """The script of options by name; values may be missing."""
    module = str(values.get("network_module") or "")
    if module.endswith("_flux") or any(key in values for key in FLUX_KEYS):
        return "flux_train_network"
    if module.endswith("_sd3") or any(key in values for key in SD3_KEYS):
        return "sd3_train_network"
    return "train_network"


def script_of_file(path: Path, keys: Sequence[str]) -> str:
    """The script of sd-scripts for a file, or for its keys if it cannot be read again."""
    return kohya_script(path) if path.is_file() else script_of_options(dict.fromkeys(keys))
