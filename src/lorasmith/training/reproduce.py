"""`lorasmith reproduce`: train a LoRA file again from its own metadata, and say whether it is the same."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from lorasmith.core.config import read_table
from lorasmith.core.devices import device_name, pick_device
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.data.dataset import Dataset
from lorasmith.data.records import ImageRecord
from lorasmith.families.reader import read_header
from lorasmith.files.compare import Comparison, compare
from lorasmith.files.lora import HISTORY_KEY
from lorasmith.formats.privacy import CONFIG_KEY, PRIVATE_SECTIONS, settings_left_out
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.output.folder import KNOWN_CLASSES, named_code
from lorasmith.training.output.provenance import DATA_KEY, DIGITS, RUN_KEY, content_hash
from lorasmith.training.output.summary import versions
from lorasmith.training.session import train
from lorasmith.training.setup.remarks import build_dataset

NAMES_SHOWN = 5


@dataclass(frozen=True)
class Origin:
    """What a file's metadata say about how it was made."""

    config: dict[str, Any]
    left_out: list[str]
    """Keys of settings that the public config lacks, and that must be given again."""
    run: dict[str, Any]
    """`lorasmith.run`: versions, device, hashes of the base."""
    data: dict[str, Any]
    """`lorasmith.data`: hashes of the images."""
    changes: str = ""
    """What was done to the file after training, such as `resize`."""


@dataclass(frozen=True)
class Reproduction:
    """A LoRA that was trained again, beside the file that it should equal."""

    original: Path
    file: Path | None
    """The new file; None if nothing was trained."""
    differences: list[str] = field(default_factory=list)
    """What is not as it was when the original was made: versions, device, images, base."""
    comparison: Comparison | None = None

    @property
    def identical(self) -> bool:
        return self.comparison is not None and self.comparison.identical

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "original": str(self.original),
            "file": None if self.file is None else str(self.file),
            "identical": self.identical,
            "differences": self.differences,
            "comparison": None if self.comparison is None else self.comparison.plain(),
        }


class SourceOptions(TypedDict, total=False):
    """What `lorasmith.reproduce` takes by name; see `Sources`."""

    base: Path | str | None
    config: Path | str | None
    overrides: Sequence[str]
    output: Path | str | None
    trust: bool


@dataclass(frozen=True)
class Sources:
    """What a file does not hold and the user names."""

    data: Sequence[Path] = ()
    """The images of each subset, in their order."""
    base: str | None = None
    config: Path | None = None
    """The config of the run, in place of that in the metadata."""
    overrides: Sequence[str] = ()
    output: Path | None = None
    trust: bool = False
    """Import the plug-ins and classes that the file names."""

    @classmethod
    def of(cls, data: Sequence[Path], options: SourceOptions) -> Sources:
        base, config, output = options.get("base"), options.get("config"), options.get("output")
        return cls(
            data=data,
            base=None if base is None else str(base),
            config=None if config is None else Path(config),
            overrides=options.get("overrides") or (),
            output=None if output is None else Path(output),
            trust=options.get("trust", False),
        )


def reproduce(
    file: Path, sources: Sources, *, training: bool = True, overwrite: bool = False, progress: Progress | None = None
) -> Reproduction:
    """Train a file again and compare. With `training` false, only say what differs.

    Raises LorasmithError if the metadata do not suffice, or if the run cannot be made.
    """
    progress = progress or Progress()
    origin = read_origin(file, sources.config)
    config = config_of(file, origin, sources)

    differences = [f"the file was changed after training: {origin.changes}"] if origin.changes else []
    differences += [*environment_differences(origin.run, config), *data_differences(origin.data, build_dataset(config))]
    if not training:
        return Reproduction(file, None, differences)
    # what differs is said before hours of training
    for difference in differences:
        progress.say(f"differs: {difference}")

    result = train(config, progress, overwrite=overwrite, accept_remarks=True)
    if not result.finished:
        return Reproduction(file, None, differences)
    new_file = matching_file(config, origin.run)
    base_differences = compare_bases(origin.run, read_origin(new_file, None).run)
    return Reproduction(file, new_file, [*differences, *base_differences], compare(file, new_file))


