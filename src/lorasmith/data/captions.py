"""Caption files: text beside an image, however it was saved."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from lorasmith.core.errors import Problem
from lorasmith.data.config import SubsetConfig
from lorasmith.data.transforms.face_crop import FACE

LINE_BREAK = re.compile(r"\r\n|\r|\n")
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_captions(image: Path, subset: SubsetConfig, problems: list[Problem]) -> tuple[str, ...]:
    """The lines of an image's caption file that are not empty; without a file, the fallback caption.

    The file of `garp_120_80_40_50.png`, whose name says where a face is, may also be `garp.txt`. The result is `()` if
    there is no caption at all, and `("",)` if the file exists and is empty.
    """
    folder = image.parent if subset.captions is None else subset.captions.expanduser()
    for stem in dict.fromkeys((image.stem, FACE.sub("", image.stem))):
        for extension in subset.caption_extension:
            path = folder / f"{stem}{extension}"
            if path.is_file():
                lines = LINE_BREAK.split(read_text(path, problems))
                return tuple(line.strip() for line in lines if line.strip()) or ("",)
    return (subset.caption,) if subset.caption is not None else ()


def read_text(path: Path, problems: list[Problem]) -> str:
    """A text file in UTF-8 or, with a byte order mark, UTF-16. If it cannot be read, that goes into `problems` and the
    result is empty."""
    try:
        data = path.read_bytes()
        encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        problems.append(Problem(str(path), f"not UTF-8 text (byte {error.start})", remedy="save it as UTF-8"))
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read ({error.strerror})", remedy="change its permissions"))
    return ""
