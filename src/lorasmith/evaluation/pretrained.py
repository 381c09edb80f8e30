"""Models of scorers: from a folder, from the cache of the hub's client, or from the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lorasmith.core.errors import LorasmithError
from lorasmith.core.hub import hub_is_reachable

T = TypeVar("T")


def load_pretrained(what: str, name: str, load: Callable[[bool], T]) -> T:
    """What `load` gives for a folder or a hub id. Its argument says that only local files may be used.

    `what`: the kind of model, for the error. Raises LorasmithError if the model is not there.
    """
    # a folder, or what is in the cache, needs no hub; without a connection its client would try for a minute
    try:
        return load(True)
    except (OSError, ValueError) as error:
        is_folder = Path(name).is_dir()
        if is_folder or not hub_is_reachable():
            raise not_loaded(what, name, "" if is_folder else "the hub cannot be reached", error) from error
        try:
            return load(False)
        except (OSError, ValueError) as hub_error:
            raise not_loaded(what, name, "", hub_error) from hub_error


def require_model(what: str, name: str) -> None:
    """Raises LorasmithError if a model is neither a folder nor in the cache of the hub's client, and the hub cannot be
    reached. Loads and fetches nothing."""
    from huggingface_hub import try_to_load_from_cache

    try:
        is_cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:
        # no hub id
        is_cached = False
    if not (Path(name).is_dir() or is_cached or hub_is_reachable()):
        raise not_loaded(what, name, "the hub cannot be reached")


def not_loaded(what: str, name: str, reason: str, error: Exception | None = None) -> LorasmithError:
    """The error for a model that is not there. `reason`: if empty, the first line of the library's."""
    reason = reason or str(error).strip().splitlines()[0]
    return LorasmithError(
        f"scorer.model: no {what} model can be loaded from {name}: it is not in a folder of this name or in the cache, "
        f"and {reason}.\n    to do: run once with a connection, or give --model (in a config: scorer.model) a folder "
        "with config.json, model.safetensors and what else the model needs (CLIP: the tokenizer's files); for tiny-sd, "
        "--scorer judge needs no model"
    )
