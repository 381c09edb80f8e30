"""Preview pictures while training: the same prompts and seeds each time, drawn with the base model and with the LoRA at
one or several strengths."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text
from lorasmith.training.hooks.base import Hook
from lorasmith.training.hooks.numbered_files import check_pattern, format_pattern

if TYPE_CHECKING:
    from PIL import Image

    from lorasmith.sampling.request import Request
    from lorasmith.training.run import Run

Strength = float | tuple[float, float]
"""The strength of the whole LoRA, or those of the UNet and of the text encoders."""
Row = tuple[str, "list[Image.Image]"]
"""A row of a grid: its label, and a picture for each request."""

COPY_FIELDS = ("name", "step", "epoch", "index", "time", "seed")


class Previews(Hook):
    """Draws the prompts into `previews/step-00000100/`, with the weights that are being trained.

    The pictures of the base model are drawn once and form the first row of each grid; each strength has a row below.
    The columns are the prompts. If `count` is above 1, each prompt has a grid of its own, `grid-00.png`, and the
    columns are the seeds.
    """

    kind: Literal["preview"] = "preview"
    prompts: tuple[str, ...] | Path
    """Prompts, or a file of them (one a line, with kohya's `--n --w --h --s --d --l --ss` options, or kohya's TOML or
    JSON). The file is read again each time."""
    negative: str = ""
    """Negative prompt."""
    seed: int = 0
    """Seed of the first picture of each prompt. Each further picture has the next seed."""
    count: int = Field(default=1, ge=1)
    """Pictures of each prompt."""
    strengths: tuple[Strength, ...] = Field(default=(1.0,), min_length=1)
    """Draw each picture once for each of these strengths of the LoRA. 0 means the new tokens alone; `[0.7, 1]` means
    0.7 on the UNet and 1 on the text encoders."""
    steps: int = Field(default=20, ge=1)
    """Sampling steps."""
    cfg: float | None = Field(default=None, ge=1)
    """Guidance scale. Default: 7, for SD3 4.5, for Flux 1."""
    guidance: float = Field(default=3.5, ge=0)
    """What Flux.1 dev gets as its guidance; other models ignore it."""
    sampler: str = "ddim"
    like: str = ""
    """Draw as `a1111` or `comfyui` do when nothing is set there: their sampler, schedule, noise of a seed and emphasis,
    and their number of steps and guidance where `steps` and `cfg` are not given."""
    width: int | None = None
    """Width in pixels. Default: the training resolution."""
    height: int | None = None
    """Height in pixels. Default: the training resolution."""
    compare_base: bool = True
    """Also draw the pictures with the base model."""
    rounded: Literal["", "fp16", "fp8"] = ""
    """Also draw the pictures at the first strength as on a UNet that is stored in these numbers, with the LoRA added
    into its weights and rounded (as A1111 and Forge do)."""
    copies: Path | None = None
    """Folder for a second copy of each picture, where other programs expect it."""
    copy_name: str = "{name}-{step:06d}-{index:02d}"
    """File name of these copies, without suffix, with the fields `{name}`, `{step}`, `{epoch}`, `{index}`, `{time}`
    (such as 20250131235959) and `{seed}`."""
    epoch_copy_name: str | None = None
    """File name of copies that are made because an epoch has ended, or at the start. Default: `copy_name`."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_program(cls, values: Any) -> Any:
        """Steps and guidance that are not given are those of the program that is imitated."""
        from lorasmith.sampling import programs

        return programs.with_defaults(values) if isinstance(values, dict) and values.get("like") else values

    @field_validator("like")
    @classmethod
    def _must_be_a_program(cls, value: str) -> str:
        from lorasmith.sampling import programs

        return programs.checked(value) if value else ""

    @field_validator("copy_name", "epoch_copy_name")
    @classmethod
    def _pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            check_pattern(pattern, COPY_FIELDS, ("step", "epoch", "time"))
            check_pattern(pattern, COPY_FIELDS, ("index",))
        return pattern

    def start(self, run: Run) -> None:
        """Raises LorasmithError before training if the prompts cannot be read."""
        from lorasmith.sampling.condition_pictures import check_conditions, say_missing

        requests = self.requests(run)
        check_conditions(run.conditions.names, requests)
        say_missing(run.family, requests, run.progress)
        if self.rounded:
            from lorasmith.training.hooks.rounded_base import check_rounding

            check_rounding(run, self.rounded)
        super().start(run)

    def act(self, run: Run) -> None:
        """Draw the previews. If the file of prompts has become invalid since the start, they are left out."""
        try:
            requests = self.requests(run)
        except LorasmithError as error:
            run.progress.say(f"no previews at step {run.state.step}: {error}")
            run.events.write("preview_skipped", run.state.step, reason=str(error))
            return
        if requests:
            self._draw(run, requests)

    def requests(self, run: Run) -> list[Request]:
        """What is drawn: each prompt `count` times. Settings in a prompt's own line override those of the hook."""
        from lorasmith.sampling.prompts import parse_line, read_prompts
        from lorasmith.sampling.request import Request

        width, height = run.dataset.config.size
        default_cfg = run.family.default_cfg or 7.0
        defaults: dict[str, Any] = {
            "negative": self.negative,
            "steps": self.steps,
            "cfg": default_cfg if self.cfg is None else self.cfg,
            "guidance": self.guidance,
            "sampler": self.sampler,
            "like": self.like,
            "width": self.width or width,
            "height": self.height or height,
            "clip_skip": run.caption_encoding.clip_skip,
            "seed": self.seed,
        }
        if isinstance(self.prompts, Path):
            lines = read_prompts(self.prompts)
        else:
            lines = [parse_line(prompt) for prompt in self.prompts]

        requests = []
        for line in lines:
            first = Request(**(defaults | line))
            for i in range(self.count):
                requests.append(replace(first, seed=first.seed + i))
        return requests

    def _draw(self, run: Run, requests: list[Request]) -> None:
        """Draw and save the pictures and their grids, and log them."""
        from lorasmith.imaging.png import save_image
        from lorasmith.sampling import programs
        from lorasmith.sampling.settings import command_options

        step = run.state.step
        folder = run.folder / "previews" / f"step-{step:08d}"
        with run.as_exported():
            rows, files = self._draw_rows(run, requests, folder)
        if self.copies is not None:
            # there is a name for one picture of each request: that of the last strength
            self._copy(run, self.copies, files[-len(requests) :], requests)

        grids = []
        for name, grid in self._grids(requests, rows, step).items():
            grids.append(save_image(grid, folder / name))
        grid_names = [run.relative_path(grid) for grid in grids]
        run.events.write(
            "preview",
            step,
            grid=grid_names[0],
            grids=grid_names,
            images=[run.relative_path(file) for file in files],
            prompts=[request.prompt for request in requests[:: self.count]],
            drawn=programs.describe(requests[0]),
            options=command_options(requests[0]),
        )
        for i, grid in enumerate(grids):
            name = "preview" if len(grids) == 1 else f"preview/{i:02d}"
            run.events.picture(name, step, grid)

    def _draw_rows(self, run: Run, requests: list[Request], folder: Path) -> tuple[list[Row], list[Path]]:
        """Draw the pictures of all rows; returns the rows, and the files of the pictures drawn with the LoRA."""
        from lorasmith.imaging.png import to_image
        from lorasmith.sampling.png_metadata import save_picture
        from lorasmith.sampling.sample import sample

        rows: list[Row] = []
        files: list[Path] = []
        if self.compare_base:
            rows.append(("base", self._base_pictures(run, requests)))

        # a run that trains new tokens alone has no LoRA whose strength could differ
        strengths = self.strengths if len(run.adapters) else (1.0,)
        for strength in strengths:
            label = f"step {run.state.step}"
            suffix = ""
            if len(strengths) > 1:
                label = strength_label(strength)
                suffix = f"-{strength_suffix(strength)}"

            by_component = strength_by_component(strength, run.adapters.components())
            with run.adapters.at(by_component):
                pictures = sample(run.family, requests)
            for i, picture in enumerate(pictures):
                files.append(save_picture(picture, folder / f"{i:02d}{suffix}.png"))
            rows.append((label, [to_image(picture.pixels) for picture in pictures]))
        if self.rounded:
            rows.append((f"on a base in {self.rounded}", self._rounded_pictures(run, requests, folder)))
        return rows, files

    def _rounded_pictures(self, run: Run, requests: list[Request], folder: Path) -> list[Image.Image]:
        """The pictures with the LoRA added into rounded weights, which are saved too."""
        from lorasmith.imaging.png import to_image
        from lorasmith.sampling.png_metadata import save_picture
        from lorasmith.sampling.sample import sample
        from lorasmith.training.hooks.rounded_base import on_rounded_base

        strength = strength_by_component(self.strengths[0], run.adapters.components())
        with on_rounded_base(run, self.rounded, strength):
            pictures = sample(run.family, requests)
        for i, picture in enumerate(pictures):
            save_picture(picture, folder / f"{i:02d}-{self.rounded}.png")
        return [to_image(picture.pixels) for picture in pictures]

    def _base_pictures(self, run: Run, requests: list[Request]) -> list[Image.Image]:
        """The pictures of the base model. They are read from the disk if the same requests were drawn before."""
        from PIL import Image

        from lorasmith.imaging.png import to_image
        from lorasmith.sampling.png_metadata import save_picture
        from lorasmith.sampling.sample import sample

        # the text of all requests is saved with the pictures, to see later whether they are still the same
        folder = run.folder / "previews" / "base"
        files = [folder / f"{i:02d}.png" for i in range(len(requests))]
        requests_file = folder / "prompts.txt"
        requests_text = "\n".join(map(repr, requests))
        complete = requests_file.is_file() and all(file.is_file() for file in files)
        if complete and requests_file.read_text(encoding="utf-8") == requests_text:
            return [Image.open(file).convert("RGB") for file in files]

        with run.as_base():
            pictures = sample(run.family, requests)
        for picture, file in zip(pictures, files, strict=True):
            save_picture(picture, file)
        write_text(requests_file, requests_text)
        return [to_image(picture.pixels) for picture in pictures]

    def _grids(self, requests: Sequence[Request], rows: Sequence[Row], step: int) -> dict[str, Image.Image]:
        """The labelled grids by file name."""
        from lorasmith.imaging.grid import grid

        row_labels = [label for label, _ in rows]
        if self.count == 1:
            pictures = [row for _, row in rows]
            prompts = [request.prompt for request in requests]
            # with one strength, the label of the row names the step
            title = f"step {step}" if len(self.strengths) > 1 else ""
            return {"grid.png": grid(pictures, row_labels=row_labels, column_labels=prompts, title=title)}

        # the requests of one prompt follow each other
        grids = {}
        for number, first in enumerate(range(0, len(requests), self.count)):
            columns = slice(first, first + self.count)
            pictures = [row[columns] for _, row in rows]
            seeds = [f"seed {request.seed}" for request in requests[columns]]
            title = f"step {step}: {requests[first].prompt}"
            grids[f"grid-{number:02d}.png"] = grid(pictures, row_labels=row_labels, column_labels=seeds, title=title)
        return grids

    def _copy(self, run: Run, folder: Path, files: Sequence[Path], requests: Sequence[Request]) -> None:
        """Copy the pictures into another folder, under the names that the settings give."""
        # the start counts as the end of epoch 0, as in kohya's scripts
        at_epoch = self.due_by_epoch(run) or run.state.step == 0
        pattern = self.copy_name
        if self.epoch_copy_name is not None and at_epoch:
            pattern = self.epoch_copy_name
        time = f"{datetime.now():%Y%m%d%H%M%S}"
        folder.mkdir(parents=True, exist_ok=True)
        for index, (file, request) in enumerate(zip(files, requests, strict=True)):
            name = format_pattern(pattern, run, index=index, time=time, seed=request.seed)
            shutil.copyfile(file, folder / f"{name}.png")


def strength_by_component(strength: Strength, components: Sequence[str]) -> dict[str, float]:
    """The strength of each component that has adapters."""
    denoiser, text = strength if isinstance(strength, tuple) else (strength, strength)
    return {component: text if is_text_encoder(component) else denoiser for component in components}


def strength_label(strength: Strength) -> str:
    """The label of a strength's row in a grid."""
    if isinstance(strength, tuple):
        return f"UNet {strength[0]:g}, text {strength[1]:g}"
    return "new tokens alone" if strength == 0 else f"strength {strength:g}"


def strength_suffix(strength: Strength) -> str:
    """The part of a file name that tells strengths apart."""
    if isinstance(strength, tuple):
        return f"{strength[0]:g}_{strength[1]:g}"
    return f"{strength:g}"
