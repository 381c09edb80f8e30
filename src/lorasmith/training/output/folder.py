"""The folder of a run: how a new run claims it, and how it is found again to resume the run."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from lorasmith.core.config import read_table
from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import NAME as LOCK
from lorasmith.core.registry import Component, Config
from lorasmith.core.shell_words import shell_word
from lorasmith.core.store import write_text
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.output.events import Events

CONFIG = "config.toml"
STATE = "state.json"
KNOWN_CLASSES = ("bitsandbytes.", "dadaptation.", "lion_pytorch.", "prodigyopt.", "schedulefree.")
"""Packages of optimizers that Lorasmith itself offers to install; their classes need no trust."""


def claim(folder: Path, overwrite: bool) -> str:
    """Make sure that a new run may use `folder`. With `overwrite`, an older run in it is moved aside.

    Returns a message for the user, or an empty string. Raises LorasmithError if the path is a file, or if the folder
    holds a run and `overwrite` is false.
    """
    if folder.is_file():
        raise LorasmithError(f"output: {folder} is a file; it must be a folder, or a path that does not exist yet")
    if not (folder / CONFIG).is_file():
        return ""
    if not overwrite:
        raise LorasmithError(
            f"output: {folder} already holds a run. Continue it with: lorasmith train --resume {shell_word(folder)}; "
            "or choose another output; or give --overwrite, which moves the old run aside."
        )
    # the old run is moved, never deleted: it may be hours of work. The folder itself stays, since it is locked.
    candidates = (folder.with_name(f"{folder.name}.old-{i}") for i in count(1))
    aside = next(path for path in candidates if not path.exists())
    aside.mkdir()
    for path in list(folder.iterdir()):
        if path.name != LOCK:
            path.rename(aside / path.name)
    return f"the run that was in {folder} is now in {aside}"


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write the complete config into the run folder. Training with it repeats the run."""
    write_text(folder / CONFIG, "# Everything that this run used, defaults included.\n" + config.to_toml())


@dataclass(frozen=True)
class ResumePoint:
    """What `--resume` names."""

    run: Path
    """The folder of the run to continue."""
    checkpoint: Path | None = None
    """The checkpoint to continue from; None: the newest."""
    id: str = ""
    """The id of the run that made the checkpoint. Another run may be in its folder by now."""

    @property
    def config(self) -> Path:
        """The config file of the run. If a checkpoint is named whose run was moved, deleted or replaced, this is the
        config file in the checkpoint."""
        in_run = self.run / CONFIG
        if self.checkpoint is None or (in_run.is_file() and self.belongs_to(self.run)):
            return in_run
        return self.checkpoint / CONFIG

    def stays_inside(self) -> bool:
        """Whether the run is where its checkpoint lies, or is there and made it. The path that a checkpoint from
        somebody else names can lead anywhere."""
        if self.checkpoint is None:
            return True
        around = self.checkpoint.resolve().parent
        if around.name == "checkpoints":
            around = around.parent
        if self.run.resolve().is_relative_to(around):
            return True
        return bool(self.id) and self.belongs_to(self.run)

    def belongs_to(self, folder: Path) -> bool:
        """Whether the run in `folder` is the run to continue."""
        if self.run.resolve() != folder.resolve():
            return False
        return not self.id or Events(folder, tensorboard=False).id == self.id


def find_resume_point(path: Path) -> ResumePoint:
    """The run that is continued, from the path of its folder or of a checkpoint's folder. Raises LorasmithError if it
    is neither."""
    state_file = path / STATE
    if state_file.is_file():
        try:
            state = json.loads(state_file.read_text(encoding="utf-8"))
            # checkpoints of older versions do not name their run, but are always in its folder
            run = state.get("run", "../..")
            run_id = state.get("id", "")
            if not isinstance(run, str) or not isinstance(run_id, str):
                raise ValueError
        except (OSError, ValueError, AttributeError, RecursionError):
            raise LorasmithError(f"--resume: {state_file} cannot be read; name another checkpoint") from None
        point = ResumePoint(Path(os.path.normpath(path / run)), path, run_id)
    else:
        point = ResumePoint(path)

    try:
        exists = point.config.is_file()
    except OSError:
        # the path that the state names is too long for the system
        exists = False
    if not exists:
        raise LorasmithError(
            f"--resume: {path} holds no run (no {CONFIG} in it). Name the output folder of the run to continue, or one "
            "of its checkpoints."
        )
    return point


