"""Adding to a queue as a Python function. `lorasmith.training.queue` has the rest, which imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorasmith.core.errors import LorasmithError
from lorasmith.core.recipes import config_file

if TYPE_CHECKING:
    from lorasmith.training.queue import Job

REPEATS = re.compile(r"^\d+_")
"""What kohya's tools write before the name of a folder: how often its images are repeated."""


def queue_add(
    config: Path | str,
    overrides: Sequence[str] = (),
    queue: Path | str = "queue",
    *,
    rows: Path | str | None = None,
    folders: Path | str | None = None,
    over: Sequence[str] = (),
    accept_remarks: bool = False,
) -> list[Job]:
    """Add runs to a queue; returns the jobs.

    `rows`: a CSV or TOML file with a job on each line. `folders`: a folder with a folder of images for each job. Both
    train into folders below the `output` of the config, named after the row or the folder. `over`: the job is a sweep
    of every combination of these `key=value,value`, into the `output` of the config. `accept_remarks`: train although
    there are serious remarks on the data.

    Raises ConfigError with all problems of the first config that is wrong; nothing is added then.
    """
    from lorasmith.api import read_config
    from lorasmith.training.queue import NewJob, Queue

    source = config_file(Path(config))
    if rows is not None and folders is not None:
        raise LorasmithError("give one of --rows and --folders, not both")
    variants: list[list[str]] = [[]]
    if rows is not None:
        variants = overrides_of_rows(source, overrides, Path(rows))
    elif folders is not None:
        variants = overrides_of_folders(source, overrides, Path(folders))
    first = first_values(over) if over else []
    # an error in the last row must not leave half of the jobs in the queue
    changes = [[*overrides, *variant] for variant in variants]
    for each in changes:
        read_config(source, [*each, *first])
    opened = Queue(Path(queue))
    new = [NewJob(source, each, accept_remarks, Path.cwd(), over) for each in changes]
    return opened.add_all(new)


def first_values(over: Sequence[str]) -> list[str]:
    """One combination of a sweep, to check its config with. Raises LorasmithError if it is wrong, or a range."""
    from lorasmith.training.sweep.axes import combinations, parse_axes

    return [f"{key}={value}" for key, value in combinations(parse_axes(over))[0].items()]


def overrides_of_rows(config: Path, overrides: Sequence[str], file: Path) -> list[list[str]]:
    """What each row of a table changes. A row without an output gets one from its name."""
    from lorasmith.training.sweep.rows import read_rows, readable_name

    parent = output_of(config, overrides)
    found: list[list[str]] = []
    for number, row in enumerate(read_rows(file), 1):
        changes = [f"{key}={value}" for key, value in row.items()]
        if "output" not in row:
            name = readable_name(row)
            if not name:
                raise LorasmithError(
                    f"{file}: row {number} has neither an output nor a name that can be that of a folder"
                )
            changes.append(f"output={json.dumps((parent / name).as_posix())}")
        found.append(changes)
    return found


def overrides_of_folders(config: Path, overrides: Sequence[str], folder: Path) -> list[list[str]]:
    """What each folder below one changes: images, name, trigger, output."""
    from lorasmith.core.config import override, read_table

    if not folder.is_dir():
        raise LorasmithError(f"--folders {folder}: is not a folder")
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not inner:
        raise LorasmithError(f"--folders {folder}: has no folders in it; each job needs a folder of images")
    parent = output_of(config, overrides)
    has_trigger = bool(override(read_table(config), overrides).get("trigger"))
    found: list[list[str]] = []
    for path in inner:
        name = REPEATS.sub("", path.name) or path.name
        changes = [
            f"name={json.dumps(name)}",
            f"data.images={json.dumps(path.as_posix())}",
            f"output={json.dumps((parent / name).as_posix())}",
        ]
        if not has_trigger:
            changes.append(f"trigger={json.dumps([name])}")
        found.append(changes)
    return found


def output_of(config: Path, overrides: Sequence[str]) -> Path:
    """The `output` of a config, below which each job gets a folder."""
    from lorasmith.core.config import override, read_table

    return Path(str(override(read_table(config), overrides).get("output") or "runs"))
