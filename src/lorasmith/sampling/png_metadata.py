"""Generated pictures as PNG files with their settings inside, in the format that A1111 writes and reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo

from lorasmith.imaging.png import save_image, to_image
from lorasmith.sampling import programs, samplers
from lorasmith.sampling.regions import format_regions
from lorasmith.sampling.request import DEFAULT_GUIDANCE, Request
from lorasmith.sampling.sample import Picture


def format_parameters(picture: Picture) -> str:
    """The `parameters` text: a line with the prompt, one with the negative prompt, one with the settings."""
    request = picture.request
    settings: dict[str, Any] = {
        "Steps": request.steps,
        **_sampler_entries(request),
        "CFG scale": f"{request.cfg:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
    }
    # As in A1111, entries are written only where they differ from the defaults.
    if request.clip_skip > 1:
        settings["Clip skip"] = request.clip_skip
    if request.guidance != DEFAULT_GUIDANCE:  # Forge's name
        settings["Distilled CFG Scale"] = f"{request.guidance:g}"
    if request.rescale:
        settings["CFG Rescale"] = f"{request.rescale:g}"
    if request.regions:
        settings["Regions"] = format_regions(request.regions, request.width, request.height)
    if request.controls:
        settings["Controls"] = " | ".join(str(control) for control in request.controls)
    if request.conditions:
        settings["Conditions"] = " | ".join(f"{name} {path.name}" for name, path in request.conditions.items())
    settings.update(picture.metadata)

    lines = [request.prompt]
    if request.negative:
        lines.append(f"Negative prompt: {request.negative}")
    lines.append(", ".join(f"{key}: {_quote(str(value))}" for key, value in settings.items()))
    return "\n".join(lines)


def _sampler_entries(request: Request) -> dict[str, str]:
    if not request.like:
        return {"Sampler": samplers.find(request.sampler).label}
    program = programs.find(request.like)
    return {"Sampler": program.sampler_label, "Schedule type": program.schedule_label, "Drawn like": program.label}


def _quote(value: str) -> str:
    """The value in quotes if it has a comma, colon or line break in it, as A1111 writes and reads it."""
    if not any(character in value for character in ",:\n"):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def save_picture(picture: Picture, path: Path) -> Path:
    """Write a picture atomically, with its parameters."""
    info = PngInfo()
    info.add_text("parameters", format_parameters(picture))
    return save_image(to_image(picture.pixels), path, info)
