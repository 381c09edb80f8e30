"""The run or state that the option `resume` names, on this machine or on the Hugging Face hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError

ORIGINAL_STATE_FILES = ("optimizer.bin", "scheduler.bin", "random_states_0.pkl")
"""Files that tell a state of sd-scripts."""
HUB_NAME = re.compile(
    r"(?P<repo>[^/:]+/[^/:]+)/(?P<path>[^:]+)(:(?P<revision>[^:]*))?(:(?P<type>model|dataset|space)?)?", re.DOTALL
)
"""`user/repo/path:revision:type`; revision and type may be absent or empty."""


def find_resume_path(values: Mapping[str, Any]) -> Path | None:
    """The state or run that `resume` names, downloaded if it is on the hub; None if it is unset.

    Raises LorasmithError if it is neither a state nor a run of lorasmith.
    """
    if not values["resume"]:
        return None
    named = download_state(values) if values["resume_from_huggingface"] else values["resume"]
    path = Path(named).expanduser()

    # A state is a checkpoint under its own name; a run, or any folder in it, means its latest checkpoint.
    if (path / "state.json").is_file():
        return path
    if any((path / name).is_file() for name in ORIGINAL_STATE_FILES):
        raise LorasmithError(original_state_message(path))
    for folder in (path, *path.parents):
        if (folder / "config.toml").is_file() and (folder / "events.jsonl").is_file():
            return folder
    raise LorasmithError(
        f'resume: "{path}" is not a run of lorasmith. Name a state (output_dir/output_name-state) or a run '
        "(output_dir/output_name)"
    )


def original_state_message(path: Path) -> str:
    """What to do with a state that sd-scripts has written."""
    try:
        step = json.loads((path / "train_state.json").read_text(encoding="utf-8"))["current_step"]
    except (OSError, ValueError, KeyError, TypeError):
        step = "N"
    return (
        f'resume: "{path}" is a state that sd-scripts wrote. Its random state and optimizer cannot be used here, so '
        "the run cannot be continued exactly. To continue from its weights with a new optimizer, remove resume and set "
        f'network_weights = "{path / "model.safetensors"}", initial_step = {step}'
    )


def download_state(values: Mapping[str, Any]) -> Path:
    """The state that `resume` = `user/repo/path:revision:type` names, downloaded from the hub.

    Raises LorasmithError if the name has another form, or if the download fails.
    """
    from huggingface_hub import snapshot_download

    match = HUB_NAME.fullmatch(str(values["resume"]))
    if match is None:
        raise LorasmithError(
            f'resume: found "{values["resume"]}"; with resume_from_huggingface it must be user/repo/path, '
            "user/repo/path:revision or user/repo/path:revision:type (model, dataset, space)"
        )
    repo, path = match["repo"], match["path"]
    token = str(values["huggingface_token"] or "") or os.environ.get("HF_TOKEN")
    try:
        folder = snapshot_download(
            repo,
            repo_type=match["type"] or "model",
            revision=match["revision"] or None,
            allow_patterns=[f"{path.rstrip('/')}/*"],
            token=token,
        )
    except Exception as error:
        # The hub's messages can be very long, and can contain the token.
        message = " ".join(str(error).split())[:300]
        if token:
            message = message.replace(token, "***")
        raise LorasmithError(f"resume: {repo}/{path} cannot be downloaded from the hub: {message}") from None
    state = Path(folder) / path
    if not state.is_dir():
        raise LorasmithError(f"resume: {repo} has no folder {path}")
    return state
