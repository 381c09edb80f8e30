"""A whole training session: set up, train, finish. The command and the Python API call `train`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lorasmith.core.devices import available_backends, free_unused
from lorasmith.core.errors import LorasmithError, WriteError
from lorasmith.core.lock import locked
from lorasmith.core.progress import Progress
from lorasmith.core.shell_words import shell_word
from lorasmith.core.store import remove_abandoned, remove_leftovers
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.determinism import deterministic_algorithms
from lorasmith.training.output import checkpoint
from lorasmith.training.output.control import take_requests
from lorasmith.training.run import Run
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.distributed import Ranks, join_ranks
from lorasmith.training.step.loop import fit
from lorasmith.training.step.out_of_memory import OutOfMemoryError


@dataclass(frozen=True)
class TrainResult:
    """What a session made."""

    folder: Path
    file: Path | None
    """The LoRA file; None if the run was stopped before its end."""
    steps: int
    samples: int
    seconds: float
    """Time in training steps."""
    loss: float | None
    """Mean of the last steps."""
    finished: bool
    report: Path | None = None


def train(
    config: TrainConfig,
    progress: Progress | None = None,
    resume: Path | None = None,
    *,
    overwrite: bool = False,
    accept_remarks: bool = False,
) -> TrainResult:
    """Train a LoRA. Ctrl-C or SIGTERM ends it after the current step with a checkpoint, from which `resume` continues.

    Serious remarks on the data of a new run are errors, unless `accept_remarks` is set. If a launcher started this
    process as one of several, they train together (`training.step.distributed`). Raises LorasmithError for what the
    user can repair; the checkpoints and exports made so far stay.
    """
    try:
        result = _train(config, progress, resume, overwrite, accept_remarks)
    except (LorasmithError, KeyboardInterrupt):
        _free_devices()
        raise
    # After any other error a GPU may not be usable any more. Using it again could end the process before the error is
    # reported.
    _free_devices()
    return result


def _free_devices() -> None:
    """Give back the memory of the run: it and its hooks name each other, so its model would stay on a GPU beside that
    of the next run."""
    if available_backends():
        free_unused()


def _train(
    config: TrainConfig, progress: Progress | None, resume: Path | None, overwrite: bool, accept_remarks: bool
) -> TrainResult:
    """See `train`."""
    with (
        deterministic_algorithms(config.deterministic),
        join_ranks(config.device) as ranks,
        run_folder(config, ranks),
    ):
        # Only the first rank reports progress.
        reported = progress if progress and ranks.first else Progress()
        run = build_run(
            config,
            progress=reported,
            resume=resume,
            overwrite=overwrite,
            ranks=ranks,
            accept_remarks=accept_remarks,
        )
        try:
            # The files of the end are written under the same handlers, so that no first signal can cut them off.
            with stop_after_step_on_signal(run), few_cpu_threads(config, run.device):
                fit(run)
                result = finish(config, run)
            ranks.wait()
            return result
        except OutOfMemoryError as error:
            # The weights are those of the last good step, and worth keeping.
            if run.ranks.first and not run.memory.updating:
                checkpoint.save(run)
            raise OutOfMemoryError(f"{error}. {resume_note(run)}") from error
        except LorasmithError as error:
            error.args = (f"{error}\n{resume_note(run)}",)
            raise
        except KeyboardInterrupt:
            run.progress.say(describe_interruption(run))
            raise
        finally:
            if run.cuda_graphs is not None:
                run.cuda_graphs.close()
            for hook in run.hooks:
                hook.close(run)
            run.events.close()
            run.adapters.detach()


@contextmanager
def few_cpu_threads(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Inside the block, torch uses one CPU thread if a GPU computes the steps and the config sets no number.

    The CPU only puts cached tensors together then. With more threads, all of them wait actively for the next step: on
    16 cores that was 12 busy cores for steps of 12 ms.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" and not config.threads:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def prepared_run(
    config: Path | str | dict[str, Any],
    overrides: Sequence[str] = (),
    output: Path | str | None = None,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Iterator[Run]:
    """A run that is ready for its first step, for a training loop of one's own (docs/own-loop.md).

    Images are found, the base is loaded, caches are filled, adapters are attached. The folder of the run is locked
    inside the block; no hook runs. Raises ConfigError and LorasmithError as `lorasmith.train` does.
    """
    changes = [*overrides, *([] if output is None else [f"output={json.dumps(str(output))}"])]
    settings = load_config(config if isinstance(config, dict) else Path(config), changes)
    with deterministic_algorithms(settings.deterministic), run_folder(settings, Ranks()):
        run = build_run(settings, progress=progress, overwrite=overwrite)
        try:
            run.adapters.train()
            yield run
        finally:
            run.events.close()
            run.adapters.detach()


@contextmanager
def run_folder(config: TrainConfig, ranks: Ranks) -> Iterator[None]:
    """The folder of the run, locked for this run and free of what killed processes left in it.

    Raises LorasmithError if another process is using it.
    """
    # The other ranks write nothing.
    if not ranks.first:
        yield
        return
    with locked(config.output, "output"):
        remove_leftovers(config.output)
        if config.data.cache_dir is not None:
            remove_abandoned(config.data.cache_dir)
        # requests to an earlier session of this run
        take_requests(config.output)
        yield


def finish(config: TrainConfig, run: Run) -> TrainResult:
    """Write the last losses; then the report of a finished run, or the checkpoint of a stopped one.

    Raises WriteError if the checkpoint or the report cannot be written.
    """
    config.log.act(run)
    finished = run.state.step >= run.length.steps
    file = config.export.file(run) if finished else None
    # The config may say that nothing is exported at the end.
    if file is not None and not config.export.at_end and not file.exists():
        file = None
    report = None

    if run.ranks.first and finished:
        relative_path = run.relative_path(file) if file else None
        run.events.write("end", run.state.step, seconds=round(run.state.seconds, 2), file=relative_path)
        from lorasmith.training.output.report import write_report

        report = write_report(run.folder)
    elif run.ranks.first:
        try:
            checkpoint.save(run)
        except WriteError as error:
            raise WriteError(f"{error}\nThe run is stopped after step {run.state.step}.") from error
        run.progress.say(
            f"stopped after step {run.state.step} of {run.length.steps}; nothing is lost. "
            f"Continue with: lorasmith train --resume {shell_word(run.folder)}"
        )
    return TrainResult(
        folder=run.folder,
        file=file,
        steps=run.state.step,
        samples=run.state.samples,
        seconds=run.state.seconds,
        loss=run.metrics.smooth_loss,
        finished=finished,
        report=report,
    )


def resume_note(run: Run) -> str:
    """From where the run can be continued, and with which command."""
    continuing = f"lorasmith train --resume {shell_word(run.folder)}"
    steps = [checkpoint.step_of(path) for path in checkpoint.checkpoints_in(run.folder)]
    if not steps and run.state.step == 0:
        return (
            "Nothing was trained. Start again with --overwrite, which moves what was written aside, or with the same "
            f"settings: {continuing}"
        )
    if not steps:
        return f"It has no checkpoint. Train from the start with: {continuing}"
    return f"Its last checkpoint is of step {steps[-1]}. Continue with: {continuing}"


def describe_interruption(run: Run) -> str:
    """What is left of a run that a second signal has interrupted in the middle of its work."""
    return f"interrupted at step {run.state.step} of {run.length.steps}. {resume_note(run)}"


@contextmanager
def stop_after_step_on_signal(run: Run) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal set `run.stopping`; a second signal interrupts at once. No effect outside
    the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        if run.stopping:
            raise KeyboardInterrupt
        run.stopping = True
        if run.state.step >= run.length.steps:
            run.progress.say("all steps are made, the last files are being written; once more to stop at once")
        else:
            run.progress.say("stopping after this step; once more to stop at once")

    # Windows has no SIGHUP. `nohup` ignores it, which stays so.
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        previous = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # Python sets signal handlers in the main thread only
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
