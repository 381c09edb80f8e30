"""The public Python API: the verbs of the command line as functions.

    import lorasmith

    result = lorasmith.train("garp.toml", overrides=["adapter.rank=8"])
    print(result.file, result.loss)

Every function raises `lorasmith.LorasmithError` for what its caller can repair. Nothing is printed; give a
`lorasmith.Progress` to listen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from lorasmith.core.progress import Progress

if TYPE_CHECKING:
    from lorasmith.data.maskers import MaskReport
    from lorasmith.evaluation.results import Evaluation
    from lorasmith.files.lora import Output, Report
    from lorasmith.fusion import FuseReport
    from lorasmith.fusion.options import FuseOptions, RefitOptions
    from lorasmith.fusion.refit_files import RefitReport
    from lorasmith.sampling.options import SampleOptions
    from lorasmith.sampling.run import SampleResult
    from lorasmith.training.config import TrainConfig
    from lorasmith.training.session import TrainResult
    from lorasmith.training.setup.check import CheckResult
    from lorasmith.training.sweep import SweepResult

Source = Path | str | dict[str, Any]
"""A config: the path of a TOML or JSON file, or its table."""


def train(
    config: Source | None = None,
    *,
    overrides: Sequence[str] = (),
    output: Path | str | None = None,
    resume: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a LoRA, or continue a run.

    `overrides`: `key=value` assignments over the config; `output`: the run's folder, in place of the config's;
    `resume`: the folder of a run to continue, or of one of its checkpoints and states to go on from; with the run's own
    settings, unless `config` is given; `overwrite`: move a run that is in the way aside.
    Ctrl-C ends after the step under way and saves; the result then says `finished=False`.
    Raises ConfigError with all problems of the config, LorasmithError for all else that the caller can repair.
    """
    from lorasmith.training import session
    from lorasmith.training.output.folder import reopen

    folder = None if resume is None else Path(resume)
    if folder is not None and config is None:
        settings = reopen(folder, overrides)
    else:
        settings = read_config(config, overrides, output)
    return session.train(settings, progress=progress, resume=folder, overwrite=overwrite)


