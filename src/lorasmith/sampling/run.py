"""Sampling into a folder: the work of `lorasmith sample` and `lorasmith.sample`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from lorasmith.core.devices import pick_device
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.diffusion.prediction import prediction_of_kind
from lorasmith.diffusion.schedule import require_schedule
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.imaging.grid import captioned_grid, grid
from lorasmith.imaging.png import save_image, to_image
from lorasmith.sampling.condition_pictures import check_conditions
from lorasmith.sampling.loras import Loras, LoraUse, find_lora, short_hash
from lorasmith.sampling.png_metadata import save_picture
from lorasmith.sampling.prompts import split_loras
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import Picture, sample
from lorasmith.sampling.settings import SampleSettings, build_requests

GRID_NAME = "grid.png"


@dataclass(frozen=True)
class SampleResult:
    """The files of one call: pictures in the order prompt, seed, strength, and a labelled grid of them."""

    folder: Path
    files: tuple[Path, ...]
    grid: Path


@dataclass(frozen=True)
class PlannedPicture:
    """One picture to generate: its request with LoRA tags, the LoRAs, and the factor of their strengths."""

    request: Request
    uses: tuple[LoraUse, ...]
    factor: float

    @property
    def request_without_tags(self) -> Request:
        """The request that is sampled: prompts without LoRA tags."""
        regions = []
        for region in self.request.regions:
            prompt, _ = split_loras(region.prompt)
            regions.append(region.model_copy(update={"prompt": prompt}))
        prompt, _ = split_loras(self.request.prompt)
        return replace(self.request, prompt=prompt, regions=tuple(regions))


def sample_to_folder(
    base: str | Path,
    prompts: Sequence[str] | Path,
    folder: Path,
    *,
    loras: Sequence[LoraUse] = (),
    settings: SampleSettings | None = None,
    progress: Progress | None = None,
) -> SampleResult:
    """Generate pictures of prompts, or of a file of prompts, as PNG files with their settings inside, and a grid.

    LoRA tags in prompts are looked up among `loras`, in the folders of these and in the current folder; a tag takes
    precedence over the same file in `loras`. Files are numbered after those that are in the folder already. Raises
    LorasmithError for mistakes of the user, as far as possible before anything is loaded.
    """
    settings = settings or SampleSettings()
    progress = progress or Progress()
    device = pick_device(settings.device)
    requests = build_requests(prompts, settings, find(base))
    # All mistakes that can be found without the model are found before it is loaded.
    planned = plan_pictures(requests, loras, settings)

    progress.say(f"loading {base}")
    family = load(base, dtype=settings.dtype, device=device, vae=settings.vae, parts=settings.base_parts)
    apply_prediction_settings(family, settings)
    return generate_pictures(family, planned, folder, settings, progress)


def plan_pictures(
    requests: Sequence[Request], loras: Sequence[LoraUse], settings: SampleSettings
) -> list[PlannedPicture]:
    """A picture for each request, seed (`count`) and strength, in this order.

    Raises LorasmithError if a LoRA file is missing, or there are strengths without a LoRA.
    """
    planned = []
    for request in requests:
        uses = resolve_loras(request, loras)
        for use in uses:
            if not use.path.is_file():
                raise LorasmithError(f"{use.path}: no such LoRA file")
        for index in range(settings.count):
            seeded = replace(request, seed=request.seed + index)
            for factor in settings.strengths:
                scaled = tuple(use.times(factor) for use in uses)
                planned.append(PlannedPicture(seeded, scaled, factor))
    if len(settings.strengths) > 1 and not any(picture.uses for picture in planned):
        raise LorasmithError(
            "strengths are factors of LoRA strengths, but no LoRA is given; give one, or omit strengths"
        )
    return planned


def resolve_loras(request: Request, loras: Sequence[LoraUse]) -> tuple[LoraUse, ...]:
    """The LoRAs of a request: those of the call, then those of tags in its prompts, regions included.

    A tag takes precedence: its file is left out of those of the call.
    """
    tagged: list[LoraUse] = []
    for text in (request.prompt, *(region.prompt for region in request.regions)):
        for tag in split_loras(text)[1]:
            use = find_lora(tag, loras)
            if use not in tagged:
                tagged.append(use)
    tagged_paths = {use.path.resolve() for use in tagged}
    untagged = [use for use in loras if use.path.resolve() not in tagged_paths]
    return (*untagged, *tagged)


def apply_prediction_settings(family: Family, settings: SampleSettings) -> None:
    """Change the prediction type and the noise schedule of a loaded base as the settings say."""
    if settings.zero_terminal_snr:
        family.path = require_schedule(family.path, "zero_terminal_snr").zero_terminal_snr()
    if settings.prediction != "auto":
        family.prediction = prediction_of_kind(settings.prediction)


def generate_pictures(
    family: Family, planned: Sequence[PlannedPicture], folder: Path, settings: SampleSettings, progress: Progress
) -> SampleResult:
    """Generate planned pictures and write them into the folder, each as soon as it is finished, then the grid."""
    images, files = draw_pictures(family, planned, folder, settings, progress)
    grid_file = save_image(arrange_grid(images, planned, settings), folder / GRID_NAME)
    return SampleResult(folder, tuple(files), grid_file)


def draw_pictures(
    family: Family,
    planned: Sequence[PlannedPicture],
    folder: Path,
    settings: SampleSettings,
    progress: Progress,
    on_file: Callable[[Path], object] | None = None,
) -> tuple[list[Image.Image], list[Path]]:
    """Generate planned pictures and write them into the folder; returns pictures and files in their order.

    `on_file` gets each file as soon as it is written. Raises LorasmithError if a LoRA does not fit the base.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(file.stem[:5]) for file in folder.glob("[0-9][0-9][0-9][0-9][0-9]*.png")]
    # An existing picture is never overwritten.
    first_number = 1 + max(numbers, default=-1)

    # Pictures with the same LoRAs are generated together, so that LoRAs are attached once.
    groups: dict[tuple[LoraUse, ...], list[int]] = {}
    for index, picture in enumerate(planned):
        groups.setdefault(picture.uses, []).append(index)

    # All files are read first, so that one that does not fit the base is an error before the first picture.
    loras = Loras(family, progress, settings.embeddings)
    for uses in groups:
        for use in uses:
            loras.get(use.path)
    for uses, indices in groups.items():
        check_conditions(loras.condition_names(uses), [planned[index].request for index in indices])

    images: dict[int, Image.Image] = {}
    files: dict[int, Path] = {}

    def save(indices: Sequence[int], place: int, picture: Picture) -> None:
        index = indices[place]
        images[index] = to_image(picture.pixels)
        file = folder / f"{first_number + index:05d}-{picture.request.seed}.png"
        files[index] = save_picture(add_metadata(picture, planned[index], family.source), file)
        if on_file is not None:
            on_file(file)

    for uses, indices in groups.items():
        requests = [planned[index].request_without_tags for index in indices]
        with loras.attached(uses):
            sample(
                family,
                requests,
                batch_size=settings.batch_size,
                progress=progress,
                on_picture=partial(save, indices),
            )

    in_order = range(len(planned))
    return [images[index] for index in in_order], [files[index] for index in in_order]


