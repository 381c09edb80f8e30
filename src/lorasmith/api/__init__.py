"""The public Python API: the commands of the command line as functions.

    import lorasmith

    result = lorasmith.train("garp.toml", overrides=["adapter.rank=8"])
    print(result.file, result.loss)

Every function raises `lorasmith.LorasmithError` for mistakes that the caller can correct. Nothing is printed; pass a
`lorasmith.Progress` to get messages and progress.

Modules are imported inside the functions, so that `import lorasmith` and the command line start fast.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lorasmith.api.files import SaveOptions, combine, convert, extract, fuse, inspect, merge, refit, resize, ship, strip
from lorasmith.api.pictures import caption, masks
from lorasmith.api.queue import queue_add
from lorasmith.compat.foreign_keys import explains_foreign_keys
from lorasmith.core.errors import ConfigError
from lorasmith.core.progress import Progress

if TYPE_CHECKING:
    from lorasmith.api.first_config import NewConfig
    from lorasmith.evaluation.options import EvaluateOptions
    from lorasmith.evaluation.results import Evaluation
    from lorasmith.sampling.options import SampleOptions
    from lorasmith.sampling.run import SampleResult
    from lorasmith.training.bench.run import BenchResult, BenchTable
    from lorasmith.training.config import TrainConfig
    from lorasmith.training.doctor import Diagnosis
    from lorasmith.training.reproduce import Reproduction, SourceOptions
    from lorasmith.training.session import TrainResult
    from lorasmith.training.setup.check_result import CheckResult
    from lorasmith.training.sweep import SweepResult
    from lorasmith.training.sweep.options import SweepOptions

__all__ = [
    "SaveOptions",
    "Source",
    "bench",
    "caption",
    "check",
    "combine",
    "convert",
    "doctor",
    "evaluate",
    "extract",
    "fuse",
    "inspect",
    "masks",
    "merge",
    "new_config",
    "queue_add",
    "read_config",
    "refit",
    "report",
    "reproduce",
    "resize",
    "sample",
    "ship",
    "strip",
    "sweep",
    "train",
]

Source = Path | str | dict[str, Any]
"""A training config: the path of a TOML or JSON file, the name of a recipe (`"sd15-character"`), or a table."""


def train(
    config: Source | None = None,
    *,
    overrides: Sequence[str] = (),
    output: Path | str | None = None,
    resume: Path | str | None = None,
    overwrite: bool = False,
    trust: bool = False,
    accept_remarks: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a LoRA, or continue a run.

    `overrides`: `key=value` assignments that replace values of the config. `output`: the folder of the run, in place of
    the config's. `resume`: the folder of a run to continue, or of one of its checkpoints or states; the settings are
    those of that run unless `config` is given. `overwrite`: rename a run that is in the output folder already. `trust`:
    the folder of `resume` may name plug-ins and classes, which are imported, and a folder outside of itself.
    `accept_remarks`: train although there are serious remarks on the data, which `check` lists.

    Ctrl-C stops after the current step and saves a checkpoint; the result then has `finished=False`. Raises ConfigError
    with all problems of the config, and LorasmithError for all other mistakes.

    >>> result = lorasmith.train("mia.toml", overrides=["adapter.rank=8"], output="runs/rank-8")
    >>> result.finished, result.steps
    (True, 2)
    >>> result.file.as_posix()
    'runs/rank-8/rank-8.safetensors'
    """
    folder = None if resume is None else Path(resume)
    if folder is not None and config is None:
        from lorasmith.training.output.folder import reopen

        settings = reopen(folder, overrides, output=None if output is None else Path(output), trust=trust)
    else:
        settings = read_config(config, overrides, output)
    from lorasmith.training.config import missing_files_of

    missing = missing_files_of(settings)
    if missing:
        raise ConfigError(missing, "" if config is None or isinstance(config, dict) else str(config))
    # What trains takes long to import, so a config that is wrong is answered before.
    from lorasmith.training import session

    return session.train(settings, progress=progress, resume=folder, overwrite=overwrite, accept_remarks=accept_remarks)


@explains_foreign_keys
def read_config(config: Source | None, overrides: Sequence[str] = (), output: Path | str | None = None) -> TrainConfig:
    """A config as `train` uses it, with all defaults. Raises ConfigError with all problems."""
    from lorasmith.training.config import load_config

    changes = list(overrides)
    if output is not None:
        changes.append(f"output={json.dumps(str(output))}")
    return load_config(config if isinstance(config, dict) else Path(config or ""), changes)


