"""Text files that people wrote: any common encoding, TOML and JSON, and errors that say how to repair them.

What is read is bounded in length and depth: a file may come from anybody.
"""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from pathlib import Path
from typing import Any, cast

from lorasmith.core.errors import LorasmithError

MAX_TEXT_BYTES = 64 << 20
"""Larger files are not text that somebody wrote. Captions and prompts of a million images have about this size."""
MAX_CHARACTERS = {"JSON": 16_000_000, "TOML": 2_000_000, "YAML": 500_000}
"""Length of a file of settings, by its language: what is read in about two seconds. A long config has 10,000."""
MAX_DEPTH = 60
"""Tables and lists inside each other; a config has about ten."""

BYTE_ORDER_MARKS = (
    # UTF-32 comes first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)

SURROGATE = re.compile("[\ud800-\udfff]")
"""Halves of UTF-16 pairs: no character, and in no encoding that files are written in."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys: control characters, and those that turn the direction of what follows."""

TOML_HINTS = (
    (re.compile(r'"[^"]*\\'), "a backslash in double quotes is an escape; write Windows paths with / or in single "
     "quotes: 'C:\\images'"),
    (re.compile("[\u201c\u201d\u201e\u2018\u2019]"), 'the quotation marks are typographic; use straight ones: "'),
    (re.compile(r"=\s*(True|False|None)\b"), "TOML writes true and false; leave a key out if it has no value"),
    (re.compile(r"^\s*[\w.-]+\s*:(\s|$)"), "TOML writes key = value, not key: value"),
    (re.compile(r"=\s*[A-Za-z/.~][^\"'\[{]*$"), 'text stands in quotes: key = "text"'),
)  # fmt: skip
"""What is wrong with a line that TOML refuses, by what the line looks like, and the advice."""


def decode_text(data: bytes) -> str:
    """Text in UTF-8 or, with a byte order mark, in UTF-16 or UTF-32. Raises UnicodeDecodeError."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding)
    return data.decode("utf-8")


def read_text(path: Path) -> str:
    """The text of a file, as `decode_text` reads it. Raises LorasmithError if there is none."""
    if path.is_dir():
        raise LorasmithError(f"{path}: is a folder, not a file")
    try:
        # a path such as /dev/zero has no end, so the length that is read is limited, not only that of the file
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise LorasmithError(f"{path}: more than {MAX_TEXT_BYTES >> 20} MiB, which is too long for a text file")
        return decode_text(data)
    except FileNotFoundError:
        raise LorasmithError(f"{path}: no such file") from None
    except OSError as error:
        raise LorasmithError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise LorasmithError(f"{path}: not UTF-8 text ({what}); save it as UTF-8 in your editor") from None


def require_size(text: str, path: Path, language: str) -> None:
    """Raises LorasmithError for a text that is too long to be a file of settings in `language` (TOML, JSON, YAML)."""
    limit = MAX_CHARACTERS[language]
    if len(text) > limit:
        raise LorasmithError(
            f"{path}: {len(text):,} characters are too many for a {language} file of settings (at most {limit:,}); "
            "is it the right file?"
        )


def parse_json(text: str, path: Path) -> Any:
    """The content of a JSON file. Raises LorasmithError with the line of a syntax error."""
    require_size(text, path, "JSON")
    try:
        content = json.loads(text, object_pairs_hook=table_of_pairs)
    except json.JSONDecodeError as error:
        advice = ""
        if re.search(r"escape|control character", error.msg) and "\\" in text:
            advice = "\n    to do: write Windows paths with / or with two backslashes: C:\\\\images"
        raise LorasmithError(f"{path}: not valid JSON: {error}{advice}") from None
    except ValueError as error:
        # a key that is there twice, or a number with thousands of digits
        raise LorasmithError(f"{path}: not valid JSON: {error}") from None
    except RecursionError:
        raise LorasmithError(f"{path}: not valid JSON: too many brackets inside brackets") from None
    check_content(content, path)
    return content


def table_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a table. Raises ValueError for a key that is in it twice: JSON would keep the last one."""
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{twice}" is in the same object twice; keep one of them')
    return table


def parse_json_table(text: str, path: Path) -> dict[str, Any]:
    """The object in a JSON text. Raises LorasmithError for a syntax error and for any other content."""
    content = parse_json(text, path)
    if not isinstance(content, dict):
        raise LorasmithError(f"{path}: not what it should hold: {describe_type(content)} in place of a table of keys")
    return cast("dict[str, Any]", content)


def read_json_table(path: Path) -> dict[str, Any]:
    """The object in a JSON file, such as the config of a model. Raises LorasmithError if there is none."""
    return parse_json_table(read_text(path), path)


def describe_type(value: Any) -> str:
    """What a value of JSON is, in words."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}
    return names.get(cast("type[Any]", type(value)), "nothing")


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises LorasmithError with the line of a syntax error and what to do about it."""
    require_size(text, path, "TOML")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise toml_error(text, path, error) from None
    except ValueError as error:
        # a number with thousands of digits, or a time that the calendar does not have
        raise LorasmithError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise LorasmithError(f"{path}: not valid TOML: too many brackets inside brackets") from None
    check_content(content, path)
    return content


def check_content(content: Any, path: Path) -> None:
    """Raises LorasmithError if the content of a file is nested too deeply, or has a text that cannot be written
    again."""
    # a list of what is still to be looked at, not recursion: the depth is what is checked
    waiting: list[tuple[Any, str, int]] = [(content, "", 0)]
    while waiting:
        value, where, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise LorasmithError(
                f"{path}: too many brackets inside brackets: more than {MAX_DEPTH} tables or lists inside each other"
            )
        if isinstance(value, dict):
            for key, inner in cast("dict[Any, Any]", value).items():
                place = f"{where}.{key}" if where else str(key)
                waiting += [(inner, place, depth + 1), (key, place, depth + 1)]
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            waiting += [(inner, f"{where}.{i}", depth + 1) for i, inner in enumerate(items)]
        elif isinstance(value, str) and SURROGATE.search(value):
            raise LorasmithError(f"{path}: {printable(where)}: {describe_surrogate(value)}")


def describe_surrogate(text: str) -> str:
    """What is wrong with a text that has half of a UTF-16 pair in it, and what to do."""
    found = SURROGATE.search(text)
    code = ord(found[0]) if found else 0
    # Python puts bytes that are not UTF-8, of a file name or an argument, at U+DC80 to U+DCFF
    what = f"the byte {code - 0xDC00:#04x}" if 0xDC80 <= code <= 0xDCFF else f"half of a UTF-16 pair (U+{code:04X})"
    return f"has {what} in it, which is not text; write it in UTF-8"


def printable(text: str) -> str:
    """The text with control characters written out (`\\x1b`), so that a terminal shows them and does not obey them.
    Line breaks and tabs stay."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def toml_error(text: str, path: Path, error: tomllib.TOMLDecodeError) -> LorasmithError:
    """A syntax error with the line it is in and, if the line has a well-known mistake, the advice."""
    message = f"{path}: not valid TOML: {error}"
    place = re.search(r"at line (\d+)", str(error))
    lines = text.split("\n")
    if place is None or int(place[1]) > len(lines):
        return LorasmithError(message)
    line = lines[int(place[1]) - 1].strip()
    message += f"\n    {line}"
    if str(error).startswith(("Cannot overwrite", "Cannot declare")):
        return LorasmithError(f"{message}\n    to do: the key is in the file twice; keep one of them")
    advice = next((advice for pattern, advice in TOML_HINTS if pattern.search(line)), "")
    return LorasmithError(f"{message}\n    to do: {advice}" if advice else message)
