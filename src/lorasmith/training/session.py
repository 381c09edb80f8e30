"""A whole training session: build, train, close; what the command and the Python API call."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lorasmith.core.progress import Progress
from lorasmith.training.config import TrainConfig
from lorasmith.training.output import checkpoint
from lorasmith.training.run import Run
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.distributed import join_ranks
from lorasmith.training.step.loop import fit


@dataclass(frozen=True)
class TrainResult:
    """What a session left behind."""

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
    config: TrainConfig, *, progress: Progress | None = None, resume: Path | None = None, overwrite: bool = False
) -> TrainResult:
    """Train a LoRA. Ctrl-C, or SIGTERM, ends after the step under way with a checkpoint; see `resume`.

    In a process that a launcher started as one of several, these train together (`train.ranks`).
    Raises LorasmithError for what the user can repair; checkpoints and exports made so far stay.
    """
    with join_ranks(config.device) as ranks:
        listener = progress if progress and ranks.first else Progress()
        run = build_run(config, progress=listener, resume=resume, overwrite=overwrite, ranks=ranks)
        try:
            with stopping_softly(run):
                fit(run)
            result = close(run)
            ranks.wait()
            return result
        finally:
            if run.cuda_graphs is not None:
                run.cuda_graphs.close()
            for hook in run.hooks:
                hook.close(run)
            run.events.close()
            run.adapters.detach()


def close(run: Run) -> TrainResult:
    """Read the last losses, save what a stopped run needs, write the report."""
    run.config.log.act(run)
    finished = run.state.step >= run.length.steps
    file = run.config.export.file(run) if finished else None
    report = None
    if not run.ranks.first:
        pass
    elif finished:
        shown = run.relative_path(file) if file else None
        run.events.write("end", run.state.step, seconds=round(run.state.seconds, 2), file=shown)
        from lorasmith.training.output.report import write_report

        report = write_report(run.folder)
    else:
        checkpoint.save(run)
        run.progress.say(
            f"stopped after step {run.state.step} of {run.length.steps}; nothing is lost. "
            f"Continue with: lorasmith train --resume {run.folder}"
        )
    state = run.state
    return TrainResult(run.folder, file, state.step, state.samples, state.seconds, run.metrics.smooth, finished, report)


@contextmanager
def stopping_softly(run: Run) -> Iterator[None]:
    """Ctrl-C and SIGTERM set `run.stopping`; a second one interrupts at once. Outside the main thread: no change."""

    def stop(number: int, frame: FrameType | None) -> None:
        if run.stopping:
            raise KeyboardInterrupt
        run.stopping = True
        run.progress.say("stopping after this step; once more to stop at once")

    try:
        old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
