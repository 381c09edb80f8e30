"""Caption files: text beside an image, however it was saved."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from lorasmith.core.errors import Problem
from lorasmith.data.config import SubsetConfig
from lorasmith.data.face_names import FACE

LINE_BREAK = re.compile(r"\r\n|\r|\n")
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # UTF-32 comes first: its mark begins with that of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
NOT_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that no caption has: NUL, and halves of UTF-16 pairs."""


def read_captions(image: Path, subset: SubsetConfig, problems: list[Problem]) -> tuple[str, ...]:
    """The lines of an image's caption file that are not empty; without a file, the fallback caption.

    The result is `()` if there is no caption at all, and `("",)` if the file exists and is empty.
    """
    path = find_caption_file(image, subset)
    if path is None:
        return (subset.caption,) if subset.caption is not None else ()
    lines = LINE_BREAK.split(read_text(path, problems))
    return tuple(line.strip() for line in lines if line.strip()) or ("",)


def find_caption_file(image: Path, subset: SubsetConfig) -> Path | None:
    """The caption file of an image, or None. `1.TXT` is taken for `1.txt`, and the file of
    `garp_120_80_40_50.png`, whose name says where a face is, may also be `garp.txt`."""
    folder = image.parent if subset.captions is None else subset.captions.expanduser()
    # Without duplicates: most names have no face in them.
    for stem in dict.fromkeys((image.stem, FACE.sub("", image.stem))):
        for extension in subset.caption_extension:
            for spelling in dict.fromkeys((extension, extension.lower(), extension.upper(), extension.title())):
                path = folder / f"{stem}{spelling}"
                if path.is_file():
                    return path
    return None


def read_text(path: Path, problems: list[Problem]) -> str:
    """A text file in UTF-8 or, with a byte order mark, UTF-16 or UTF-32. If it cannot be read, that goes into
    `problems` and the result is empty."""
    try:
        data = path.read_bytes()
        encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        problems.append(Problem(str(path), f"not UTF-8 text (byte {error.start})", remedy="save it as UTF-8"))
        return ""
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read ({error.strerror})", remedy="change its permissions"))
        return ""
    return checked_text(text, str(path), problems)


def checked_text(text: str, where: str, problems: list[Problem]) -> str:
    """The text; if it holds characters that no text has, that goes into `problems` and the result is empty."""
    wrong = NOT_TEXT.search(text)
    if wrong is None:
        return text
    if wrong[0] == "\0":
        what = f"not UTF-8 text: character {wrong.start() + 1} is NUL, as in UTF-16 without a byte order mark"
    else:
        what = f"not UTF-8 text: character {wrong.start() + 1} is half of a UTF-16 pair (U+{ord(wrong[0]):04X})"
    problems.append(Problem(where, what, remedy="save it as UTF-8"))
    return ""