def read_origin(file: Path, config: Path | None) -> Origin:
    """The metadata of a file, checked. Raises LorasmithError if they do not say how it was made."""
    if not file.is_file():
        raise LorasmithError(f"{file}: no such file")
    _, header = read_header(file)
    metadata: Mapping[str, Any] = header if isinstance(header, dict) else {}
    run, data = read_json(metadata.get(RUN_KEY)), read_json(metadata.get(DATA_KEY))
    text, changes = str(metadata.get(CONFIG_KEY) or ""), str(metadata.get(HISTORY_KEY) or "")
    if not run or not (text or config):
        raise LorasmithError(
            f"{file}: its metadata do not say how it was made ({RUN_KEY} and {CONFIG_KEY} are needed): it is of "
            'another trainer, of Lorasmith before 0.2, or was written with export.metadata = "none" or "minimal"'
        )
    if config is not None:
        return Origin(read_table(config), [], run, data, changes)
    try:
        return Origin(tomllib.loads(text), settings_left_out(text), run, data, changes)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise LorasmithError(f"{file}: {CONFIG_KEY} in its metadata is damaged ({error})") from None


def read_json(text: object) -> dict[str, Any]:
    """A metadata field that is a JSON object; empty if it is anything else."""
    try:
        value = json.loads(str(text))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def config_of(file: Path, origin: Origin, sources: Sources) -> TrainConfig:
    """The config that trains the file again. Raises LorasmithError if something is missing, or if the file names code
    and is not trusted."""
    table = repeated_table(file, origin, sources)
    if not sources.trust:
        plugins = table.get("plugins") or []
        refuse_code(file, plugins if isinstance(plugins, list) else [plugins])
    config = load_config(table, list(sources.overrides))
    if not sources.trust:
        refuse_code(file, [name for name in named_code(config) if not name.startswith(KNOWN_CLASSES)])
    return config


def repeated_table(file: Path, origin: Origin, sources: Sources) -> dict[str, Any]:
    """The settings of the run: what does not change weights is left out, and what lies elsewhere is named.

    Raises LorasmithError for settings that neither the file nor the user names.
    """
    given = {text.partition("=")[0].strip() for text in sources.overrides}
    missing = [key for key in origin.left_out if key not in given]
    if missing:
        raise LorasmithError(
            f"{file}: its public metadata lack {', '.join(missing)}; give them as KEY=VALUE, or the config of the run "
            "with --config"
        )
    table = {key: value for key, value in origin.config.items() if key not in PRIVATE_SECTIONS}
    table["output"] = str(sources.output or Path(f"{file.stem}-reproduced"))
    table["name"] = file.stem.removesuffix(".exact")
    table["log"] = {"tensorboard": False}
    table["data"] = data_table(table.get("data"), sources.data)
    table["export"] = export_table(origin.run)
    if sources.base is not None:
        table["base"] = sources.base

    # sums over numbers depend on how many threads share them
    threads = origin.run.get("threads")
    if origin.run.get("device") == "cpu" and isinstance(threads, int) and threads > 0:
        table.setdefault("threads", threads)
    return table


def refuse_code(file: Path, modules: Sequence[object]) -> None:
    """Raises LorasmithError if a file names code to import."""
    if modules:
        raise LorasmithError(
            f"{file}: names code to import: {', '.join(map(str, modules))}. If the file is your own, or you know the "
            "code, give --trust"
        )


def data_table(data: object, folders: Sequence[Path]) -> dict[str, Any]:
    """The section `data` with the folders that the user named, one for each subset."""
    table = dict(data) if isinstance(data, dict) else {}
    table.pop("cache_dir", None)
    subsets = table.get("subsets") or []
    count = len(subsets) or 1
    if not folders:
        return table
    if len(folders) != count:
        raise LorasmithError(
            f"--data: {len(folders)} given, but the run has {count} sources of images; give --data for each, in order"
        )
    if subsets:
        table["subsets"] = [{**dict(s), "images": str(f)} for s, f in zip(subsets, folders, strict=True)]
    else:
        table["images"] = str(folders[0])
    return table


