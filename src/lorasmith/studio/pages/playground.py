"""The playground: pictures from a prompt, LoRA files and regions, with a model that stays loaded.

The model is in a process of its own, which is started with the first picture. Pictures are written into the folder
`playground` of the first folder of the studio, with their settings inside.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.responses import Response

from lorasmith.core.errors import LorasmithError
from lorasmith.sampling.sampler_names import SAMPLERS
from lorasmith.studio.config_places import check_tags, checked_base
from lorasmith.studio.events import stream_state
from lorasmith.studio.memory import memory_of
from lorasmith.studio.page import Call, Page, get, post
from lorasmith.studio.pages import compare
from lorasmith.studio.worker_process import Worker

FOLDER = "playground"
SECONDS = 3600.0
INTERVAL = 0.4
"""Seconds between two reports of how far a picture has come."""
MOST_PICTURES = 64
"""Of one request."""
MOST_SHOWN = 120
SETTINGS = ("negative", "seed", "steps", "cfg", "sampler", "width", "height", "count", "regions", "apart", "clip_skip")
"""Settings of `lorasmith sample` that the page offers; others could name files outside of the folders."""
ARTIST = Worker()
"""Keeps a model loaded."""
MEMORY_UNIT = 16 << 20
"""Bytes to which memory is rounded, so that the page is not updated for each small change."""


def choices(call: Call) -> dict[str, Any]:
    """LoRA files, bases and samplers."""
    return {**compare.choices(call), "samplers": list(SAMPLERS)}


def draw(call: Call) -> dict[str, Any]:
    """Draw `prompt` with `base`, `loras` (each with `file` and `strength`) and the settings of the page."""
    settings = {key: call.body[key] for key in SETTINGS if call.body.get(key) not in (None, "")}
    count = settings.get("count", 1)
    if isinstance(count, int) and count > MOST_PICTURES:
        raise LorasmithError(f"count: {count} pictures; at most {MOST_PICTURES} are drawn at a time")
    prompt = call.text("prompt", "")
    loras = [chosen_lora(call, each) for each in call.body.get("loras") or []]
    check_tags([prompt, *prompts_of(settings.get("regions") or [])], [Path(file) for file, _ in loras])
    folder = picture_folder(call)
    base = checked_base(call.roots, call.text("base"))
    result = ARTIST.ask("draw", SECONDS, base=base, prompt=prompt, folder=str(folder), loras=loras, settings=settings)
    return {**result, "files": names_of(call, result["files"])}


def prompts_of(regions: Any) -> list[str]:
    """The prompts of regions. Raises LorasmithError if they are no tables; their values are checked later."""
    if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
        raise LorasmithError("`regions` of the request is not a list of tables")
    return [str(region.get("prompt") or "") for region in regions]


def chosen_lora(call: Call, each: Any) -> tuple[str, float]:
    """A file and its strength. Raises LorasmithError if it is not below the folders or the strength is no number."""
    if not isinstance(each, dict) or not isinstance(each.get("file"), str):
        raise LorasmithError("`loras` of the request is not a list of tables with `file` and `strength`")
    strength = each.get("strength", 1)
    if not isinstance(strength, int | float) or not math.isfinite(strength):
        raise LorasmithError(f"{each['file']}: the strength {strength} is not a number")
    return str(call.roots.resolve(each["file"])), float(strength)


def picture_folder(call: Call) -> Path:
    """The folder of the pictures; it need not exist."""
    return call.roots.check(next(iter(call.roots.folders.values())) / FOLDER)


def state(call: Call) -> dict[str, Any]:
    """The process with the model: whether there is one, its memory, and how far it has come."""
    number = ARTIST.number
    progress = dict(ARTIST.progress)
    if progress:
        progress["files"] = names_of(call, progress.get("files") or [])
    memory = None if number is None else memory_of(number)
    rounded = memory and {key: value and value // MEMORY_UNIT * MEMORY_UNIT for key, value in memory.items()}
    return {"loaded": number is not None, "memory": rounded, "progress": progress or None}


def names_of(call: Call, files: list[str]) -> list[str | None]:
    """Files as the browser names them."""
    return [call.roots.name_of(Path(file)) for file in files]


def watch(call: Call) -> Response:
    """Sends `state` when it has changed."""
    return stream_state(call.request, "state", lambda: state(call), INTERVAL)


def history(call: Call) -> dict[str, Any]:
    """The pictures that were drawn last, newest first, with the settings that are written in them."""
    folder = picture_folder(call)
    files = sorted(folder.glob("[0-9]*.png"), key=compare.changed, reverse=True) if folder.is_dir() else []
    return {
        "folder": str(folder),
        "pictures": [{"file": call.roots.name_of(file), "text": text_of(file)} for file in files[:MOST_SHOWN]],
    }


def text_of(file: Path) -> str:
    """What a picture says of how it was made; empty if it says nothing."""
    try:
        with Image.open(file) as picture:
            return str(picture.info.get("parameters") or "")
    except (OSError, ValueError, SyntaxError):
        return ""


def stop(call: Call) -> dict[str, Any]:
    """Stop drawing; with `unload`, end the process, which frees its memory."""
    if call.body.get("unload") is True:
        ARTIST.end()
    else:
        ARTIST.cancel()
    return state(call)


PAGE = Page(
    "playground",
    "Playground",
    45,
    [
        get("/choices", choices),
        get("/state", state),
        get("/watch", watch),
        get("/history", history),
        post("/draw", draw),
        post("/stop", stop),
    ],
)