def check(
    config: Source,
    *,
    overrides: Sequence[str] = (),
    output: Path | str | None = None,
    measure: bool = False,
    pictures: Path | str | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Find out what a run would do, and its problems, without training: config, images, buckets, length, layers.

    `measure`: also run two steps in a temporary folder, for seconds per step, peak memory and hours. `pictures`: also
    write the first batches, images and captions as training gets them, into this JPEG. Problems are in the result
    (`errors`, `warnings`); they are not raised.

    >>> found = lorasmith.check("mia.toml", overrides=["steps=100"])
    >>> found.errors
    []
    >>> found.length["steps"], found.length["views_per_image"]
    (100, 50.0)
    """
    from lorasmith.training.setup.check_result import CheckResult

    try:
        settings = read_config(config, overrides, output)
    except ConfigError as error:
        return CheckResult(errors=list(error.problems))
    # What checks a valid config imports torch, so a config that is wrong is answered before.
    from lorasmith.training.setup import check as checking

    return checking.check(
        settings,
        measure=measure,
        progress=progress or Progress(),
        pictures=None if pictures is None else Path(pictures),
    )


def new_config(
    base: str,
    images: Path | str,
    output: Path | str,
    trigger: str = "",
    subject: str = "character",
    memory: float = 12.0,
) -> NewConfig:
    """A first config, with the reasons in it, from what the LoRA is of and what there is to train it.

    `subject`: `character`, `object`, `style` or `concept`. `memory`: GiB of the card. The base is identified by its
    headers; the batch is the largest that the memory forecast allows. Nothing is written. Raises LorasmithError if
    there is no such base or no image in the folder, or an answer is not allowed.
    """
    from lorasmith.api.first_config import make_config

    return make_config(base, Path(images).as_posix(), Path(output).as_posix(), trigger, subject, memory)


def reproduce(
    file: Path | str,
    data: Sequence[Path | str] = (),
    *,
    training: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    **sources: Unpack[SourceOptions],
) -> Reproduction:
    """Train a LoRA file of Lorasmith again from its metadata, and compare the two.

    `data`: the images of each subset. `training`: if false, only find what differs from the run that made the file.
    `sources`: what the metadata lack (`base`, `config`, `overrides`), `output`, and `trust` in the code that they name.

    Raises LorasmithError if the metadata do not suffice, and ConfigError for problems of the data.

    >>> compared = lorasmith.reproduce("mia.safetensors", ["photos/mia"], base="tiny-sd", training=False)
    >>> compared.differences
    []
    """
    from lorasmith.training.reproduce import Sources
    from lorasmith.training.reproduce import reproduce as train_again

    folders = [Path(folder) for folder in data]
    return train_again(
        Path(file), Sources.of(folders, sources), training=training, overwrite=overwrite, progress=progress
    )


def doctor(device: str = "auto", *, self_test: bool = True, progress: Progress | None = None) -> Diagnosis:
    """Look at this machine: devices, torch's build, memory, disk, optional parts, caches.

    `self_test`: also train ten steps of the embedded base on `device`, and compare the loss with the known one. What is
    wrong is in the result (`findings`, `ok`); it is not raised.

    >>> lorasmith.doctor("cpu", self_test=False).ok
    True
    """
    from lorasmith.training.doctor import diagnose

    return diagnose(device, self_test=self_test, progress=progress)


@explains_foreign_keys
def bench(*, progress: Progress | None = None, **options: Unpack[BenchTable]) -> BenchResult:
    """Measure time and memory of training steps, each contender in a process of its own, a few steps at a time in
    turns.

    The options are those of `lorasmith bench`: `base`, `resolution`, `batches`, `precision`, `adapters`, `rank`,
    `layers`, `memory`, `against`, `device`, `cuda_graph`, `steps`, `turns`, `start_together`, `work`. Raises
    LorasmithError for what cannot be measured; a contender that fails on the way has an `error` in its row.
    """
    from lorasmith.training.bench.run import BenchOptions, run_bench

    return run_bench(BenchOptions(**options), progress or Progress())


def sweep(
    config: Source,
    over: Sequence[str | Path],
    out: Path | str,
    *,
    overrides: Sequence[str] = (),
    devices: Sequence[str] = (),
    jobs: int | None = None,
    search: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[SweepOptions],
) -> SweepResult:
    """Train with every combination of settings, and write a table and a picture of the results into `out`.

    `over`: settings and their values (`["adapter.rank=4,8", "optimizer.lr=1e-4,3e-4"]`), and the path of a CSV or TOML
    file of runs that differ in several settings at once (`[Path("characters.csv")]`). `overrides`: `key=value` for
    all runs. `devices`: such as `cuda:0`; default: all GPUs, else the CPU. `jobs`: the number of runs at a time;
    default: one for each device. `search`: a number of runs whose values Optuna proposes, in place of all combinations;
    `over` may then have `key=low..high`. `rank_by`: `loss` (default), the held-out loss of the best weights, or one of
    the four numbers of the hook `scores`, such as `likeness`. `on`: `local`, or the engine that runs them, `ray` or
    `slurm`, with `gpus_per_run`, `cpus_per_run` and `on_options` (`["partition=gpu"]`).

    Each run is a separate process. Runs in `out` that are finished are not repeated.

    >>> result = lorasmith.sweep("mia.toml", ["adapter.rank=2,4"], "sweeps/rank")
    >>> [run["state"] for run in result.runs]
    ['finished', 'finished']
    """
    from lorasmith.training.sweep import SweepSettings
    from lorasmith.training.sweep import sweep as run_sweep
    from lorasmith.training.sweep.options import take_executor

    source = config if isinstance(config, dict) else Path(config)
    axes = [text for text in over if isinstance(text, str)]
    rows = next((path for path in over if isinstance(path, Path)), None)
    executor = take_executor(options, devices)
    rank_by = options.get("rank_by", "loss")
    settings = SweepSettings(source, axes, Path(out), overrides, executor, jobs, search, rank_by, rows)
    return run_sweep(settings, progress)


def report(run: Path | str) -> Path:
    """Write `report.html` and `loss.png` of a run, also of one that is under way; returns the path of the former.

    Raises LorasmithError if the folder holds no run.
    """
    from lorasmith.training.output.report import write_report

    return write_report(Path(run))


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
    """Generate pictures into a folder: PNG files with their settings inside, and a labelled grid.

    `prompts`: one prompt, a list, or the path of a file of prompts. A prompt may contain `(emphasis:1.2)`,
    `<lora:name:0.8>` and options such as `--d 42`. `loras`: files, each with its strength if it is not 1
    (`"garp.safetensors:0.8"`). `count`: pictures of each prompt. `settings`: those of `lorasmith sample`.

    Raises ConfigError for unknown or wrong settings, and LorasmithError for a file that does not fit the base model.

    >>> drawn = lorasmith.sample("tiny-sd", "a photo of mia", "pictures", loras=["mia.safetensors:0.8"], steps=2)
    >>> len(drawn.files), drawn.grid.name
    (1, 'grid.png')
    """
    from lorasmith.core.config import validate
    from lorasmith.sampling.loras import LoraUse
    from lorasmith.sampling.run import sample_to_folder
    from lorasmith.sampling.settings import SampleSettings

    return sample_to_folder(
        base,
        [prompts] if isinstance(prompts, str) else prompts,
        Path(output),
        loras=[LoraUse.read(str(lora)) for lora in loras],
        settings=validate(SampleSettings, {**settings, "count": count}, "the settings"),
        progress=progress,
    )


def evaluate(
    images: Path | str,
    loras: Sequence[str | Path] = (),
    *,
    prompts: str | Path | Sequence[str] = "object",
    output: Path | str = "evaluation",
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Measure how well LoRAs show their concept, by the training images, and how well they follow prompts.

    `images`: the folder of training images. `loras`: files, each with its strength if it is not 1
    (`"garp.safetensors:0.8"`). `prompts`: a built-in set (`object`, `character`, `scene`), a file, or a list, with
    `<TOK>` in place of the concept. `settings`: `trigger`, `class_word`, `count`, `scorer` (`{"kind": "clip", "model":
    FOLDER}`) and those of `sample`.

    Returns a row for each candidate; numbers and report are in `output` too. Raises ConfigError for wrong settings, and
    LorasmithError if nothing is to be evaluated, a file is missing, or the scorer cannot be loaded.

    >>> settings = {"trigger": "mia", "class_word": "robot", "count": 1, "steps": 2, "scorer": {"kind": "judge"}}
    >>> prompts, loras = ["a photo of <TOK>"], ["mia.safetensors"]
    >>> result = lorasmith.evaluate("photos/mia", loras, base="tiny-sd", prompts=prompts, settings=settings)
    >>> [row.name for row in result.rows]
    ['mia']
    """
    from lorasmith.core.config import validate
    from lorasmith.evaluation.candidates import list_candidates
    from lorasmith.evaluation.prompts import load_prompts
    from lorasmith.evaluation.run import evaluate as run_evaluation
    from lorasmith.evaluation.settings import EvaluateSettings
    from lorasmith.sampling.loras import LoraUse

    table = dict(settings or {})
    base = options.get("base")
    table["base"] = None if base is None else str(base)
    validated = validate(EvaluateSettings, table, "the settings")
    uses = [LoraUse.read(str(lora)) for lora in loras]
    folders = [Path(folder) for folder in options.get("drawn", ())]
    candidates = list_candidates(uses, folders, validated.strengths, options.get("with_base", False))
    # prompts are not needed, and may be missing, where all pictures exist
    generates = any(candidate.folder is None for candidate in candidates)
    prompt_list = load_prompts(prompts) if generates else []
    return run_evaluation(Path(images), candidates, prompt_list, Path(output), settings=validated, progress=progress)
