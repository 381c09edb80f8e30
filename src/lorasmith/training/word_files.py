"""The embedding files of new words: each word needs a file name of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorasmith.concepts import Concept
from lorasmith.core.errors import Problem
from lorasmith.formats.token_embeddings import file_name


def word_file_problems(concepts: Sequence[Concept]) -> Iterator[Problem]:
    """Words whose embedding files would be one file, at least where file names that differ in case are the same."""
    word_by_file: dict[str, str] = {}
    for i, concept in enumerate(concepts):
        for word in concept.words:
            first = word_by_file.setdefault(file_name(word).casefold(), word)
            if first != word:
                found = f"the embeddings of {first} and {word} would be one file, {file_name(word)}.safetensors"
                if file_name(first) != file_name(word):
                    found += " where case does not count (Windows, macOS)"
                remedy = "choose words that differ in a letter or digit"
                yield Problem(f"concepts.{i}.words", found, remedy=remedy)
