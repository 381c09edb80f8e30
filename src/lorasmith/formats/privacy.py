"""How much the metadata of a file tell: the one place where names, captions and paths are taken out.

Everything that is written into a file passes `filter_metadata`. Levels, from most to least:

* `full`: all metadata. Of an absolute path only the last part is written, at every level.
* `public`: without the names of folders and data files, captions, their tags, prompts, and fields that are not known.
* `minimal`: what programs need to load the file, and the model spec (what sd-scripts' `no_metadata` writes).
* `none`: what programs need to load the file.

Rules name what is kept, not what is removed, so a field that nobody has thought of stays private.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal, cast

from lorasmith.core.config import to_toml

Level = Literal["full", "public", "minimal", "none"]
CONFIG_KEY = "lorasmith.config"

NEEDED = frozenset(
    {
        "format",
        "lora_adapter_metadata",
        "lorasmith.conditions",
        "lorasmith.plugins",
        "lorasmith.words",
        "modelspec.architecture",
        "modelspec.implementation",
        "modelspec.prediction_type",
        "modelspec.sai_model_spec",
        "ot_branch",
        "ss_base_model_version",
        "ss_clip_skip",
        "ss_network_alpha",
        "ss_network_args",
        "ss_network_dim",
        "ss_network_module",
        "ss_v2",
        "sshs_legacy_hash",
        "sshs_model_hash",
    }
)
"""What programs need to recognise a file, to apply it as it was trained, and to identify it."""
NOT_MINIMAL = frozenset({"ss_clip_skip"})
"""Needed, but not among the fields that sd-scripts writes with `no_metadata`."""
PUBLIC_TEXTS = frozenset(
    {
        "ss_base_model_version",
        "ss_bucket_info",
        "ss_huber_schedule",
        "ss_loss_type",
        "ss_lr_scheduler",
        "ss_lr_scheduler_type",
        "ss_max_token_length",
        "ss_mixed_precision",
        "ss_network_args",
        "ss_network_module",
        "ss_new_sd_model_hash",
        "ss_new_vae_hash",
        "ss_optimizer",
        "ss_output_name",
        "ss_resize_interpolation",
        "ss_resolution",
        "ss_sd_model_hash",
        "ss_sd_model_name",
        "ss_sd_scripts_commit_hash",
        "ss_session_id",
        "ss_training_comment",
        "ss_vae_hash",
        "ss_vae_name",
    }
)
"""kohya's fields that are texts and say nothing about the data. Of all others, numbers and true or false are public."""
PUBLIC_KEYS = frozenset(
    {CONFIG_KEY, "lorasmith.best", "lorasmith.configs", "lorasmith.data", "lorasmith.history", "lorasmith.run"}
)

PUBLIC_SECTIONS = frozenset(
    {
        "adapter",
        "concepts",
        "conditions",
        "lr_schedule",
        "metadata",
        "objective",
        "optimizer",
        "phases",
        "text",
        "validation",
    }
)
"""Sections of a config that say nothing about the data; texts in them are kinds, layer names and new tokens."""
PUBLIC_SETTINGS = frozenset(
    {
        "base",
        "comment",
        "device",
        "memory",
        "merge",
        "name",
        "plugins",
        "precision",
        "prediction",
        "start",
        "trigger",
        "vae",
        "base_parts",
    }
)
"""Settings of the top level that are texts and public."""
PRIVATE_SECTIONS = frozenset({"best", "checkpoint", "export", "hooks", "log", "output", "preview"})
"""Sections without influence on the weights; they hold folders, prompts and accounts."""
PUBLIC_DATA_TEXTS = frozenset({"kind", "caption_lines", "class_folders", "resize"})
"""Settings of `data` whose texts are one of a few values. All other texts there are folders and captions."""
LEFT_OUT = "# private settings that are left out: "
"""Begins the first line of a public config."""
PLACEHOLDER = "images"
"""Stands in a public config for each source of images."""

NUMBER = re.compile(r"[-+]?(\d+\.?\d*([eE][-+]?\d+)?|inf|nan)|True|False|None|null|true|false")
MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
PATH_IN_TEXT = re.compile(r"(?<![\w:/.\\])(?:~?/|[A-Za-z]:[\\/]|\\\\)[^\s\"',;:]*[\\/][^\s\"',;:]*")
"""An absolute path of at least two parts inside a longer text."""


def filter_metadata(metadata: Mapping[str, str], level: Level) -> dict[str, str]:
    """The metadata that a file of this level holds."""
    keep: dict[Level, Callable[[str, str], bool]] = {
        "full": lambda key, value: True,
        "public": is_public,
        "minimal": lambda key, value: (key in NEEDED or key.startswith("modelspec.")) and key not in NOT_MINIMAL,
        "none": lambda key, value: key in NEEDED,
    }
    kept: dict[str, str] = {}
    for key, value in metadata.items():
        if not keep[level](key, value):
            continue
        is_private_config = key == CONFIG_KEY and level != "full"
        value = public_config_text(value) if is_private_config else text_without_folders(value)
        if value or not metadata[key]:
            kept[key] = value
    return kept


def is_public(key: str, value: str) -> bool:
    """Whether a field may be in a file that is published."""
    if key in NEEDED or key in PUBLIC_KEYS or key.startswith("modelspec."):
        return True
    if not key.startswith("ss_"):
        return False
    return key in PUBLIC_TEXTS or NUMBER.fullmatch(value.strip()) is not None