def add_metadata(picture: Picture, planned: PlannedPicture, base: str) -> Picture:
    """The picture with the prompt, tags for the LoRAs that were attached, their hashes, and the name of the model, for
    its file."""
    # a LoRA at strength 0, as in a comparison with the base model, is not part of the picture
    used = [use for use in planned.uses if use.strength or use.text]
    metadata = {"Model": Path(base).stem if base.endswith(".safetensors") else Path(base).name}
    if used:
        metadata["Lora hashes"] = ", ".join(f"{use.path.stem}: {short_hash(use.path)}" for use in used)
    tags = [str(use) for use in used]
    prompt = " ".join([planned.request_without_tags.prompt, *tags]).strip()
    return replace(picture, request=replace(planned.request, prompt=prompt), metadata=metadata)


def arrange_grid(
    images: Sequence[Image.Image], planned: Sequence[PlannedPicture], settings: SampleSettings
) -> Image.Image:
    """A grid with a row for each prompt, and a column for each strength or, with one strength, for each seed.

    What would be a single row or column becomes a grid of captioned pictures.
    """
    if len(settings.strengths) > 1:
        return _grid_of_strengths(images, planned, settings.strengths)
    if settings.count == 1:
        return captioned_grid(images, [picture.request.prompt for picture in planned])
    seeds = [picture.request.seed for picture in planned]
    if len(planned) == settings.count:
        return captioned_grid(images, [f"seed {seed}" for seed in seeds], title=planned[0].request.prompt)
    return _grid_of_seeds(images, planned, settings.count)


def _grid_of_seeds(images: Sequence[Image.Image], planned: Sequence[PlannedPicture], columns: int) -> Image.Image:
    starts = range(0, len(planned), columns)
    prompts = [planned[start].request.prompt for start in starts]
    seeds = [picture.request.seed for picture in planned]
    rows = [images[start : start + columns] for start in starts]
    seed_rows = [seeds[start : start + columns] for start in starts]
    if all(row == seed_rows[0] for row in seed_rows):
        return grid(rows, row_labels=prompts, column_labels=[f"seed {seed}" for seed in seed_rows[0]])
    # prompts with their own seeds (`--d 7`) have no common column labels
    labels = [f"{prompt}\nseed {row[0]} to {row[-1]}" for prompt, row in zip(prompts, seed_rows, strict=True)]
    return grid(rows, row_labels=labels)


def _grid_of_strengths(
    images: Sequence[Image.Image], planned: Sequence[PlannedPicture], strengths: Sequence[float]
) -> Image.Image:
    starts = range(0, len(planned), len(strengths))
    rows = [images[start : start + len(strengths)] for start in starts]
    requests = [planned[start].request for start in starts]
    row_labels = [f"{request.prompt}\nseed {request.seed}" for request in requests]
    column_labels = [f"strength {factor:g}" for factor in strengths]
    return grid(rows, row_labels=row_labels, column_labels=column_labels)