def check(
    config: Source,
    *,
    overrides: Sequence[str] = (),
    output: Path | str | None = None,
    measure: bool = False,
    pictures: Path | str | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """What a run would do and what is wrong with it, without training: config, images, buckets, length, layers.

    `measure`: also make two real steps in a temporary folder, for seconds per step, peak memory and hours; `pictures`:
    also draw the first batches into this JPEG, images and captions as training gets them. Problems are in the result,
    not raised.
    """
    from lorasmith.training.setup import check as checking

    return checking.check(
        lambda: read_config(config, overrides, output),
        measure=measure,
        progress=progress or Progress(),
        pictures=None if pictures is None else Path(pictures),
    )


class SweepOptions(TypedDict, total=False):
    """How a sweep is run."""

    overrides: Sequence[str]
    """`key=value` for all runs."""
    devices: Sequence[str]
    """Such as `cuda:0`; default: all GPUs, else the CPU."""
    jobs: int | None
    """Runs at a time; default: one for each device."""
    search: int | None
    """So many runs that Optuna proposes, in place of all combinations; `over` may then hold `key=low..high`."""


def sweep(
    config: Source,
    over: Sequence[str],
    out: Path | str,
    *,
    progress: Progress | None = None,
    **running: Unpack[SweepOptions],
) -> SweepResult:
    """Train with every combination of settings (`over`: `["adapter.rank=4,8", "optimizer.lr=1e-4,3e-4"]`), each run in
    a process of its own, and write a table and a picture of the results into `out`. Finished runs are not made again.
    """
    from lorasmith.training.sweep import SweepSettings
    from lorasmith.training.sweep import sweep as work

    source = config if isinstance(config, dict) else Path(config)
    return work(SweepSettings(source, over, Path(out), **running), progress)


def sample(
    base: Path | str,
    prompts: str | Sequence[str] | Path,
    output: Path | str,
    *,
    loras: Sequence[Path | str] = (),
    count: int = 1,
    progress: Progress | None = None,
    **settings: Unpack[SampleOptions],
) -> SampleResult:
    """Draw pictures into a folder: PNG files with their settings inside, and a labelled grid.

    `loras`: files, each with its strength if not 1 (`"garp.safetensors:0.8"`); `count`: pictures of each prompt. A
    prompt may hold `(weights:1.2)`, `<lora:name:0.8>` and options such as `--d 42`. Raises LorasmithError for a file
    that does not fit the base, or settings that do not exist.
    """
    from lorasmith.core.config import validate
    from lorasmith.sampling.run import LoraUse, sample_to_folder
    from lorasmith.sampling.settings import SampleSettings

    chosen = validate(SampleSettings, {**settings, "count": count}, "the settings")
    lines = [prompts] if isinstance(prompts, str) else prompts
    uses = [LoraUse.read(str(lora)) for lora in loras]
    return sample_to_folder(base, lines, Path(output), loras=uses, settings=chosen, progress=progress)


class EvaluateOptions(TypedDict, total=False):
    """What is evaluated besides LoRA files."""

    base: str | Path | None
    """The base model to draw with."""
    drawn: Sequence[Path | str]
    """Folders of pictures that are there."""
    with_base: bool
    """Also the base alone, called with the class word."""


def evaluate(
    images: Path | str,
    loras: Sequence[str | Path] = (),
    *,
    prompts: str | Path | Sequence[str] = "object",
    output: Path | str = "evaluation",
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
    **what: Unpack[EvaluateOptions],
) -> Evaluation:
    """Measure LoRAs (`file.safetensors` or `file.safetensors:0.8`), each a row, against a folder of training images.

    `prompts`: a built-in set (`object`, `character`, `scene`), a file, or a list, with `<TOK>` for the concept.
    `settings`: `trigger`, `class_word`, `count`, `scorer` (`{"kind": "clip", "model": FOLDER}`) and what drawing takes.
    """
    from lorasmith.core.config import validate
    from lorasmith.evaluation.candidates import list_candidates
    from lorasmith.evaluation.prompts import load_prompts
    from lorasmith.evaluation.run import evaluate as work
    from lorasmith.evaluation.settings import EvaluateSettings
    from lorasmith.sampling.loras import LoraUse

    given = {**(settings or {}), "base": None if what.get("base") is None else str(what.get("base"))}
    chosen = validate(EvaluateSettings, given, "the settings")
    uses = [LoraUse.read(str(lora)) for lora in loras]
    folders = [Path(folder) for folder in what.get("drawn", ())]
    rows = list_candidates(uses, folders, chosen.strengths, what.get("with_base", False))
    lines = load_prompts(prompts) if any(row.folder is None for row in rows) else []
    return work(Path(images), rows, lines, Path(output), settings=chosen, progress=progress)


def inspect(file: Path | str, *, plot: Path | str | None = None) -> dict[str, Any]:
    """What a LoRA file holds: kind, rank, layers, trigger words, and how it was made, as plain data.

    `plot`: a picture to draw the size of each block's change into.
    """
    from lorasmith.formats.inspect import inspect as read

    found = read(Path(file))
    if plot is not None:
        from lorasmith.formats.plot import plot as draw

        draw(found["norms"], Path(file).name, Path(plot))
    return found


class SaveOptions(TypedDict, total=False):
    """How a changed file is written."""

    output: Path | str | None
    """The new file; None: beside the old one, with what was done in its name."""
    dtype: str | None
    """`fp32`, `fp16`, `bf16`; None: as the old file (`extract`: fp16)."""
    overwrite: bool
    """Replace a file that is there."""


def convert(
    file: Path | str,
    to: str,
    *,
    base: Path | str | None = None,
    rank: int | None = None,
    words: Sequence[Path | str] = (),
    **saving: Unpack[SaveOptions],
) -> Report:
    """Write a LoRA as `kohya`, `peft`, `portable`, `lycoris`, `diff` or `bundle`.

    `base`: the model that it is for, where its family cannot be told or its change depends on the weights; `rank`: of
    the best LoRA in place of what has no exact form in that format; `words`: embedding files for a bundle. Raises
    LorasmithError if the format cannot hold it.
    """
    from lorasmith.files.convert import convert as work

    more = [Path(word) for word in words]
    return work(Path(file), to, _output(saving, Path(file), to), base=base, rank=rank, words=more)


def resize(
    file: Path | str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    frobenius: float | None = None,
    per_layer: bool = False,
    base: Path | str | None = None,
    **saving: Unpack[SaveOptions],
) -> Report:
    """Write a LoRA with fewer ranks: `rank`, or as many as keep a share of the squared norm (`energy`) or of the norm
    (`frobenius`); with a share, `rank` is the most. `per_layer`: each layer its own rank."""
    from lorasmith.files.lowrank import Cut
    from lorasmith.files.resize import resize as work

    cut = Cut(rank, energy, frobenius, per_layer)
    return work(Path(file), cut, _output(saving, Path(file), "resized"), base=base)


def extract(
    tuned: Path | str,
    base: Path | str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    progress: Progress | None = None,
    **saving: Unpack[SaveOptions],
) -> Report:
    """Write the best LoRA of the difference of two checkpoints, of a rank or with a share of the squared norm."""
    from lorasmith.files.extract import extract as work
    from lorasmith.files.lowrank import Cut

    return work(tuned, base, Cut(rank, energy), _output(saving, Path(tuned), "lora"), progress=progress)


def merge(base: Path | str, loras: Sequence[Path | str], output: Path | str, *, overwrite: bool = False) -> Report:
    """Write a base model, in its own layout, with LoRAs in it (`"garp.safetensors:0.8"`)."""
    from lorasmith.files.lora import Use
    from lorasmith.files.merge import merge as work

    return work(base, [Use.read(lora) for lora in loras], Path(output), overwrite=overwrite)


def combine(
    loras: Sequence[Path | str],
    output: Path | str,
    *,
    base: Path | str | None = None,
    rank: int | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
) -> Report:
    """Write the weighted sum of LoRAs (`"garp.safetensors:0.7"`): exactly, or as the best LoRA of a rank."""
    from lorasmith.files.combine import combine as work
    from lorasmith.files.lora import Use

    target = _output({"output": output, "dtype": dtype, "overwrite": overwrite}, Path(output), "")
    return work([Use.read(lora) for lora in loras], target, base=base, rank=rank)


def fuse(
    files: Sequence[Path | str],
    base: Path | str,
    output: Path | str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Unpack[FuseOptions],
) -> FuseReport:
    """Fuse LoRAs of several concepts into one that does for each what its own did.

    `files`: `"garp.safetensors:0.9=garp"` (strength, and what prompts call it), or one `.json` list of concepts as
    Mix-of-Show has it. The report says what each concept loses, by this and by plainer methods.
    """
    from lorasmith.files.lora import Output
    from lorasmith.fusion.options import fuse as work

    return work(files, base, Output(Path(output), overwrite=overwrite), settings, progress)


def refit(
    file: Path | str, base: Path | str, *, progress: Progress | None = None, **settings: Unpack[RefitOptions]
) -> RefitReport:
    """Write an ordinary LoRA and embeddings of a file whose words have a vector for each layer (`.exact.safetensors`,
    or Mix-of-Show's `.pth`): the mean of each word, and keys and values that make up for the rest.

    The report has the errors that remain, by layer, for the mean alone and for this.
    """
    from lorasmith.fusion.options import refit as work

    source, given = Path(file), dict(settings)
    saving: Any = {key: given.pop(key) for key in SaveOptions.__annotations__ if key in given}
    stem = source.with_name(source.name.replace(".exact.safetensors", ".safetensors"))
    return work(source, base, _output(saving, stem, "refit"), given, progress)


def masks(
    images: Path | str,
    source: str = "alpha",
    *,
    output: Path | str | None = None,
    overwrite: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> MaskReport:
    """Make a mask of the subject for each image of a folder (default: in `images/masks`), and a picture of all.

    `source`: `alpha`, `color` or `rembg`, with its `settings` (`{"color": "white", "tolerance": 0.2}`). Masks that are
    there stay, unless `overwrite`. The result tells of masks that are probably wrong.
    """
    from PIL import Image

    from lorasmith.core.config import validate
    from lorasmith.data.images import decode
    from lorasmith.data.maskers.config import MaskConfig
    from lorasmith.data.maskers.make import make_masks
    from lorasmith.imaging.contact_sheet import mask_contact_sheet

    masker = validate(MaskConfig, {"source": {"kind": source, **(settings or {})}}, "masks").source
    target = None if output is None else Path(output)
    made = make_masks(Path(images), masker, output=target, overwrite=overwrite, progress=progress or Progress())
    shares = made.made | made.kept
    labels = [f"{path.name}: {share:.0%}" for path, share in shares.items()]
    masked = ((decode(path.read_bytes())[0], Image.open(made.mask(path))) for path in shares)
    made.sheet = mask_contact_sheet(masked, labels, made.folder / "contact-sheet.jpg")
    return made


def _output(saving: SaveOptions, file: Path, ending: str) -> Output:
    from lorasmith.files.lora import Output, dtype_named

    output = saving.get("output") or file.with_name(f"{file.stem}-{ending}.safetensors")
    return Output(Path(output), dtype_named(saving.get("dtype")), saving.get("overwrite", False))


def read_config(config: Source | None, overrides: Sequence[str] = (), output: Path | str | None = None) -> TrainConfig:
    """A config as `train` would use it, with all defaults. Raises ConfigError with all problems."""
    from lorasmith.training.config import load_config

    changes = list(overrides)
    if output is not None:
        changes.append(f"output={json.dumps(str(output))}")
    return load_config(config if isinstance(config, dict) else Path(config or ""), changes)
