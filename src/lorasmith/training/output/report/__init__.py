"""report.html and loss.png: a run as a page for people. Reads only files of the run folder; does not import torch."""

from __future__ import annotations

from pathlib import Path

from lorasmith.core.store import write_text, write_with
from lorasmith.training.output.report.page import page
from lorasmith.training.output.report.plot import plot
from lorasmith.training.output.report.record import PictureCache, read


def write_report(folder: Path, pictures: PictureCache | None = None, *, stopped: bool = False) -> Path:
    """Write `report.html` and `loss.png` into a run folder; returns the path of the former.

    The folder must contain `events.jsonl`. `summary.json`, `config.toml` and previews are included if they exist.
    `pictures`: those of an earlier report of the same run, which are not encoded again; they are replaced by those of
    this one. `stopped`: this process trained the run and makes no further step. Raises LorasmithError if the
    folder holds no run.
    """
    record = read(folder, {} if pictures is None else pictures, stopped=stopped)
    write_with(folder / "loss.png", lambda path: plot(record).save(path, format="PNG"))
    target = folder / "report.html"
    write_text(target, page(record))
    # only those of the last report are kept: in a long run other previews are shown each time
    if pictures is not None:
        pictures.clear()
        pictures.update(record.pictures)
    return target
