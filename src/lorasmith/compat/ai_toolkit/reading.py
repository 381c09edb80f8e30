"""Reads ai-toolkit's YAML and JSON files: a job with one process, as flat tables of keys with their sections."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lorasmith.compat.mixofshow.reading import flatten, parse_numbers
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.text_files import parse_json, read_text
from lorasmith.core.yaml_files import parse_yaml

SUFFIXES = (".yaml", ".yml", ".json", ".jsonc")
VARIABLE = re.compile(r"\$\{([^}]+)\}")
SECTIONS = ("network", "save", "logging", "train", "model", "sample")
JOBS = ("extension", "train")
TYPES = ("sd_trainer", "diffusion_trainer", "ui_trainer")
"""Types of a process that train an image LoRA."""


@dataclass(frozen=True)
class Job:
    """The one process of a file."""

    keys: dict[str, Any]
    """Values by key, with the section before it: `train.lr`."""
    datasets: list[dict[str, Any]]


def looks_like_ai_toolkit(content: Any) -> bool:
    """Whether the content of a YAML or JSON file is a job of ai-toolkit."""
    return isinstance(content, dict) and "job" in content and isinstance(cast(Any, content).get("config"), dict)


def find_file(name: str) -> Path:
    """The file of that name, whose suffix may be left away. Raises LorasmithError if there is none."""
    path = Path(name).expanduser()
    for candidate in (path, *(path.with_name(path.name + suffix) for suffix in SUFFIXES)):
        if candidate.is_file():
            return candidate
    raise LorasmithError(f"{path}: no such file")


def read_job(path: Path, name: str | None, options: Collection[str]) -> Job:
    """The process of a file. `name`: replaces the name in it; `options`: the names of the options that there are.
    Raises LorasmithError for what is no such job."""
    text = VARIABLE.sub(lambda found: environment(found[1], path), read_text(path))
    content = parse_json(text, path) if path.suffix.lower().startswith(".json") else parse_yaml(text, path)
    if not looks_like_ai_toolkit(content):
        raise LorasmithError(f"{path}: not a job of ai-toolkit, which has the keys job and config")
    config = content["config"]
    name = name or config.get("name")
    if not name:
        raise ConfigError([Problem("config.name", "missing", remedy="name the LoRA")], str(path))
    process = only_process(content, path)
    # the original replaces the tag in the whole file
    replaced = json.loads(
        json.dumps(parse_numbers(process), default=str).replace("[name]", json.dumps(str(name))[1:-1])
    )
    return split_sections(
        {"training_folder": config.get("training_folder"), **replaced, "name": str(name)}, path, options
    )


def environment(name: str, path: Path) -> str:
    """The value of an environment variable that the file refers to."""
    value = os.environ.get(name)
    if value is None:
        raise LorasmithError(f"{path}: the environment variable {name} is not set")
    return value


def only_process(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The table of the process. Raises ConfigError for other jobs, naming what they are."""
    job, processes = content["job"], content["config"].get("process")
    if job not in JOBS:
        problem = Problem("job", f'"{job}" does not train a LoRA', ", ".join(JOBS), "other jobs have commands of ours")
        raise ConfigError([problem], str(path))
    if not isinstance(processes, list) or len(processes) != 1 or not isinstance(processes[0], dict):
        problem = Problem("config.process", "must be a list with one table", remedy="write a file for each process")
        raise ConfigError([problem], str(path))
    process: dict[str, Any] = processes[0]
    kind = process.get("type")
    if kind not in TYPES:
        found = f'"{kind}" is not trained here'
        raise ConfigError([Problem("config.process.type", found, ", ".join(TYPES))], str(path))
    return process


def split_sections(process: Mapping[str, Any], path: Path, options: Collection[str]) -> Job:
    """The sections as keys with dots, and the list of data sets. `options`: the names of all options."""
    keys: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in process.items():
        if key == "datasets":
            continue
        if key not in SECTIONS:
            keys[key] = value
        elif isinstance(value, dict):
            keys |= flatten_section(key, value, options)
        elif value is not None:
            problems.append(Problem(key, f"found {value!r}", "a table"))
    datasets = process.get("datasets") or []
    if not isinstance(datasets, list) or not all(isinstance(item, dict) for item in datasets):
        problems.append(Problem("datasets", "is not a list of tables", remedy="write - folder_path: ..."))
    if problems:
        raise ConfigError(problems, str(path))
    return Job(keys, datasets)


def flatten_section(section: str, table: Mapping[str, Any], options: Collection[str]) -> dict[str, Any]:
    """The keys of a section. Tables that are the value of one option stay as they are."""
    whole: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in table.items():
        if f"{section}.{key}" in options:
            whole[f"{section}.{key}"] = value
        else:
            rest[key] = value
    return flatten(rest, f"{section}.") | whole
