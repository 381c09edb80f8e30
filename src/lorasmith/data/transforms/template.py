"""Captions inserted into a sentence."""

from __future__ import annotations

import re
from random import Random
from typing import Literal

from pydantic import field_validator

from lorasmith.data.transforms.base import CaptionTransform


class Template(CaptionTransform):
    """One of `templates`, chosen at random, with `{caption}` replaced by the caption: `"a photo of {caption}"`. It can
    also put words before or after every caption."""

    kind: Literal["template"] = "template"
    templates: tuple[str, ...]

    @field_validator("templates")
    @classmethod
    def _known_placeholders(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        if not templates:
            raise ValueError("give at least one template")
        # An unknown placeholder would be trained as it stands.
        for template in templates:
            unknown = [name for name in re.findall(r"\{[^{}]*\}", template) if name != "{caption}"]
            if unknown:
                raise ValueError(f'"{template}" contains {unknown[0]}; the only placeholder is {{caption}}')
        return templates

    @property
    def random(self) -> bool:
        return len(self.templates) > 1

    def __call__(self, caption: str, random: Random) -> str:
        return random.choice(self.templates).replace("{caption}", caption)

    def outcomes(self, caption: str) -> set[str]:
        return {template.replace("{caption}", caption) for template in self.templates}
