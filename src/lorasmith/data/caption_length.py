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


def too_long_text(caption: str, tokens: int, limit: int) -> str:
    """What to say of a caption of which only `limit` tokens are read."""
    start = caption[:TEXT_SHOWN] + ("..." if len(caption) > TEXT_SHOWN else "")
    text = f'the caption "{start}" is {tokens} tokens long, only {limit} are read; shorten it'
    if limit < LONGEST_LIMIT:
        text += f", or set text.max_tokens = {150 if tokens <= 150 else LONGEST_LIMIT}"
    return text


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
    text = too_long_text(longest, count, reader.max_tokens)

    # The trigger counts only where it is read. In captions that never have it, its lack is another remark.
    has_trigger = {form: contains_any(readings[form][1], trigger) for form in forms if contains_any(form, trigger)}
    if not all(has_trigger.values()):
        always = not any(has_trigger.values())
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
