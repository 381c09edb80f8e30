"""Keyword arguments of `lorasmith.sweep`, as a type for editors and type checkers."""

from __future__ import annotations

from typing import TypedDict


class SweepOptions(TypedDict, total=False):
    """How the runs are compared."""

    rank_by: str
    """`loss` (default), the held-out loss of each run's best weights, or one of the four numbers, such as `likeness`,
    that the hook `scores` measures."""