def reopen(
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    output: Path | None = None,
    trust: bool = False,
    trusted: Collection[str] = (),
) -> TrainConfig:
    """The config of a run to continue, changed by `key=value` overrides. `folder`: the run's or a checkpoint's.

    A folder may come from somebody else, so it can neither name code that is imported nor a place outside of itself
    that is written to: `trusted` are the plug-ins and classes that the user named, `output` is the folder of the run
    that the user named, and with `trust` everything in the folder is believed. Raises LorasmithError otherwise.
    """
    point = find_resume_point(folder)
    if output is None:
        output = point.run
        if not trust and not point.stays_inside():
            raise LorasmithError(
                f"--resume: {point.checkpoint} says that its run is in {point.run}, outside of its folder, and that "
                "run is not there. Name the folder of the run with --output; or give --trust if the state is your own."
            )

    # Before 0.2 images without a caption were trained on the empty text; such a run continues so.
    table = read_table(point.config)
    changes = list(overrides)
    data = table.get("data", {})
    if isinstance(data, dict) and "empty_captions" not in data:
        changes.insert(0, "data.empty_captions=true")

    # Plug-ins are imported when a config is read, so they are checked before. Classes are imported when they are used.
    if not trust:
        require_trusted_plugins(point, table, overrides, trusted)
    config = load_config(point.config, changes).model_copy(update={"output": output})
    if not trust:
        require_trusted_classes(point, config, overrides, trusted)
    return config


def require_trusted_plugins(
    point: ResumePoint, table: Mapping[str, Any], overrides: Sequence[str], trusted: Collection[str]
) -> None:
    """Raises LorasmithError for a plug-in of a folder's config that the user has not named too."""
    plugins = table.get("plugins", [])
    names = [str(name) for name in plugins] if isinstance(plugins, list) else [str(plugins)]
    plugin_overrides = [text for text in overrides if text.startswith("plugins")]
    repeated = [name for name in names if any(f'"{name}"' in text for text in plugin_overrides)]
    require_trusted(point, names, [*repeated, *trusted])


def require_trusted_classes(
    point: ResumePoint, config: TrainConfig, overrides: Sequence[str], trusted: Collection[str]
) -> None:
    """Raises LorasmithError for a class of a folder's config that the user has not named and that is not well known."""
    classes = [name for component in components_of(config) for name in component.imported_names()]
    repeated = [name for name in classes if any(name in text for text in overrides)]
    require_trusted(point, classes, [*KNOWN_CLASSES, *repeated, *trusted])


def require_trusted(point: ResumePoint, names: Sequence[str], trusted: Collection[str]) -> None:
    """Raises LorasmithError if the config of a resumed run names code that the user has not named.

    A trusted name that ends with a dot stands for all classes of a package.
    """
    packages = tuple(name for name in trusted if name.endswith("."))
    foreign = [str(name) for name in names if name not in trusted and not str(name).startswith(packages)]
    if foreign:
        raise LorasmithError(
            f"--resume: {point.config} names code to import: {', '.join(foreign)}. If the run is your own, or you know "
            "the code, give --trust; otherwise read the file first."
        )


def named_code(config: TrainConfig) -> list[str]:
    """The plug-ins and the classes outside Lorasmith that a config names."""
    classes = [name for component in components_of(config) for name in component.imported_names()]
    return [*config.plugins, *classes]


def components_of(settings: object) -> Iterator[Component]:
    """All components in a config, however deep they are."""
    if isinstance(settings, Component):
        yield settings
    if isinstance(settings, Config):
        for name in type(settings).model_fields:
            yield from components_of(getattr(settings, name))
    elif isinstance(settings, list | tuple):
        for member in settings:
            yield from components_of(member)
