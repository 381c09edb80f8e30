"""Reads Mix-of-Show's command lines and YAML files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.interpolation import resolve
from lorasmith.compat.options import Option
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.text_files import read_text
from lorasmith.core.yaml_files import parse_yaml

TABLE_OPTIONS = ("replace_mapping", "instance_transform")
"""Endings of keys whose table is the value of one option."""


SUFFIXES = (".yml", ".yaml")
MOST_NAMED = 5
"""Files that an error names at most."""


def normalize_arguments(argv: Sequence[str]) -> list[str]:
    """A command line in the form of the other scripts: `-opt F` as `--opt F`, `--lora-path F` as `--lora_path F`."""
    arguments: list[str] = []
    for argument in argv:
        name, equals_sign, value = argument.partition("=")
        # A negative number is a value and not an option.
        is_number = name.lstrip("-").replace(".", "").isdigit()
        if name.startswith("-") and not is_number:
            name = "--" + name.lstrip("-").replace("-", "_")
        arguments.append(name + equals_sign + value)
    return arguments


def read_yaml(path: Path, options: Sequence[Option]) -> dict[str, Any]:
    """A YAML file as a flat table whose keys are joined with dots. Raises LorasmithError, also for a value where
    `options` have a table."""
    file = find_options_file(path)
    content = parse_yaml(read_text(file), file)
    if not isinstance(content, dict):
        raise LorasmithError(f"{file}: expected keys with values")
    table = flatten(parse_numbers(resolve(content, str(file))))

    problems = shape_problems(table, {option.name for option in options})
    if problems:
        raise ConfigError(problems, str(file))
    return table


def shape_problems(table: Mapping[str, Any], names: Collection[str]) -> list[Problem]:
    """Values where the options `names` have a table, and tables where they have a value."""
    problems: list[Problem] = []
    for key, value in table.items():
        if key in names or value is None:
            continue
        within = sorted(name for name in names if name.startswith(f"{key}."))
        above = [name for name in names if key.startswith(f"{name}.")]
        if within:
            problems.append(Problem(key, f"found {value!r}", f"a table with {', '.join(within)}"))
        elif above:
            problems.append(Problem(above[0], f'found a table with "{key.removeprefix(above[0] + ".")}"', "one value"))
    return problems


def find_options_file(path: Path) -> Path:
    """The YAML file that `-opt` names: the file itself, without its suffix, or the only one of a folder. Raises
    LorasmithError if there is none."""
    if path.is_file():
        return path
    for suffix in SUFFIXES:
        candidate = path.with_name(path.name + suffix)
        if candidate.is_file():
            return candidate

    # People name the folder of a run, or a file of its folder under another name than it has.
    folder = path if path.is_dir() else path.parent
    files = sorted(file for suffix in SUFFIXES for file in folder.glob(f"*{suffix}"))
    if path.is_dir() and len(files) == 1:
        return files[0]
    there = f"; in {folder} there is {', '.join(file.name for file in files[:MOST_NAMED])}" if files else ""
    raise LorasmithError(f"-opt {path}: no such file{there}")


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with keys joined by dots; tables of `TABLE_OPTIONS` stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not name.endswith(TABLE_OPTIONS):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def parse_numbers(value: Any) -> Any:
    """The value with texts such as `1e-3` as numbers.

    YAML 1.1 reads them as text, but OmegaConf, which the original uses, reads them as numbers.
    """
    if isinstance(value, dict):
        return {str(key): parse_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [parse_numbers(inner) for inner in value]
    # Other numbers are read as such by YAML itself.
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def read_mapping(mapping: Any) -> dict[str, str]:
    """A replace_mapping, which may be a table or a list of tables."""
    if isinstance(mapping, list):
        replacements: dict[str, str] = {}
        for table in mapping:
            replacements |= read_mapping(table)
        return replacements
    return {str(old): str(new) for old, new in (mapping or {}).items()}


def read_prompts(source: Any, replacements: dict[str, str]) -> list[str]:
    """The prompts of a text file or list, with replacements. Raises LorasmithError if the file does not exist, or if
    there is no prompt in it."""
    where = "datasets.val_vis.prompts"
    if isinstance(source, str):
        if not Path(source).is_file():
            raise LorasmithError(f"{where}: {source}: no such file (paths start at the folder that you work in)")
        source = read_text(Path(source)).splitlines()
    prompts: list[str] = []
    for line in source:
        prompt = str(line).strip()
        # Replacements may leave double spaces, which are removed after them.
        for old, new in replacements.items():
            prompt = prompt.replace(old, new)
        if prompt:
            prompts.append(" ".join(prompt.split()))
    if not prompts:
        raise LorasmithError(f"{where}: there is no prompt in it")
    return prompts
