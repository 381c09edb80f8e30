"""Pictures as PNG files with the generation settings inside, as A1111 and its kin write and read them."""

from __future__ import annotations

from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from lorasmith.imaging.png import save_image, to_image
from lorasmith.sampling import samplers
from lorasmith.sampling.regions import written
from lorasmith.sampling.sample import Picture


def parameters(picture: Picture) -> str:
    """The `parameters` text: prompt, negative prompt, settings."""
    r = picture.request
    settings = {
        "Steps": r.steps,
        "Sampler": samplers.find(r.sampler).label,
        "CFG scale": f"{r.cfg:g}",
        "Seed": r.seed,
        "Size": f"{r.width}x{r.height}",
        **({"Clip skip": r.clip_skip} if r.clip_skip > 1 else {}),
        **({"CFG Rescale": f"{r.rescale:g}"} if r.rescale else {}),
        **({"Regions": written(r.regions, r.width, r.height)} if r.regions else {}),
        **({"Controls": " | ".join(map(str, r.controls))} if r.controls else {}),
        **picture.facts,
    }
    lines = [r.prompt, *([f"Negative prompt: {r.negative}"] if r.negative else [])]
    return "\n".join([*lines, ", ".join(f"{key}: {_quoted(str(value))}" for key, value in settings.items())])


def _quoted(value: str) -> str:
    """A value with a comma, colon or line break in it stands in quotes, as A1111 writes and reads it."""
    if not any(c in value for c in ",:\n"):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def save_picture(picture: Picture, path: Path) -> Path:
    """Write a picture whole, with its parameters."""
    info = PngInfo()
    info.add_text("parameters", parameters(picture))
    return save_image(to_image(picture.pixels), path, info)
