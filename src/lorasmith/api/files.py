"""The verbs of the public API that turn files into files: inspect, convert, resize, extract, merge, combine, fuse,
refit, strip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from lorasmith.core.progress import Progress

if TYPE_CHECKING:
    from lorasmith.files.lora import FileReport, OutputFile
    from lorasmith.files.strip import StripReport
    from lorasmith.fusion import FuseReport
    from lorasmith.fusion.options import FuseOptions, RefitOptions
    from lorasmith.fusion.refit_files import RefitReport


def inspect(
    file: Path | str,
    *,
    plot: Path | str | None = None,
    base: Path | str | None = None,
    base_parts: Sequence[str] = (),
) -> dict[str, Any]:
    """The contents of a LoRA file as plain data: kind, rank, layers, trigger words, and how it was trained. Of the
    folder of a run: whether it trained, its best weights, and what is wrong with it.

    `plot`: also write a bar chart of the change of each block of a file into this picture. `base`: also say what is
    left of the change where that base model is stored in fp16 or fp8; `base_parts` as in `convert`. Raises
    LorasmithError if the file cannot be read, is not a LoRA or does not fit the base, or if the folder holds no run.

    >>> contents = lorasmith.inspect("mia.safetensors")
    >>> contents["kind"], contents["rank"], contents["trigger"]
    ('lora', 4, ['mia'])
    """
    if Path(file).is_dir():
        from lorasmith.training.output.report.inspect_run import inspect_run

        return inspect_run(Path(file))
    from lorasmith.formats.inspect import inspect as read_contents
    from lorasmith.formats.plot import plot as write_plot

    contents = read_contents(Path(file))
    if plot is not None:
        write_plot(contents["norms"], Path(file).name, Path(plot))
    if base is not None:
        from lorasmith.sampling.rounding import rounding_of

        contents |= rounding_of(Path(file), str(base), base_parts)
    return contents


class SaveOptions(TypedDict, total=False):
    """How a new file is written."""

    output: Path | str | None
    """The new file; None: next to the input file, with a suffix in its name."""
    dtype: str | None
    """`fp32`, `fp16`, `bf16`; None: that of the input file (`extract`: fp16)."""
    overwrite: bool
    """Replace the file if it exists."""


def convert(
    file: Path | str,
    to: str,
    *,
    base: Path | str | None = None,
    base_parts: Sequence[str] = (),
    rank: int | None = None,
    words: Sequence[Path | str] = (),
    **saving: Unpack[SaveOptions],
) -> FileReport:
    """Write a LoRA in the format `kohya`, `peft`, `portable`, `lycoris`, `diff`, `bundle` or `mixofshow`.

    `base`: the base model; needed if the file does not tell its family, or if its change depends on the base's weights.
    `base_parts`: files and folders with the text encoders that a single file of Flux or SD3 lacks.
    `rank`: the rank of the LoRA that approximates layers without an exact form in the format. `words`: embedding files
    for a bundle. Raises LorasmithError if the format cannot hold the LoRA.

    >>> lorasmith.convert("mia.safetensors", "peft", base="tiny-sd").file.name
    'mia-peft.safetensors'
    """
    from lorasmith.files.convert import convert as convert_file
    from lorasmith.files.lora import find_format

    embeddings = [Path(word) for word in words]
    target = _output(saving, Path(file), to, find_format(to).suffix)
    return convert_file(Path(file), to, target, base=base, base_parts=base_parts, rank=rank, token_files=embeddings)


def resize(
    file: Path | str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    frobenius: float | None = None,
    per_layer: bool = False,
    base: Path | str | None = None,
    base_parts: Sequence[str] = (),
    **saving: Unpack[SaveOptions],
) -> FileReport:
    """Write the best approximation of a LoRA with lower ranks; the report has the error.

    `rank`: the new rank. `energy`, `frobenius`: keep this fraction, 0..1, of the squared norm or of the norm of each
    change; `rank` is then the highest rank. `per_layer`: choose the rank of each layer separately. `base` and
    `base_parts` as in `convert`. Raises LorasmithError if none or several of them are given that exclude each other.

    >>> smaller = lorasmith.resize("mia.safetensors", rank=2, base="tiny-sd")
    >>> smaller.file.name, list(smaller.ranks)
    ('mia-resized.safetensors', [2])
    """
    from lorasmith.files.lowrank import Truncation
    from lorasmith.files.resize import resize as resize_file

    cut = Truncation(rank, energy, frobenius, per_layer)
    return resize_file(Path(file), cut, _output(saving, Path(file), "resized"), base=base, base_parts=base_parts)


def extract(
    tuned: Path | str,
    base: Path | str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    base_parts: Sequence[str] = (),
    progress: Progress | None = None,
    **saving: Unpack[SaveOptions],
) -> FileReport:
    """Write the difference of two checkpoints as the best LoRA of a rank, or with a fraction of the squared norm
    (`energy`, 0..1). `base_parts`: files and folders with the text encoders that a base in a single file of Flux or SD3
    lacks. Raises LorasmithError if the checkpoints do not have the same architecture.

    >>> merged = lorasmith.merge("tiny-sd", ["mia.safetensors"], "merged")
    >>> lorasmith.extract("merged", "tiny-sd", rank=4, output="extracted.safetensors").file.name
    'extracted.safetensors'
    """
    from lorasmith.files.extract import extract as extract_file
    from lorasmith.files.lowrank import Truncation

    cut, output = Truncation(rank, energy), _output(saving, Path(tuned), "lora")
    return extract_file(tuned, base, cut, output, base_parts=base_parts, progress=progress)


def merge(
    base: Path | str,
    loras: Sequence[Path | str],
    output: Path | str,
    *,
    base_parts: Sequence[str] = (),
    overwrite: bool = False,
) -> FileReport:
    """Write a base model, in its own layout, with LoRAs merged into its weights (`"garp.safetensors:0.8"`).

    `base_parts` as in `convert`. Text encoders in files of their own are read, not written; the report says so.

    >>> lorasmith.merge("tiny-sd", ["mia.safetensors:0.8"], "merged").file.name
    'merged'
    """
    from lorasmith.files.lora import LoraInput
    from lorasmith.files.merge import merge as merge_files

    inputs = [LoraInput.parse(lora) for lora in loras]
    return merge_files(base, inputs, Path(output), base_parts=base_parts, overwrite=overwrite)


def combine(
    loras: Sequence[Path | str],
    output: Path | str,
    *,
    base: Path | str | None = None,
    base_parts: Sequence[str] = (),
    rank: int | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
) -> FileReport:
    """Write the weighted sum of LoRAs (`"garp.safetensors:0.7"`): exactly, or approximated by a LoRA of `rank`. `base`
    and `base_parts` as in `convert`.

    >>> loras = ["mia.safetensors:0.7", "rex.safetensors:0.5"]
    >>> both = lorasmith.combine(loras, "both.safetensors", base="tiny-sd")
    >>> list(both.ranks)  # the sum is exact, so the ranks add up
    [8]
    """
    from lorasmith.files.combine import combine as combine_files
    from lorasmith.files.lora import LoraInput

    target = _output({"output": output, "dtype": dtype, "overwrite": overwrite}, Path(output), "")
    inputs = [LoraInput.parse(lora) for lora in loras]
    return combine_files(inputs, target, base=base, base_parts=base_parts, rank=rank)


def fuse(
    files: Sequence[Path | str],
    base: Path | str,
    output: Path | str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Unpack[FuseOptions],
) -> FuseReport:
    """Fuse LoRAs of several concepts into one LoRA that shows each of them as its own LoRA did.

    `files`: `"garp.safetensors:0.9=garp"` (strength, and name in prompts), or one `.json` list of concepts as in
    Mix-of-Show. The report has the error of each concept, for the three methods.

    >>> files = ["mia.safetensors=mia", "rex.safetensors=rex"]
    >>> fused = lorasmith.fuse(files, "tiny-sd", "fused.safetensors", steps=2, size=64)
    >>> fused.concepts
    ['mia', 'rex']
    """
    from lorasmith.files.lora import OutputFile
    from lorasmith.fusion.options import fuse as fuse_loras

    return fuse_loras(files, base, OutputFile(Path(output), overwrite=overwrite), settings, progress)


def refit(
    file: Path | str, base: Path | str, *, progress: Progress | None = None, **settings: Unpack[RefitOptions]
) -> RefitReport:
    """Write an ordinary LoRA and ordinary embeddings for a LoRA with layer-wise tokens (`.exact.safetensors`, or a
    `.pth` of Mix-of-Show): each token is replaced by its mean over the layers, and keys and values are changed to
    correct the difference.

    The report has the errors that remain in each layer, of the mean alone and of the new LoRA.

    >>> ordinary = lorasmith.refit("mia.exact.safetensors", "tiny-sd")
    >>> ordinary.file.name, [embedding.name for embedding in ordinary.embeddings]
    ('mia-refit.safetensors', ['mia1.safetensors'])
    """
    from lorasmith.fusion.options import refit as refit_lora

    path = Path(file)
    saving: SaveOptions = {
        "output": settings.pop("output", None),
        "dtype": settings.pop("dtype", None),
        "overwrite": settings.pop("overwrite", False),
    }
    named_like = path.with_name(path.name.replace(".exact.safetensors", ".safetensors"))
    return refit_lora(path, base, _output(saving, named_like, "refit"), settings, progress)


def strip(
    file: Path | str, to: str = "public", *, output: Path | str | None = None, overwrite: bool = False
) -> StripReport:
    """Write a copy of a file without private metadata: `to` is `public`, `minimal` or `none` (as `export.metadata`).

    The weights stay the same, byte for byte. Raises LorasmithError if the file cannot be read.

    >>> bare = lorasmith.strip("mia.safetensors", to="none")
    >>> bare.file.name, "ss_learning_rate" in bare.removed
    ('mia-none.safetensors', True)
    """
    from lorasmith.files.strip import strip as strip_file
    from lorasmith.formats.privacy import Level

    target = _output({"output": output, "overwrite": overwrite}, Path(file), to)
    return strip_file(Path(file), cast(Level, to), target)


def ship(file: Path | str, *, output: Path | str | None = None, overwrite: bool = False, **card: Any) -> Path:
    """Write a copy of a file with a card in its metadata, without private metadata; returns its path.

    `card`: `thumbnail` (the path of a picture), `trigger`, `title`, `author`, `license`, `description`, `usage_hint`.
    The weights stay the same, byte for byte. Raises LorasmithError if the file or the picture cannot be read.
    """
    from lorasmith.files.ship import Card
    from lorasmith.files.ship import ship as ship_file

    picture = card.pop("thumbnail", None)
    target = _output({"output": output, "overwrite": overwrite}, Path(file), "ship")
    return ship_file(Path(file), Card(thumbnail=None if picture is None else Path(picture), **card), target)


def _output(saving: SaveOptions, file: Path, suffix: str, ending: str = ".safetensors") -> OutputFile:
    """Where and how to write a new file; by default next to `file`, with the suffix in its name."""
    from lorasmith.files.lora import OutputFile, dtype_named

    path = saving.get("output") or file.with_name(f"{file.stem}-{suffix}{ending}")
    return OutputFile(Path(path), dtype_named(saving.get("dtype")), saving.get("overwrite", False))
