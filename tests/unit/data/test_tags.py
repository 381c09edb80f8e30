"""Fixed tags by separators, and alternatives."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from lorasmith.data.transforms.tags import Tags
from lorasmith.data.transforms.wildcard import Wildcard

CAPTION = "girl, garp ||| hat, smile, red hair;;;long hair ||| best, quality"


def test_what_stands_outside_the_separators_is_fixed() -> None:
    tags = Tags(keep_separator="|||", group_separator=";;;", shuffle=True)
    found = {tags(CAPTION, Random(i)) for i in range(100)}
    assert len(found) == 6
    for caption in found:
        assert caption.startswith("girl, garp, ")
        assert caption.endswith(", best, quality")
        assert "red hair,long hair" in caption
        assert Counter(caption.replace(", ", ",").split(",")) == Counter(
            ["girl", "garp", "hat", "smile", "red hair", "long hair", "best", "quality"]
        )


def test_dropout_spares_fixed_tags() -> None:
    tags = Tags(keep_separator="|||", dropout=1.0)
    assert tags(CAPTION, Random(0)) == "girl, garp, best, quality"
    share = sum("hat" in Tags(keep_separator="|||", dropout=0.25)(CAPTION, Random(i)) for i in range(2000)) / 2000
    assert share == pytest.approx(0.75, abs=0.04)


def test_without_a_separator_in_the_caption_the_first_tags_are_fixed() -> None:
    tags = Tags(keep=2, keep_separator="|||", dropout=1.0)
    assert tags("a, b, c, d", Random(0)) == "a, b"
    assert not Tags(keep_separator="|||").random
    assert Tags(keep_separator="|||").outcomes("a ||| b") == {"a, b"}


def test_wildcards() -> None:
    wildcard = Wildcard()
    found = {wildcard("a {red|blue} {{x}} {hat|cap|}", Random(i)) for i in range(200)}
    assert found == wildcard.outcomes("a {red|blue} {{x}} {hat|cap|}")
    assert len(found) == 6
    assert "a red {x} hat" in found
    assert wildcard.outcomes("plain") == {"plain"}
    assert wildcard.outcomes("{a|b}" * 7) is None