def text_without_folders(text: str) -> str:
    """A metadata value in which absolute paths, also inside of JSON, are replaced by their last parts."""
    if text.startswith("data:"):
        return text  # a picture, in which nothing is a path
    if text[:1] in ("{", "["):
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if value is not None:
            cleaned = without_folders(value)
            # a text without paths stays as it was written
            return text if cleaned == value else json.dumps(cleaned)
    if is_absolute(text):
        return last_part(text)
    return PATH_IN_TEXT.sub(lambda match: last_part(match[0]), text)


def without_folders(value: Any) -> Any:
    """Settings without the folders of the user's machine: an absolute path is replaced by its last part, also in front
    of a strength (`/loras/a.safetensors:0.8`) and as a text. Other values, and other types, stay."""
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [without_folders(inner) for inner in cast("list[Any]", value)]
    if isinstance(value, str | PurePosixPath | PureWindowsPath) and is_absolute(str(value)):
        return last_part(str(value))
    return value


def is_absolute(text: str) -> bool:
    """Whether a whole text is an absolute path of this or another system, or one that starts at the home folder."""
    if "\n" in text or len(text) > 4096:
        return False
    # `/` begins a tag or a flag as well, so a path needs a second part, and a folder of the root has no spaces
    parts = PurePosixPath(text).parts
    if text.startswith("/") and len(parts) > 2 and " " not in parts[1]:
        return True
    return text.startswith(("~/", "~\\", "\\\\")) or PureWindowsPath(text).is_absolute()


def last_part(path: str) -> str:
    """The file or folder name of a path of any system."""
    return PureWindowsPath(path).name or PurePosixPath(path).name


def public_config_text(text: str) -> str:
    """A TOML config as `public_config` leaves it; empty if the text is not TOML."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return ""
    public, left_out = public_config(table)
    left_out = list(dict.fromkeys([*settings_left_out(text), *left_out]))
    comment = f"{LEFT_OUT}{', '.join(left_out)}\n" if left_out else ""
    return comment + to_toml(public)


def settings_left_out(text: str) -> list[str]:
    """The keys of the settings that a public config lacks, from its first line."""
    first_line = text.partition("\n")[0]
    return first_line.removeprefix(LEFT_OUT).split(", ") if first_line.startswith(LEFT_OUT) else []


def public_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config without names of folders, captions and prompts, and the keys of the settings of `data` that training
    needs and that were left out.

    It is still a valid config, which trains the same where its images, masks and captions are named again.
    """
    public: dict[str, Any] = {}
    left_out: list[str] = []
    for key, value in config.items():
        if key in PRIVATE_SECTIONS:
            continue
        if key == "data":
            public[key] = _public_data(value, "data", left_out)
        elif key in PUBLIC_SECTIONS or key in PUBLIC_SETTINGS or isinstance(value, bool | int | float):
            public[key] = _file_names(without_folders(value))
    if "output" in config:
        public["output"] = str(config.get("name") or last_part(str(config["output"])))
    return public, left_out


def _file_names(value: Any) -> Any:
    """Settings in which the path of a model file, relative ones too, is replaced by its last part."""
    if isinstance(value, dict):
        return {key: _file_names(inner) for key, inner in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_file_names(inner) for inner in cast("list[Any]", value)]
    text = str(value)
    is_file = isinstance(value, str | PurePosixPath | PureWindowsPath) and any(s in text for s in MODEL_SUFFIXES)
    return last_part(text) if is_file else value


def _public_data(value: Any, where: str, left_out: list[str]) -> Any:
    """`value` of the section `data` at the key `where`: numbers, true or false and fixed choices. Keys of other
    settings are added to `left_out`, except where the images are and where caches are."""
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return [_public_data(inner, f"{where}.{index}", left_out) for index, inner in enumerate(items)]
    if not isinstance(value, dict):
        return value
    table: dict[str, Any] = {}
    for key, inner in cast("dict[str, Any]", value).items():
        if inner in (None, "") or key == "cache_dir":
            continue
        if key == "images" and where != "data.validation":
            table[key] = PLACEHOLDER
        elif _is_public_data(key, inner):
            table[key] = inner
        elif isinstance(inner, dict | list | tuple) and not _holds_texts(inner):
            table[key] = _public_data(inner, f"{where}.{key}", left_out)
        else:
            left_out.append(f"{where}.{key}")
    return table


def _is_public_data(key: str, value: Any) -> bool:
    """Whether a single setting of the section `data` says nothing about folders and captions."""
    if isinstance(value, bool | int | float) or key == "caption_extension":
        return True
    # separators have neither letters nor digits
    is_word = isinstance(value, str) and any(character.isalnum() for character in value)
    return isinstance(value, str) and (not is_word or key in PUBLIC_DATA_TEXTS or (key, value) == ("masks", "alpha"))


def _holds_texts(value: Any) -> bool:
    """Whether a list or table has texts as its entries: captions, words to replace, folders by concept."""
    texts = (str, PurePosixPath, PureWindowsPath)
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        named = "kind" in table or "images" in table
        return bool(table) and not named and all(isinstance(entry, texts) for entry in table.values())
    return any(isinstance(entry, texts) for entry in cast("list[Any]", value))
