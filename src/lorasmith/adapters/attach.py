"""A set of adapters on the layers of a model: chosen, attached, detached, merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, AdapterConfig, LayerSpec
from lorasmith.adapters.layer import Adapted, spec_of, tensor_of
from lorasmith.adapters.norm import Norm
from lorasmith.core.errors import LorasmithError, nearest
from lorasmith.core.rng import torch_generator

Places = Mapping[str, tuple[nn.Module, str]]
"""Layer name to its owner and the owner's attribute (a number for lists)."""


class AdapterSet:
    """Adapters by layer name. Attach and detach are inverses; so are merge and unmerge."""

    def __init__(self, adapters: Mapping[str, Adapter], places: Places, rates: Mapping[str, float]) -> None:
        self.adapters = dict(adapters)
        self._places = {name: places[name] for name in self.adapters}
        self._rates = dict(rates)
        self._kept: dict[str, Tensor] | None = None
        self._strength: dict[str, float] = dict.fromkeys(self.components(), 1.0)
        self.attached = False

    @classmethod
    def create(
        cls, config: AdapterConfig, layers: Places, presets: Mapping[str, tuple[str, ...]], *, seed: int
    ) -> AdapterSet:
        """Fresh adapters on the layers that `config.layers` chooses from `layers`.

        Each is initialised from a generator of its own, so that the choice of other layers does not move it. Raises
        LorasmithError if no layer fits, or if a rule of `config.overrides` fits none of them.
        """
        adapters: dict[str, Adapter] = {}
        rates: dict[str, float] = {}
        names = chosen(config.layers, layers, presets)
        for rule in config.overrides:
            if not any(fnmatchcase(name, rule.layers) for name in names):
                raise LorasmithError(
                    f'adapter.overrides: "{rule.layers}" fits none of the {len(names)} layers that are trained, '
                    f"which are such as {names[0]}"
                )
        for name in names:
            layer = current(layers[name])
            spec = spec_of(name, layer)
            if spec is None:
                continue
            own, rate = config.for_layer(name)
            base = tensor_of(layer, "weight")
            adapter = fresh(own, spec, base.detach(), torch_generator(seed, "adapter", name))
            if adapter is not None:
                adapter.dropout, adapter.max_norm = own.dropouts, own.max_norm
                adapter.late_rate = own.late_rate(adapter.layer.component)
                adapters[name] = adapter.to(base.device)
                rates[name] = rate
        if not adapters:
            kind = getattr(config, "kind", "adapter")
            raise LorasmithError(f'adapter.layers: "{kind}" fits none of the layers chosen by {config.layers!r}')
        return cls(adapters, layers, rates)

    @classmethod
    def restore(cls, adapters: Mapping[str, Adapter], layers: Places) -> AdapterSet:
        """Adapters that come from a file, on the layers they are named after."""
        return cls(adapters, layers, dict.fromkeys(adapters, 1.0))

    def __len__(self) -> int:
        return len(self.adapters)

    def components(self) -> tuple[str, ...]:
        """`unet`, `te` ...: the parts that carry adapters, in order."""
        return tuple(dict.fromkeys(adapter.layer.component for adapter in self.adapters.values()))

    def weight_of(self, name: str) -> Tensor:
        """The weight that a layer has without adapters."""
        return tensor_of(current(self._places[name]), "weight").detach()

    def parameters(self, component: str | None = None) -> list[nn.Parameter]:
        """What is trained, of one component or of all."""
        wanted = (a for a in self.adapters.values() if component in (None, a.layer.component))
        return [p for adapter in wanted for p in trained(adapter)]

    def parameters_by_rate(self, component: str) -> dict[float, list[nn.Parameter]]:
        """What is trained of a component, by the factor of its learning rate."""
        found: dict[float, list[nn.Parameter]] = {}
        for name, adapter in self.adapters.items():
            if adapter.layer.component == component:
                late = late_of(adapter)
                for p in trained(adapter):
                    rate = self._rates[name] * (adapter.late_rate if id(p) in late else 1.0)
                    found.setdefault(rate, []).append(p)
        return found

    def attach(self) -> AdapterSet:
        """Put the adapters on their layers, on top of those already there."""
        for name, adapter in self.adapters.items():
            layer = current(self._places[name])
            if not isinstance(layer, Adapted):
                layer = Adapted(layer, adapter.layer)
                _put(self._places[name], layer)
            layer.add(adapter)
        self.attached = True
        self._apply_strength()
        return self

    def adopted(self, change: Callable[[Adapter], Adapter]) -> AdapterSet:
        """The set with each adapter as `change` makes it, attached in the place of this one."""
        self.detach()
        adapters = {name: change(adapter) for name, adapter in self.adapters.items()}
        return AdapterSet(adapters, self._places, self._rates).attach()

    def detach(self) -> None:
        """Take them off; layers without any other adapter are the very modules that they were."""
        if not self.attached:
            return
        for name, adapter in self.adapters.items():
            layer = current(self._places[name])
            assert isinstance(layer, Adapted)
            layer.remove(adapter)
            if not layer.adapters:
                _put(self._places[name], layer.base)
        self.attached = False

    @property
    def strength(self) -> dict[str, float]:
        """The user's dial, by component."""
        return dict(self._strength)

    def set_strength(self, strength: float | Mapping[str, float]) -> None:
        """One strength for all components, or one for each named."""
        values = strength if isinstance(strength, Mapping) else dict.fromkeys(self._strength, strength)
        self._strength.update({k: float(v) for k, v in values.items() if k in self._strength})
        if self.attached:
            self._apply_strength()

    @contextmanager
    def enabled(self, on: bool) -> Iterator[None]:
        """With `enabled(False)` the model is the base model."""
        with self.at(self.strength if on else 0.0):
            yield

    @contextmanager
    def at(self, strength: float | Mapping[str, float]) -> Iterator[None]:
        """The model at a strength of all components, or at one for each named."""
        before = self.strength
        self.set_strength(strength)
        try:
            yield
        finally:
            self.set_strength(before)

    @property
    def steady(self) -> bool:
        """Whether all steps are the same operations."""
        return all(adapter.steady for adapter in self.adapters.values())

    def begin(self, seed: int, step: int) -> None:
        """Before the passes of a step: what differs from step to step follows from its number."""
        if not self.steady:
            draw = float(torch.rand((), generator=torch_generator(seed, "adapter", step)))
            for adapter in self.adapters.values():
                adapter.begin(draw)

    def limit_norms(self) -> None:
        """Shrink the changes that exceed their `max_norm`; for after a step. Does nothing where there is none."""
        for name, adapter in self.adapters.items():
            if adapter.max_norm is not None:
                adapter.limit_norm(tensor_of(current(self._places[name]), "weight"))

    def merge(self, strength: float = 1.0, *, for_good: bool = False) -> None:
        """Write the changes into the weights and biases of the layers (which must not be attached).

        `for_good`: without keeping what was there before, which `unmerge` would put back.
        """
        if self.attached or self._kept is not None:
            raise LorasmithError("detach the adapters before merging them, and merge them once")
        self._kept = None if for_good else {}
        for name, adapter in self.adapters.items():
            layer, change = current(self._places[name]), adapter.bias_delta()
            weight = tensor_of(layer, "weight")
            self._write(name, "weight", adapter.weight(weight.detach(), strength))
            if change is not None:
                self._write(name, "bias", tensor_of(layer, "bias").detach().float() + strength * change)

    def _write(self, name: str, part: str, value: Tensor) -> None:
        place = tensor_of(current(self._places[name]), part)
        if self._kept is not None:
            self._kept[f"{name}/{part}"] = place.detach().clone()
        with torch.no_grad():
            place.copy_(value)

    def unmerge(self) -> None:
        """Put the weights back that `merge` found."""
        for key, kept in (self._kept or {}).items():
            name, _, part = key.rpartition("/")
            with torch.no_grad():
                tensor_of(current(self._places[name]), part).copy_(kept)
        self._kept = None

    def state_dict(self) -> dict[str, Tensor]:
        """All trained tensors, named `layer/parameter`."""
        return {f"{name}/{key}": t for name, a in self.adapters.items() for key, t in a.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`. Raises LorasmithError if the names differ."""
        missing = self.state_dict().keys() ^ state.keys()
        if missing:
            raise LorasmithError(f"the saved adapter has other layers than this one, for example {sorted(missing)[0]}")
        for name, adapter in self.adapters.items():
            adapter.load_state_dict({key: state[f"{name}/{key}"] for key in adapter.state_dict()})

    def train(self) -> None:
        """Dropouts on."""
        for adapter in self.adapters.values():
            adapter.train()

    def eval(self) -> None:
        """Dropouts off."""
        for adapter in self.adapters.values():
            adapter.eval()

    def _apply_strength(self) -> None:
        for name, adapter in self.adapters.items():
            layer = current(self._places[name])
            assert isinstance(layer, Adapted)
            layer.set_strength(adapter, self._strength[adapter.layer.component])


def fresh(config: AdapterConfig, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> Adapter | None:
    """A new adapter of a kind for a layer or, for a norm that is to be trained beside it, of kind `norm`."""
    kind = Norm() if layer.kind == "norm" and config.norms else config
    return kind.build(layer, base, generator)


def chosen(layers: str | tuple[str, ...], places: Places, presets: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names of the layers that a preset or patterns choose, in the model's order.

    Raises LorasmithError, with the nearest preset, if there are none.
    """
    patterns = presets.get(layers, (layers,)) if isinstance(layers, str) else layers
    patterns = tuple(q for p in patterns for q in presets.get(p, (p,)))
    wanted = [p for p in patterns if not p.startswith("!")] or ["*"]
    unwanted = [p[1:] for p in patterns if p.startswith("!")]
    names = [
        name
        for name in places
        if any(fnmatchcase(name, p) for p in wanted) and not any(fnmatchcase(name, p) for p in unwanted)
    ]
    if not names:
        hint = nearest(layers, list(presets)) if isinstance(layers, str) else None
        raise LorasmithError(
            f"adapter.layers: {layers!r} chooses none of {len(places)} layers. "
            + (f'Did you mean "{hint}"? ' if hint else "")
            + f"Presets: {', '.join(presets)}; or patterns of names such as {next(iter(places), '')}"
        )
    return names


def trained(adapter: Adapter) -> list[nn.Parameter]:
    """The parameters that training may move, whether or not it does so now."""
    still = {id(getattr(m, name)) for m in adapter.modules() for name in getattr(m, "still", ())}
    return [p for p in adapter.parameters() if id(p) not in still]


def late_of(adapter: Adapter) -> set[int]:
    """Which parameters, by identity, start as zero."""
    return {id(p) for m in adapter.modules() if isinstance(m, Adapter) for p in m.late()}


def current(place: tuple[nn.Module, str]) -> nn.Module:
    """The module that is at a place now."""
    owner, attribute = place
    return owner.get_submodule(attribute)


def _put(place: tuple[nn.Module, str], layer: nn.Module) -> None:
    owner, attribute = place
    owner.register_module(attribute, layer)
