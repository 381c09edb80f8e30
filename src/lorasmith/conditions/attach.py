"""Conditions on a loaded base: their encoders change the inputs of the network before each pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from lorasmith.conditions.base import Condition
from lorasmith.conditions.encoder import ConditionEncoder
from lorasmith.core.rng import derive, seeded_global_generators
from lorasmith.families.base import Conditioning, Family


class AttachedCondition:
    """A condition with its encoder, as one of the `input_changes` of a family.

    A conditioning without a tensor of the condition gets the empty value.
    """

    def __init__(self, condition: Condition, encoder: ConditionEncoder, downscale: int) -> None:
        """`downscale`: the side of an image in pixels, divided by that of its latent."""
        self.condition, self.encoder, self._downscale = condition, encoder, downscale
        self.input = condition.input

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> tuple[Tensor, Conditioning]:
        picture = conditioning.get(self.input.tensor_name)
        if picture is None:
            height, width = (side * self._downscale for side in x_t.shape[-2:])
            picture = self.input.empty_batch(len(x_t), height, width).to(x_t.device)
        return self.encoder(picture, x_t, t, conditioning)


class ConditionSet:
    """The conditions of a run, or those of a file."""

    def __init__(self, family: Family, conditions: Sequence[AttachedCondition]) -> None:
        self.family, self.conditions = family, tuple(conditions)
        self._on = False

    @classmethod
    def create(cls, family: Family, conditions: Sequence[Condition], seed: int) -> ConditionSet:
        """New encoders, on the device of the family; the same for the same seed. They are not attached."""
        attached: list[AttachedCondition] = []
        for condition in conditions:
            with seeded_global_generators(derive(seed, "condition", condition.called), family.device):
                encoder = condition.build(family)
            attached.append(AttachedCondition(condition, encoder.float().to(family.device), family.downscale))
        return cls(family, attached)

    def __len__(self) -> int:
        return len(self.conditions)

    @property
    def names(self) -> tuple[str, ...]:
        """What the conditions are called."""
        return tuple(attached.input.name for attached in self.conditions)

    def parameters(self, attached: AttachedCondition) -> list[nn.Parameter]:
        """The trained parameters of one of the conditions."""
        return [parameter for parameter in attached.encoder.parameters() if parameter.requires_grad]

    def attach(self) -> ConditionSet:
        """Let the network of the family get the conditions, after those that it gets already."""
        if not self._on:
            self.family.input_changes = (*self.family.input_changes, *self.conditions)
            self._on = True
        return self

    def detach(self) -> None:
        """Let the network do without them again."""
        self.family.input_changes = tuple(one for one in self.family.input_changes if one not in self.conditions)
        self._on = False

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside the block the network does not get the conditions."""
        before = self.family.input_changes
        self.family.input_changes = tuple(one for one in before if one not in self.conditions)
        try:
            yield
        finally:
            self.family.input_changes = before

    def train(self, on: bool = True) -> None:
        """Put the encoders into training mode, or into evaluation mode."""
        for attached in self.conditions:
            attached.encoder.train(on)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors of the encoders, as `NAME.PARAMETER`."""
        return {
            f"{attached.input.name}.{key}": tensor.detach()
            for attached in self.conditions
            for key, tensor in attached.encoder.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` gave, in place. Raises KeyError or RuntimeError if tensors are missing, unknown or of
        other shapes."""
        unused = set(state)
        for attached in self.conditions:
            prefix = f"{attached.input.name}."
            own = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
            unused -= {prefix + key for key in own}
            attached.encoder.load_state_dict(own)
        if unused:
            raise KeyError(f"{min(unused)} belongs to none of the conditions")


def attached_conditions(family: Family) -> list[AttachedCondition]:
    """The conditions that the network of a family gets now."""
    return [change for change in family.input_changes if isinstance(change, AttachedCondition)]
