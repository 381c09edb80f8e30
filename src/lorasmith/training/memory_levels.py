"""Ways to need less memory, in the order in which a run takes them: each level adds to those below it.

The levels up to `LAST_EXACT` train the same thing, up to rounding where an operation is computed twice. The later ones
change numbers, so a run does not begin with them unless it must, and never changes to them after its start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorasmith.families.base import Family


@dataclass(frozen=True)
class MemoryLevel:
    """One measure."""

    name: str
    """What is done, for people."""
    cost: str
    use: Callable[[Family], None]


LEVELS: tuple[MemoryLevel, ...] = (
    MemoryLevel("everything stays in memory", "no cost", lambda family: None),
    MemoryLevel("lean saves", "hardly any more time", lambda family: family.keep_less()),
    MemoryLevel("gradient checkpointing", "about a third more time", lambda family: family.checkpoint_gradients(True)),
    MemoryLevel(
        "frozen weights stay on the host", "as much time as copying them takes", lambda family: family.stream_weights()
    ),
    MemoryLevel("frozen weights in 8 bits", "the base is rounded", lambda family: family.store_in_8_bits()),
)
LEAN, CHECKPOINTING, STREAMED, EIGHT_BIT = 1, 2, 3, 4
LAST_EXACT = STREAMED


def use_level(family: Family, level: int, above: int = 0) -> None:
    """Take the measures of all levels up to `level`; those up to `above` are taken already."""
    for measure in LEVELS[above + 1 : level + 1]:
        measure.use(family)
