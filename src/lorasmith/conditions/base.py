"""The extension point of conditions: a mask, a depth map, a pose or any other picture as an input of the network."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from lorasmith.core.latent_grid import DOWNSCALE
from lorasmith.core.registry import Component
from lorasmith.data.condition_images import ConditionInput

if TYPE_CHECKING:
    from lorasmith.conditions.encoder import ConditionEncoder
    from lorasmith.families.base import Family


class Condition(Component, root="condition"):
    """A picture that goes with each image, and how the network gets it.

    The pictures are in folders (`data.condition_images`), have the names of their images, and are resized, cropped and
    flipped as these are. They are cached with the latents.
    """

    scale: ClassVar[int] = DOWNSCALE
    """The side of an image divided by that of the picture that the encoder gets: a divisor of 8, which is the grid of
    the latents."""
    empty: ClassVar[float] = 0.0
    """The value, 0..1, of a picture where an image has none."""

    name: str = ""
    """What the condition is called in `data.condition_images` and in prompts. Default: its kind."""
    lr: float = Field(default=1e-3, ge=0)
    """The learning rate of its parameters, if it has any."""

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if name and not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError("letters, digits, - and _ only")
        return name

    @property
    def called(self) -> str:
        """Its name, or its kind where no name is given."""
        return self.name or str(getattr(self, "kind", ""))

    @property
    def input(self) -> ConditionInput:
        """What the data must know."""
        return ConditionInput(self.called, self.scale, self.empty)

    @abstractmethod
    def build(self, family: Family) -> ConditionEncoder:
        """A new encoder for this base; draw initial weights from torch's global generator, which is seeded. If it
        begins as one that changes nothing, training begins with the pictures of the base.

        Raises LorasmithError if the base cannot take this condition.
        """
