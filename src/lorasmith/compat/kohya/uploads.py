"""From the options of the Hugging Face hub and of Weights & Biases to our hooks `upload` and `wandb`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.compat.kohya.outputs import without_none
from lorasmith.compat.kohya.reading import read_file
from lorasmith.core.errors import LorasmithError, Problem

SECRETS = {"huggingface_token": "HF_TOKEN", "wandb_api_key": "WANDB_API_KEY"}
"""Options that are never written to a file, and the environment variables that hold their values instead."""
WANDB_OPTIONS = ("log_tracker_name", "log_tracker_config", "wandb_run_name", "wandb_api_key")


def convert_uploads(values: Mapping[str, Any], problems: list[Problem]) -> list[dict[str, Any]]:
    """The hook `upload`, if a repository is given."""
    repo = values["huggingface_repo_id"]
    if not repo:
        return []
    # Reported now, and not at the first upload.
    if repo.count("/") != 1:
        problems.append(Problem("huggingface_repo_id", f'found "{repo}"', "user/name"))
        return []
    table = {
        "kind": "upload",
        "repo": repo,
        "path": values["huggingface_path_in_repo"] or None,
        "repo_type": (values["huggingface_repo_type"] or "model").lower(),
        "public": True if values["huggingface_repo_visibility"] == "public" else None,
        "states": values["save_state_to_huggingface"] or None,
        "background": values["async_upload"] or None,
    }
    return [without_none(table)]


def convert_tracking(values: Mapping[str, Any], notes: list[str]) -> list[dict[str, Any]]:
    """The hook `wandb`, if log_with names it."""
    # TensorBoard's files are always written, so only wandb needs a hook.
    if str(values["log_with"] or "").lower() not in ("wandb", "all"):
        for name in WANDB_OPTIONS:
            if values[name]:
                notes.append(f"{name} is ignored: it is used with log_with = wandb only")
        return []
    table: dict[str, Any] = {
        "kind": "wandb",
        "project": values["log_tracker_name"] or "network_train",
        "run_name": values["wandb_run_name"] or None,
        "send_config": values["log_config"] or None,
    }
    if values["log_tracker_config"]:
        file = Path(values["log_tracker_config"]).expanduser()
        options = read_file(file).get("wandb", {})
        if not isinstance(options, dict):
            raise LorasmithError(f"log_tracker_config: [wandb] in {file} is not a table")
        table["options"] = options
    return [without_none(table)]


def secret_variables(values: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables that the options set."""
    return {variable: str(values[option]) for option, variable in SECRETS.items() if values[option]}
