"""Phrases that go with the trigger in nearly all captions, so that they take a part of its meaning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

SHARE = 0.8
"""Of the captions with the trigger, so many must have the phrase."""
FEWEST_CAPTIONS = 4
LONGEST = 4
"""Words of a phrase."""
MOST_PHRASES = 8
FRAME = {
    "a", "an", "the", "this", "that", "of", "in", "on", "at", "with", "and", "or", "to", "is", "are", "by", "for",
    "from", "his", "her", "its", "their", "photo", "picture", "image",
}  # fmt: skip
"""Words that say nothing about what is in a picture."""


def phrases_with_trigger(captions: Sequence[str], trigger: Sequence[str]) -> dict[str, float]:
    """Phrases of up to four words, each with the share of the captions with the trigger that have it, the largest
    first. A phrase that is a part of a longer one in as many captions is left out."""
    words = [word.lower() for word in trigger if word.strip()]
    with_trigger = [caption.lower() for caption in captions if contains_any(caption.lower(), words)]
    if len(with_trigger) < FEWEST_CAPTIONS:
        return {}
    counts: Counter[str] = Counter()
    for caption in with_trigger:
        counts.update(set(phrases_of(caption, words)))
    frequent = {phrase: count for phrase, count in counts.items() if count >= SHARE * len(with_trigger)}
    order = sorted(frequent, key=lambda phrase: (-frequent[phrase], -len(phrase)))
    longest = [phrase for phrase in order if not is_part_of_another(phrase, frequent)]
    return {phrase: frequent[phrase] / len(with_trigger) for phrase in longest[:MOST_PHRASES]}


def contains_any(text: str, words: Sequence[str]) -> bool:
    return any(re.search(trigger_pattern(word), text) for word in words)


def trigger_pattern(word: str) -> str:
    """Finds a trigger that is not a part of a longer word: `mia` is not in `miami`. Scripts without spaces between
    words have no such ends, so that only letters of ASCII and digits count."""
    return f"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])"


def is_part_of_another(phrase: str, counts: Mapping[str, int]) -> bool:
    """Whether a longer phrase with the same count contains this one."""
    longer = [other for other, count in counts.items() if count == counts[phrase] and other != phrase]
    return any(f" {phrase} " in f" {other} " for other in longer)


def phrases_of(caption: str, trigger: Sequence[str]) -> Iterable[str]:
    """The phrases of a caption between its commas and around the trigger, without those that begin or end with a word
    of the frame, such as `a photo of`."""
    # longer triggers first: one may contain another
    for word in sorted(trigger, key=len, reverse=True):
        caption = re.sub(trigger_pattern(word), ",", caption)
    for part in re.split(r"[,.;:!?()\n]", caption):
        words = part.split()
        for start in range(len(words)):
            for end in range(start + 1, min(len(words), start + LONGEST) + 1):
                if words[start] not in FRAME and words[end - 1] not in FRAME:
                    yield " ".join(words[start:end])
