"""Text files that people wrote: any common encoding, TOML and JSON, and errors that say how to repair them."""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError

BYTE_ORDER_MARKS = (
    # UTF-32 comes first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)

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
        return decode_text(path.read_bytes())
    except FileNotFoundError:
        raise LorasmithError(f"{path}: no such file") from None
    except OSError as error:
        raise LorasmithError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise LorasmithError(f"{path}: not UTF-8 text ({what}); save it as UTF-8 in your editor") from None


def parse_json(text: str, path: Path) -> Any:
    """The content of a JSON file. Raises LorasmithError with the line of a syntax error."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        advice = ""
        if re.search(r"escape|control character", error.msg) and "\\" in text:
            advice = "\n    to do: write Windows paths with / or with two backslashes: C:\\\\images"
        raise LorasmithError(f"{path}: not valid JSON: {error}{advice}") from None
    except RecursionError:
        raise LorasmithError(f"{path}: not valid JSON: too many brackets inside brackets") from None


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises LorasmithError with the line of a syntax error and what to do about it."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise toml_error(text, path, error) from None
    except RecursionError:
        raise LorasmithError(f"{path}: not valid TOML: too many brackets inside brackets") from None


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
