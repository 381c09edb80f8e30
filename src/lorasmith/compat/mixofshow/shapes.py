"""What the tables and lists in Mix-of-Show's YAML files may hold. Other values are options of their own."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Len
from pydantic import PositiveInt

Mapping = dict[str, Any] | list[dict[str, Any]]
Transforms = list[dict[str, Any] | str]
Prompts = str | list[str | int | float]
LatentSize = Annotated[list[PositiveInt], Len(3)]
