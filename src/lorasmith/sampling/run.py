"""Sampling into a folder: what the command and the Python API call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.imaging.grid import captioned_grid, grid
from lorasmith.imaging.png import save_image, to_image
from lorasmith.sampling.loras import Loras, LoraUse, find_lora, short_hash
from lorasmith.sampling.png_metadata import save_picture
from lorasmith.sampling.prompts import split_loras
from lorasmith.sampling.sample import Picture, Request, sample
from lorasmith.sampling.settings import SampleSettings, pick_device, requests_of

GRID = "grid.png"


@dataclass(frozen=True)
class SampleResult:
    """The files of one call: pictures in the order prompt, seed, strength, and a labelled grid of them."""

    folder: Path
    files: tuple[Path, ...]
    grid: Path


@dataclass(frozen=True)
class Cell:
    """One picture to draw: what it is asked as, the LoRAs on it, and the factor of their strengths."""

    request: Request
    uses: tuple[LoraUse, ...]
    factor: float

    @property
    def plain(self) -> Request:
        """The request as the model sees it, without LoRA tags."""
        regions = tuple(r.model_copy(update={"prompt": split_loras(r.prompt)[0]}) for r in self.request.regions)
        return replace(self.request, prompt=split_loras(self.request.prompt)[0], regions=regions)


def sample_to_folder(
    base: str | Path,
    prompts: Sequence[str] | Path,
    folder: Path,
    *,
    loras: Sequence[LoraUse] = (),
    settings: SampleSettings | None = None,
    progress: Progress | None = None,
) -> SampleResult:
    """Draw prompts, or a file of them, into PNG files with their settings inside, and a labelled grid.

    LoRA tags in prompts are looked up among `loras`, beside them and in the current folder; a tag goes before the same
    file in `loras`. Files get numbers after those that are in the folder already. Raises LorasmithError for what the
    user can repair, as far as possible before anything is loaded.
    """
    settings, progress = settings or SampleSettings(), progress or Progress()
    device, source = pick_device(settings.device), find(base)
    requests = requests_of(prompts, settings, int(source.config("unet").get("sample_size", 64)) * 8)
    cells = [
        Cell(replace(request, seed=request.seed + i), tuple(use.times(factor) for use in uses), factor)
        for request in requests
        for uses in [uses_of(request, loras)]
        for i in range(settings.count)
        for factor in settings.strengths
    ]
    missing = sorted({str(use.path) for cell in cells for use in cell.uses if not use.path.is_file()})
    if missing:
        raise LorasmithError(f"{missing[0]}: no such LoRA file")
    if len(settings.strengths) > 1 and not any(cell.uses for cell in cells):
        raise LorasmithError("strengths are those of LoRAs, and there is none; name one, or leave strengths out")
    progress.say(f"loading {base}")
    family = load(base, dtype=settings.dtype, device=device, vae=settings.vae)
    adjust(family, settings)
    return draw_cells(family, cells, folder, settings, progress)


def adjust(family: Family, settings: SampleSettings) -> None:
    """Let the base predict, and its schedule end, as the settings say."""
    if settings.zero_terminal_snr:
        family.schedule = family.schedule.zero_terminal_snr()
    if settings.prediction != "auto":
        family.prediction = settings.prediction


def draw_cells(
    family: Family, cells: Sequence[Cell], folder: Path, settings: SampleSettings, progress: Progress
) -> SampleResult:
    """Draw and write; each file is there as soon as its picture is."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 1 + max((int(f.stem[:5]) for f in folder.glob("[0-9][0-9][0-9][0-9][0-9]*.png")), default=-1)
    loras, images, files = Loras(family, progress, settings.embeddings), {}, {}
    groups: dict[tuple[LoraUse, ...], list[int]] = {}
    for index, cell in enumerate(cells):
        groups.setdefault(cell.uses, []).append(index)
    for uses in groups:  # a file that does not fit is found before the first picture
        for use in uses:
            loras.get(use.path)
    for uses, members in groups.items():

        def keep(place: int, picture: Picture, members: list[int] = members) -> None:
            index = members[place]
            written = with_metadata(picture, cells[index], family.source)
            images[index] = to_image(picture.pixels)
            files[index] = save_picture(written, folder / f"{first + index:05d}-{picture.request.seed}.png")

        with loras.attached(uses):
            requests = [cells[i].plain for i in members]
            sample(family, requests, batch_size=settings.batch_size, progress=progress, done=keep)
    sheet = arrange([images[i] for i in range(len(cells))], cells, settings)
    path = save_image(sheet, folder / GRID)
    return SampleResult(folder, tuple(files[i] for i in range(len(cells))), path)


def with_metadata(picture: Picture, cell: Cell, base: str) -> Picture:
    """The picture with what its file tells: the prompt with tags for the LoRAs that were on it, and their hashes."""
    used = [use for use in cell.uses if use.strength or use.text]
    facts = {"Model": Path(base).stem if base.endswith(".safetensors") else Path(base).name}
    if used:
        facts["Lora hashes"] = ", ".join(f"{use.path.stem}: {short_hash(use.path)}" for use in used)
    prompt = " ".join([cell.plain.prompt, *map(str, used)]).strip()
    return replace(picture, request=replace(cell.request, prompt=prompt), facts=facts)


def arrange(images: Sequence[Image.Image], cells: Sequence[Cell], settings: SampleSettings) -> Image.Image:
    """A grid: prompts down; across, strengths if several were asked for, else seeds. A single row or column is
    folded, with a caption on each picture."""
    several = len(settings.strengths) > 1
    columns = len(settings.strengths) if several else settings.count
    starts = range(0, len(cells), columns)
    prompts = [cells[i].request.prompt for i in starts]
    if several:
        across = [f"strength {factor:g}" for factor in settings.strengths]
        down = [f"{cells[i].request.prompt}\nseed {cells[i].request.seed}" for i in starts]
        return grid([images[i : i + columns] for i in starts], row_labels=down, column_labels=across)
    if columns == 1:
        return captioned_grid(images, prompts)
    seeds = [f"seed {cell.request.seed}" for cell in cells]
    if len(prompts) == 1:
        return captioned_grid(images, seeds, title=prompts[0])
    rows = [seeds[i : i + columns] for i in starts]
    if all(row == rows[0] for row in rows):
        return grid([images[i : i + columns] for i in starts], row_labels=prompts, column_labels=rows[0])
    labels = [f"{prompt}\n{row[0]} to {row[-1].split()[-1]}" for prompt, row in zip(prompts, rows, strict=True)]
    return grid([images[i : i + columns] for i in starts], row_labels=labels)


def uses_of(request: Request, loras: Sequence[LoraUse]) -> tuple[LoraUse, ...]:
    """The LoRAs of a request: those of the call, then those of its tags, in a region's prompt too, which go before."""
    texts = (request.prompt, *(region.prompt for region in request.regions))
    tagged = list(dict.fromkeys(find_lora(tag, loras) for text in texts for tag in split_loras(text)[1]))
    named = {use.path.resolve() for use in tagged}
    return (*(use for use in loras if use.path.resolve() not in named), *tagged)
