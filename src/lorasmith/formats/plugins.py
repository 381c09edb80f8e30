"""The plug-ins that a LoRA file names: modules that add the adapter kinds of its layers.

They are never imported because a file names them; the user asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from lorasmith.formats.metadata_json import json_list

METADATA_KEY = "lorasmith.plugins"


def encode(modules: Sequence[str]) -> dict[str, str]:
    """The metadata for a run with these plug-ins; empty if there are none."""
    return {METADATA_KEY: json.dumps(list(modules))} if modules else {}


def plugins_of(metadata: Mapping[str, str]) -> list[str]:
    """The modules that a file names; what is not a list of texts counts as none."""
    return [str(module) for module in json_list(metadata, METADATA_KEY)]


def advice(metadata: Mapping[str, str]) -> str:
    """What to do about tensors of an unknown kind, as the end of an error message; empty if the file names nothing."""
    modules = plugins_of(metadata)
    if not modules:
        return ""
    options = " ".join(f"--plugin {module}" for module in modules)
    return (
        f"\n    to do: the file was made with the plug-in {', '.join(modules)}. It is code, so it is not imported by "
        f"itself; if you have it and trust it, add: {options}"
    )
