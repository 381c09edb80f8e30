"""Captions that the model reads otherwise than they are written: too long, or with escaped brackets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from lorasmith.data.records import ImageRecord
from lorasmith.data.remarks import Remark

ESCAPED_BRACKET = re.compile(r"\\[()\[\]]")
LONGEST_LIMIT = 225
"""The largest value of `text.max_tokens`."""
TEXT_SHOWN = 60
"""How many characters of a caption a remark repeats."""


class CaptionReader(Protocol):
    """How a model reads captions."""

    max_tokens: int
    weighted: bool
    """Brackets are emphasis, and `\\(` is a bracket."""

    def read(self, caption: str) -> tuple[int, str]:
        """The number of tokens of a caption, and the text of those that are read."""
        ...


def reading_remarks(
    record: ImageRecord, forms: Sequence[str], trigger: Sequence[str], reader: CaptionReader
) -> list[Remark]:
    """Remarks on what the model reads of a caption. `forms`: what the transforms make of it."""
    remarks: list[Remark] = []
    if not reader.weighted and any(ESCAPED_BRACKET.search(form) for form in forms):
        text = (
            "the caption has escaped brackets (\\( or \\)), and the backslashes are read as characters; remove them, "
            "or set text.weighted = true, which reads brackets as prompts do"
        )
        remarks.append(Remark(record.path, "escaped_bracket", text, "warning"))

    readings = {form: reader.read(form) for form in forms}
    longest = max(forms, key=lambda form: readings[form][0])
    count = readings[longest][0]
    if count <= reader.max_tokens:
        return remarks
    start = longest[:TEXT_SHOWN] + ("..." if len(longest) > TEXT_SHOWN else "")
    text = f'the caption "{start}" is {count} tokens long, only {reader.max_tokens} are read'
    if reader.max_tokens < LONGEST_LIMIT:
        text += f"; shorten it, or set text.max_tokens = {150 if count <= 150 else LONGEST_LIMIT}"
    else:
        text += "; shorten it"

    # The trigger counts only where it is read. In captions that never have it, its lack is another remark.
    with_trigger = [form for form in forms if contains_any(form, trigger)]
    cut_off = [form for form in with_trigger if not contains_any(readings[form][1], trigger)]
    if cut_off:
        always = len(cut_off) == len(with_trigger)
        text += (
            f". The trigger word ({', '.join(trigger)}) is {'' if always else 'sometimes '}in the part that is cut off"
        )
        remarks.append(Remark(record.path, "trigger_cut_off", text, "serious" if always else "warning"))
    else:
        remarks.append(Remark(record.path, "long_caption", text, "warning"))
    return remarks


def contains_any(text: str, words: Sequence[str]) -> bool:
    """Whether one of the words is in a text, whatever the case and the spaces, which tokens do not keep."""
    squeezed = "".join(text.lower().split())
    return any("".join(word.lower().split()) in squeezed for word in words)
