"""From the options of the Hugging Face hub and of Weights & Biases to our hooks `upload` and `wandb`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.compat.kohya.outputs import without_none
from lorasmith.compat.kohya.reading import read_file
from lorasmith.core.errors import LorasmithError, Problem

SECRETS = {"huggingface_token": "HF_TOKEN", "wandb_api_key": "WANDB_API_KEY"}
"""Options that are written nowhere, and the environment variables that take their place."""
TYPES = ("model", "dataset", "space")


def uploads(values: Mapping[str, Any], problems: list[Problem]) -> list[dict[str, Any]]:
    """The hook `upload`, if there is a repository."""
    repo = values["huggingface_repo_id"]
    if not repo:
        return []
    if repo.count("/") != 1:
        problems.append(Problem("huggingface_repo_id", f'found "{repo}"', "user/name"))
        return []
    table = {"kind": "upload", "repo": repo, "path": values["huggingface_path_in_repo"] or None}
    table |= {"repo_type": (values["huggingface_repo_type"] or "model").lower()}
    table |= {"public": True if values["huggingface_repo_visibility"] == "public" else None}
    table |= {"states": values["save_state_to_huggingface"] or None, "background": values["async_upload"] or None}
    return [without_none(table)]


def tracking(values: Mapping[str, Any], notes: list[str]) -> list[dict[str, Any]]:
    """The hook `wandb`, if it is asked for."""
    asked = str(values["log_with"] or "").lower() in ("wandb", "all")
    own = [n for n in ("log_tracker_name", "log_tracker_config", "wandb_run_name", "wandb_api_key") if values[n]]
    if not asked:
        notes += [f"{name} is left out: it counts with log_with = wandb only" for name in own]
        return []
    table: dict[str, Any] = {"kind": "wandb", "project": values["log_tracker_name"] or "network_train"}
    table |= {"run_name": values["wandb_run_name"] or None, "send_config": values["log_config"] or None}
    if values["log_tracker_config"]:
        file = Path(values["log_tracker_config"]).expanduser()
        options = read_file(file).get("wandb", {})
        if not isinstance(options, dict):
            raise LorasmithError(f"log_tracker_config: [wandb] of {file} is no table")
        table["options"] = options
    return [without_none(table)]


def secrets_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables that the options set."""
    return {variable: str(values[option]) for option, variable in SECRETS.items() if values[option]}


def downloaded(values: Mapping[str, Any]) -> Path:
    """The state that `resume` = `user/repo/path:revision:type` names, fetched from the hub.

    Raises LorasmithError if the name has another form, or nothing can be fetched.
    """
    from huggingface_hub import snapshot_download

    place, *rest = str(values["resume"]).split(":")
    user, _, inner = place.partition("/")
    repo, _, path = inner.partition("/")
    revision, kind = (*rest, None, None)[:2]
    if not (user and repo and path) or len(rest) > 2 or (kind or "model") not in TYPES:
        raise LorasmithError(
            f'resume: found "{values["resume"]}"; with resume_from_huggingface it is user/repo/path, '
            "user/repo/path:revision or user/repo/path:revision:type (model, dataset, space)"
        )
    token = str(values["huggingface_token"] or "") or os.environ.get("HF_TOKEN")
    try:
        folder = snapshot_download(
            f"{user}/{repo}",
            repo_type=kind or "model",
            revision=revision or None,
            allow_patterns=[f"{path.rstrip('/')}/*"],
            token=token,
        )
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        said = said.replace(token, "***") if token else said
        raise LorasmithError(f"resume: {place} cannot be fetched from the hub: {said}") from None
    if not (Path(folder) / path).is_dir():
        raise LorasmithError(f"resume: {user}/{repo} has no folder {path}")
    return Path(folder) / path
