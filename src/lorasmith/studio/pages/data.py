"""The page of data: images with captions, masks and remarks. It writes the ordinary files, and nothing else."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from lorasmith.core.errors import LorasmithError
from lorasmith.studio.image_folder import (
    ImageFolder,
    check_config,
    check_folder,
    find_captioners,
    find_image_folders,
    repeats_of,
)
from lorasmith.studio.page import Call, Page, get, post, upload
from lorasmith.studio.process import run_json
from lorasmith.studio.tokens import LIMIT

MOST_DETAILS = 200
"""Images of which details are read at a time."""
AT_FIRST = 200
"""Images of which the captions are sent with the folder; the page shows these while it asks for the others."""
MOST_FOLDERS = 200
"""Folders that are sent at a time."""
LARGEST_RESOLUTION = 4096
CAPTION_SECONDS = 6 * 3600.0
"""How long a model may write captions."""
LARGEST_MASK = 32 << 20
"""Bytes of a mask."""


def folders(call: Call) -> dict[str, Any]:
    """The folders with images below the roots, `MOST_FOLDERS` from number `first` on, and how many there are."""
    named = [
        (name, folder, images)
        for root in call.roots.folders.values()
        for folder, images in find_image_folders(root)
        if (name := call.roots.name_of(folder)) is not None
    ]
    first = max(0, call.number("first", 0))
    rows = [
        {
            "name": name,
            "images": len(images),
            "examples": [f"{name}/{image}" for image in images[:4]],
            "repeats": repeats_of(folder),
        }
        for name, folder, images in named[first : first + MOST_FOLDERS]
    ]
    return {"folders": rows, "count": len(named)}


def open_folder(call: Call) -> dict[str, Any]:
    """The images of a folder with the captions of the first ones, and the names of the others as `later`."""
    images = image_folder(call)
    paths = images.images()
    table = images.table()
    return {
        "path": str(images.folder),
        "images": [images.describe(path) for path in paths[:AT_FIRST]],
        "later": [path.name for path in paths[AT_FIRST:]],
        "table": None if table is None else table.name,
        "can_write": images.can_write,
        "repeats": repeats_of(images.folder),
        "limit": LIMIT,
    }


def captions(call: Call) -> dict[str, Any]:
    """The captions of the images that `open` has only named."""
    return {"images": image_folder(call).list(AT_FIRST)}


def details(call: Call) -> dict[str, Any]:
    """Sizes, buckets and masks of `names`."""
    names = call.body.get("names") if isinstance(call.body, dict) else None
    if not isinstance(names, list):
        raise LorasmithError("the request has no list `names`")
    return {"details": image_folder(call).details([str(name) for name in names[:MOST_DETAILS]], resolution(call))}


def check(call: Call) -> dict[str, Any]:
    """The remarks of `lorasmith check`, with the settings of `config` or, without one, with default settings."""
    config = call.text("config", "")
    if config:
        return check_config(call.roots.resolve(config))
    return check_folder(call.folder("folder"), resolution(call), call.text("trigger", ""))


def write_captions(call: Call) -> dict[str, Any]:
    """Write `changes`."""
    changes = call.body.get("changes") if isinstance(call.body, dict) else None
    if not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
        raise LorasmithError("the request has no list `changes`")
    images = image_folder(call)
    images.write_captions(changes)
    images = image_folder(call)  # as it is now on the disk
    written = [images.image(str(change["name"])) for change in changes]
    return {"images": [images.describe(path) for path in written]}


def show_mask(call: Call) -> Response:
    """The mask of an image, as a picture of its size."""
    return Response(image_folder(call).mask_picture(call.text("name")), media_type="image/png")


def write_mask(call: Call) -> dict[str, Any]:
    """Write a painted mask: the body is a PNG."""
    path = image_folder(call).write_mask(call.text("name"), call.body)
    return {"file": path.name, "changed": path.stat().st_mtime_ns}


def remove_mask(call: Call) -> dict[str, Any]:
    """Delete the mask of an image."""
    image_folder(call).remove_mask(call.text("name"))
    return {}


def captioners(call: Call) -> dict[str, Any]:
    """Folders below the roots that hold a captioning or a tagging model."""
    models = [(path, kind) for root in call.roots.folders.values() for path, kind in find_captioners(root)]
    return {"models": [{"name": call.roots.name_of(path), "kind": kind} for path, kind in models]}


def caption_by_model(call: Call) -> dict[str, Any]:
    """Write captions by a model: `folder`, `model`, `prefix`, `overwrite`."""
    arguments = ["caption", str(call.folder("folder")), "--model", str(call.folder("model"))]
    arguments += [f"--prefix={call.text('prefix', '')}"]
    if call.body.get("overwrite") is True:
        arguments.append("--overwrite")
    result = run_json(arguments, CAPTION_SECONDS)
    return {"written": len(result.get("written") or {})}


def image_folder(call: Call) -> ImageFolder:
    """The folder that the request names; its masks must be below the roots too."""
    images = ImageFolder.of(call.folder("folder"))
    call.roots.check(images.masks)
    return images


def resolution(call: Call) -> int:
    """The resolution of the request."""
    number = call.number("resolution", 512)
    if not 16 <= number <= LARGEST_RESOLUTION:
        raise LorasmithError(f"resolution: {number} is not between 16 and {LARGEST_RESOLUTION}")
    return number


PAGE = Page(
    "data",
    "Data",
    20,
    [
        get("/folders", folders),
        get("/open", open_folder),
        get("/captions", captions),
        get("/check", check),
        get("/mask", show_mask),
        get("/captioners", captioners),
        post("/caption_by_model", caption_by_model),
        post("/details", details),
        post("/captions", write_captions),
        post("/remove_mask", remove_mask),
        upload("/mask", write_mask, LARGEST_MASK),
    ],
)