def export_table(run: Mapping[str, Any]) -> dict[str, Any]:
    """The export that writes the same kind of file: of the same step, dtype and format."""
    written = run.get("file")
    table = {key: written[key] for key in ("dtype", "format") if key in written} if isinstance(written, dict) else {}
    if is_numbered(run):
        table["every_steps"] = run["step"]
    return table


def is_numbered(run: Mapping[str, Any]) -> bool:
    """Whether the file was written in the course of its run."""
    step, steps = run.get("step"), run.get("steps")
    return isinstance(step, int) and isinstance(steps, int) and 0 < step < steps


def matching_file(config: TrainConfig, run: Mapping[str, Any]) -> Path:
    """The file of the new run that should equal the original."""
    name = config.file_name
    if is_numbered(run):
        name = f"{name}-{run['step']:06d}"
    exact = isinstance(run.get("file"), dict) and run["file"].get("exact")
    return config.output / (f"{name}.exact.safetensors" if exact else f"{name}.safetensors")


def environment_differences(run: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Versions and devices that are not those of the original."""
    differences: list[str] = []
    before = run.get("versions")
    now = versions()
    for library, version in sorted((before if isinstance(before, dict) else {}).items()):
        if now.get(library) != version:
            differences.append(f"{library} {version} then, {now.get(library, 'not installed')} now")
    device = pick_device(config.device)
    then = str(run.get("device_name", run.get("device")))
    here = device_name(device)
    # the number of threads is set to that of the original
    if then != here and (run.get("device"), device.type) != ("cpu", "cpu"):
        differences.append(f"device {then} then, {here} now")
    if run.get("ranks", 1) != 1:
        differences.append(f"{run['ranks']} processes then, 1 now")
    return differences


def data_differences(data: Mapping[str, Any], dataset: Dataset) -> list[str]:
    """Images that are new, missing, or have other captions, masks or settings."""
    if data.get("all") == dataset.fingerprint()[:DIGITS]:
        return []
    differences: list[str] = []
    for name, records in (("trained", dataset.records), ("held_out", dataset.validation)):
        hashes = data.get(name)
        if isinstance(hashes, list):
            differences += record_differences(name.replace("_", " "), hashes, records)
    return differences or ["the data: other images, captions or settings of [data]"]


def record_differences(name: str, hashes: Sequence[Any], records: Sequence[ImageRecord]) -> list[str]:
    """The differences of the images that are trained or held out."""
    contents = dict(pair for pair in hashes if isinstance(pair, list) and len(pair) == 2)
    here = {record.digest[:DIGITS] for record in records}
    new = [record.path.name for record in records if record.digest[:DIGITS] not in contents]
    changed = [
        record.path.name
        for record in records
        if contents.get(record.digest[:DIGITS], content_hash(record)) != content_hash(record)
    ]
    missing = len(set(contents) - here)
    differences: list[str] = []
    if new:
        differences.append(f"{name} images that were not in the run: {names(new)}")
    if missing:
        differences.append(f"{missing} {name} images of the run are not here")
    if changed:
        differences.append(f"{name} images with other captions, masks or settings: {names(changed)}")
    return differences


def names(texts: Sequence[str]) -> str:
    more = len(texts) - NAMES_SHOWN
    return ", ".join(texts[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def compare_bases(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The parts of the base whose weights are others than those of the original, and another precision."""
    hashes, new_hashes = before.get("base"), now.get("base")
    if not isinstance(hashes, dict) or not isinstance(new_hashes, dict):
        return []
    parts = [part for part, value in hashes.items() if new_hashes.get(part) != value]
    differences = [f"the base: other weights of {', '.join(parts)}"] if parts else []
    for key in ("precision", "cuda_graph", "deterministic"):
        if before.get(key) != now.get(key):
            differences.append(f"{key} {before.get(key)} then, {now.get(key)} now")
    return differences
