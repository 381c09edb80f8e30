"""Pictures while training: the same prompts and seeds each time, the base model's beside the adapter's, and the
adapter's at several strengths."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text
from lorasmith.training.hooks.base import Hook
from lorasmith.training.hooks.numbered_files import check_pattern, filled

if TYPE_CHECKING:
    from PIL import Image

    from lorasmith.sampling.sample import Request
    from lorasmith.training.run import Run

Strength = float | tuple[float, float]
"""Of the whole LoRA, or of the UNet's and the text encoders'."""
Row = tuple[str, "list[Image.Image]"]
"""A label and the pictures of all requests."""


COPY_FIELDS = ("name", "step", "epoch", "index", "time", "seed")


class Previews(Hook):
    """Draws the prompts now and then, into `previews/step-00000100/`, with the weights that are being trained.

    The base model's pictures are drawn once and stand in the first row of each grid, above those of the strengths. The
    columns are prompts; with `count` above 1 each prompt has a grid of its own, `grid-00.png`, whose columns are seeds.
    """

    kind: Literal["preview"] = "preview"
    prompts: tuple[str, ...] | Path
    """Prompts, or a file of them (one a line, with kohya's `--n --w --h --s --d --l --ss` options, or kohya's TOML or
    JSON), read anew each time."""
    negative: str = ""
    seed: int = 0
    """Of the first picture of each prompt; further ones count up."""
    count: int = Field(default=1, ge=1)
    """Pictures of each prompt."""
    strengths: tuple[Strength, ...] = Field(default=(1.0,), min_length=1)
    """Draws each picture once for each of these strengths of the LoRA; 0 is the new words alone, and `[0.7, 1]` means
    0.7 on the UNet and 1 on the text encoders."""
    steps: int = Field(default=20, ge=1)
    cfg: float = Field(default=7.0, ge=1)
    sampler: str = "ddim"
    width: int | None = None
    """Default: the training resolution."""
    height: int | None = None
    compare_base: bool = True
    copies: Path | None = None
    """A folder for a second copy of each picture, where other programs look for them."""
    copy_name: str = "{name}-{step:06d}-{index:02d}"
    """Of these copies, without suffix, from `{name}`, `{step}`, `{epoch}`, `{index}`, `{time}` (such as
    20250131235959) and `{seed}`."""
    epoch_copy_name: str | None = None
    """Of those that are made because an epoch has ended, or at the start; default: `copy_name`."""

    @field_validator("copy_name", "epoch_copy_name")
    @classmethod
    def _pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            check_pattern(pattern, COPY_FIELDS, ("step", "epoch", "time"))
            check_pattern(pattern, COPY_FIELDS, ("index",))
        return pattern

    def start(self, run: Run) -> None:
        """Find out before training whether the prompts can be read and drawn."""
        self.requests(run)
        super().start(run)

    def act(self, run: Run) -> None:
        """A file of prompts is read anew each time; one that was spoilt meanwhile does not end the training."""
        try:
            requests = self.requests(run)
        except LorasmithError as error:
            run.progress.say(f"no previews at step {run.state.step}: {error}")
            run.events.write("preview_skipped", run.state.step, reason=str(error))
            return
        self._draw(run, requests)

    def _draw(self, run: Run, requests: list[Request]) -> None:
        from lorasmith.imaging.png import save_image, to_image
        from lorasmith.sampling.png_metadata import save_picture
        from lorasmith.sampling.sample import sample

        folder = run.folder / "previews" / f"step-{run.state.step:08d}"
        strengths = self.strengths if len(run.adapters) else (1.0,)  # new words alone have none
        rows: list[Row] = []
        files: list[Path] = []
        with run.showing():
            if self.compare_base:
                rows.append(("base", self._base_pictures(run, requests)))
            for strength in strengths:
                with run.adapters.at(by_component(strength, run.adapters.components())):
                    pictures = sample(run.family, requests)
                suffix = "" if len(strengths) == 1 else f"-{named(strength)}"
                files += [save_picture(picture, folder / f"{i:02d}{suffix}.png") for i, picture in enumerate(pictures)]
                label = f"step {run.state.step}" if len(strengths) == 1 else said(strength)
                rows.append((label, [to_image(p.pixels) for p in pictures]))
        self._copy(run, files[-len(requests) :], [request.seed for request in requests])
        grids = [
            save_image(sheet, folder / name) for name, sheet in self._sheets(requests, rows, run.state.step).items()
        ]
        places = [grid.relative_to(run.folder).as_posix() for grid in grids]
        images = [file.relative_to(run.folder).as_posix() for file in files]
        prompts = [r.prompt for r in requests[:: self.count]]
        shown = {"grid": places[0], "grids": places, "images": images, "prompts": prompts}
        run.events.write("preview", run.state.step, **shown)
        for i, grid in enumerate(grids):
            run.events.picture("preview" if len(grids) == 1 else f"preview/{i:02d}", run.state.step, grid)

    def _sheets(self, requests: Sequence[Request], rows: Sequence[Row], step: int) -> dict[str, Image.Image]:
        """The labelled grids by file name."""
        from lorasmith.imaging.grid import grid

        labels = [label for label, _ in rows]
        if self.count == 1:
            heads = [r.prompt for r in requests]
            title = f"step {step}" if len(self.strengths) > 1 else ""
            return {"grid.png": grid([p for _, p in rows], row_labels=labels, column_labels=heads, title=title)}
        found = {}
        for i in range(0, len(requests), self.count):
            own = requests[i : i + self.count]
            heads = [f"seed {r.seed}" for r in own]
            pictures = [p[i : i + self.count] for _, p in rows]
            name = f"grid-{i // self.count:02d}.png"
            found[name] = grid(pictures, row_labels=labels, column_labels=heads, title=f"step {step}: {own[0].prompt}")
        return found

    def _copy(self, run: Run, files: list[Path], seeds: list[int]) -> None:
        if self.copies is None:
            return
        ended = self.epoch_copy_name if self.due_by_epoch(run) or run.state.step == 0 else None
        time = f"{datetime.now():%Y%m%d%H%M%S}"
        self.copies.mkdir(parents=True, exist_ok=True)
        for index, (file, seed) in enumerate(zip(files, seeds, strict=True)):
            name = filled(ended or self.copy_name, run, index=index, time=time, seed=seed)
            shutil.copyfile(file, self.copies / f"{name}.png")

    def requests(self, run: Run) -> list[Request]:
        """The prompts with their settings, `count` times: those of a prompt's own line, else the hook's."""
        from lorasmith.sampling.prompts import parse_line, read_prompts
        from lorasmith.sampling.sample import Request

        lines = read_prompts(self.prompts) if isinstance(self.prompts, Path) else [parse_line(p) for p in self.prompts]
        resolution = run.config.data.resolution
        width, height = (resolution, resolution) if isinstance(resolution, int) else resolution
        common: dict[str, Any] = {
            "negative": self.negative,
            "steps": self.steps,
            "cfg": self.cfg,
            "sampler": self.sampler,
        }
        common |= {"width": self.width or width, "height": self.height or height}
        common |= {"clip_skip": run.config.text.clip_skip, "seed": self.seed}
        asked = [Request(**(common | line)) for line in lines]
        return [replace(request, seed=request.seed + i) for request in asked for i in range(self.count)]

    def _base_pictures(self, run: Run, requests: list[Request]) -> list[Image.Image]:
        """The base model's pictures; drawn once, then read back."""
        from PIL import Image

        from lorasmith.imaging.png import to_image
        from lorasmith.sampling.png_metadata import save_picture
        from lorasmith.sampling.sample import sample

        files = [run.folder / "previews" / "base" / f"{i:02d}.png" for i in range(len(requests))]
        drawn = run.folder / "previews" / "base" / "prompts.txt"
        asked = "\n".join(map(repr, requests))
        if all(file.is_file() for file in files) and drawn.is_file() and drawn.read_text(encoding="utf-8") == asked:
            return [Image.open(file).convert("RGB") for file in files]
        with run.as_base():
            pictures = sample(run.family, requests)
        for picture, file in zip(pictures, files, strict=True):
            save_picture(picture, file)
        write_text(drawn, asked)
        return [to_image(picture.pixels) for picture in pictures]


def by_component(strength: Strength, components: Sequence[str]) -> dict[str, float]:
    """The strength of each component that carries adapters."""
    unet, text = strength if isinstance(strength, tuple) else (strength, strength)
    return {name: unet if name == "unet" else text for name in components}


def said(strength: Strength) -> str:
    """As a label."""
    if isinstance(strength, tuple):
        return f"UNet {strength[0]:g}, text {strength[1]:g}"
    return "words alone" if strength == 0 else f"strength {strength:g}"


def named(strength: Strength) -> str:
    """As a part of a file's name."""
    return "_".join(f"{value:g}" for value in (strength if isinstance(strength, tuple) else (strength,)))
