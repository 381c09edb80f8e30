"""A set of adapters on the layers of a model: chosen, attached, detached, merged."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters.adapter import SteppedPart
from lorasmith.adapters.base import Adapter, AdapterConfig, LayerSpec
from lorasmith.adapters.layer import Adapted, spec_of, tensor_of
from lorasmith.adapters.norm import Norm
from lorasmith.core.errors import LorasmithError, nearest
from lorasmith.core.rng import torch_generator

Places = Mapping[str, tuple[nn.Module, str]]
"""Layer names, and where each layer is: its parent module and the parent's attribute (a number for lists)."""


class AdapterSet:
    """Adapters by layer name. `attach` and `detach` are inverses; so are `merge` and `unmerge`."""

    def __init__(self, adapters: Mapping[str, Adapter], places: Places, rates: Mapping[str, float]) -> None:
        """`rates`: the factor of the learning rate of each layer."""
        self.adapters = dict(adapters)
        self.attached = False
        self.stepped_parts: list[SteppedPart] = []
        """After `use_same_operations`: parameters that only some steps train."""
        self._places = {name: places[name] for name in self.adapters}
        self._rates = dict(rates)
        self._strength: dict[str, float] = dict.fromkeys(self.components(), 1.0)
        self._unmerged: dict[str, Tensor] | None = None
        """What `merge` has overwritten, named `layer/parameter`; None while nothing is merged."""

    @classmethod
    def create(
        cls,
        config: AdapterConfig,
        layers: Places,
        presets: Mapping[str, tuple[str, ...]],
        *,
        seed: int,
        device: torch.device | None = None,
    ) -> AdapterSet:
        """Fresh adapters on the layers that `config.layers` chooses from `layers`.

        `device`: where the model computes, if that may be another device than the one its frozen weights wait on.
        Raises LorasmithError if no layer fits, or if a rule of `config.overrides` matches none of them.
        """
        names = select_layers(config.layers, layers, presets)
        # a rule that matches nothing is a spelling mistake that would otherwise go unnoticed
        for rule in config.overrides:
            if not any(fnmatchcase(name, rule.layers) for name in names):
                raise LorasmithError(
                    f'adapter.overrides: "{rule.layers}" fits none of the {len(names)} layers that are trained, '
                    f"for example {names[0]}"
                )
        adapters: dict[str, Adapter] = {}
        rates: dict[str, float] = {}
        for name in names:
            layer = module_at(layers[name])
            spec = spec_of(name, layer)
            if spec is None:
                continue
            settings, rate = config.for_layer(name)
            base = tensor_of(layer, "weight")
            # a generator for each layer, so that the choice of other layers does not change its start
            adapter = new_adapter(settings, spec, base.detach(), torch_generator(seed, "adapter", name))
            if adapter is not None:
                apply_settings(adapter, settings)
                adapters[name] = adapter.to(base.device if device is None else device)
                rates[name] = rate
        if not adapters:
            kind = getattr(config, "kind", "adapter")
            raise LorasmithError(f'adapter.layers: "{kind}" fits none of the layers chosen by {config.layers!r}')
        return cls(adapters, layers, rates)

    @classmethod
    def restore(cls, adapters: Mapping[str, Adapter], layers: Places) -> AdapterSet:
        """Adapters that come from a file, on the layers that they are named after."""
        return cls(adapters, layers, dict.fromkeys(adapters, 1.0))

    def __len__(self) -> int:
        return len(self.adapters)

    def components(self) -> tuple[str, ...]:
        """The components that carry adapters , in order."""
        return tuple(dict.fromkeys(adapter.layer.component for adapter in self.adapters.values()))

    def module_of(self, name: str) -> nn.Module:
        """The layer of an adapter, as it is in the model now: the bare layer, or an `Adapted` around it."""
        return module_at(self._places[name])

    def weight_of(self, name: str) -> Tensor:
        """The weight that a layer has without adapters."""
        return tensor_of(self.module_of(name), "weight").detach()

    def weight_beside(self, name: str) -> Tensor:
        """The same on the device of the layer's adapter, for arithmetic; frozen weights may wait on the host."""
        return self.weight_of(name).to(next(self.adapters[name].parameters()).device)

    # Training

    def parameters(self, component: str | None = None) -> list[nn.Parameter]:
        """The trained parameters of one component, or of all."""
        chosen = [adapter for adapter in self.adapters.values() if component in (None, adapter.layer.component)]
        return [parameter for adapter in chosen for parameter in trained_parameters(adapter)]

    def parameters_by_rate(self, component: str) -> dict[float, list[nn.Parameter]]:
        """The trained parameters of a component, by the factor of their learning rate."""
        by_rate: dict[float, list[nn.Parameter]] = {}
        for name, adapter in self.adapters.items():
            if adapter.layer.component != component:
                continue
            # an adapter can contain another (DoRA), whose up parameters count as well
            inner = [module for module in adapter.modules() if isinstance(module, Adapter)]
            up_ids = {id(parameter) for module in inner for parameter in module.up_parameters()}
            for parameter in trained_parameters(adapter):
                rate = self._rates[name] * (adapter.up_lr if id(parameter) in up_ids else 1.0)
                by_rate.setdefault(rate, []).append(parameter)
        return by_rate

    @property
    def graph_safe(self) -> bool:
        """Whether every step can run the same operations, which a CUDA graph requires."""
        return all(adapter.graph_safe for adapter in self.adapters.values())

    def use_same_operations(self) -> None:
        """Run the same operations in each step from now on. The adapters are where they will be trained."""
        shared: dict[Any, Any] = {}
        parts: dict[int, SteppedPart] = {}
        for adapter in self.adapters.values():
            adapter.use_same_operations(shared)
            for part in adapter.stepped_parts():
                # one part for all layers that share its scalar
                known = parts.setdefault(part.active.data_ptr(), SteppedPart(part.active, []))
                known.parameters.extend(part.parameters)
        self.stepped_parts = list(parts.values())

    def begin_step(self, seed: int, step: int) -> None:
        """Called before the passes of a step; what differs from step to step follows from the step's number."""
        stepped = [adapter for adapter in self.adapters.values() if type(adapter).begin_step is not Adapter.begin_step]
        if stepped:
            draw = float(torch.rand((), generator=torch_generator(seed, "adapter", step)))
            for adapter in stepped:
                adapter.begin_step(draw)

    @property
    def follows_noise(self) -> bool:
        """Whether an adapter needs the noise of each pass."""
        return any(adapter.follows_noise for adapter in self.adapters.values())

    def begin_pass(self, position: Tensor) -> None:
        """Called before each pass of the denoiser in training. `position`: (B,), from 0 (data) to 1 (noise)."""
        shared: dict[Any, Tensor] = {}
        for adapter in self.adapters.values():
            adapter.begin_pass(position, shared)

    def factor_pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """The pairs of factors, up and down, of all adapters whose change is a plain product."""
        pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        for adapter in self.adapters.values():
            # an adapter can contain another (DoRA)
            for module in adapter.modules():
                if isinstance(module, Adapter):
                    pairs += module.factor_pairs()
        return pairs

    def limit_norms(self) -> None:
        """Shrink the changes that exceed their `max_norm`; called after a step."""
        for name, adapter in self.adapters.items():
            if adapter.max_norm is not None:
                adapter.limit_norm(self.weight_beside(name))

    def train(self) -> None:
        """Turn dropouts on."""
        for adapter in self.adapters.values():
            adapter.train()

    def eval(self) -> None:
        """Turn dropouts off."""
        for adapter in self.adapters.values():
            adapter.eval()

    # On the model and off it

    def attach(self) -> AdapterSet:
        """Put the adapters on their layers, on top of those already there; returns self."""
        for name, adapter in self.adapters.items():
            layer = self.module_of(name)
            if not isinstance(layer, Adapted):
                layer = Adapted(layer, adapter.layer)
                replace_module(self._places[name], layer)
            layer.add(adapter)
        self.attached = True
        self._apply_strength()
        return self

    def detach(self) -> None:
        """Take the adapters off; a layer without any other adapter is the same module object as before."""
        if not self.attached:
            return
        for name, adapter in self.adapters.items():
            layer = self._adapted(name)
            layer.remove(adapter)
            if not layer.adapters:
                replace_module(self._places[name], layer.base)
        self.attached = False

    def replace_each(self, change: Callable[[Adapter], Adapter]) -> AdapterSet:
        """A new set with the result of `change` for each adapter, attached in the place of this one."""
        # the layers must be bare before the new adapters go on
        self.detach()
        adapters = {name: change(adapter) for name, adapter in self.adapters.items()}
        return AdapterSet(adapters, self._places, self._rates).attach()

    @property
    def strength(self) -> dict[str, float]:
        """The strength of each component."""
        return dict(self._strength)

    def set_strength(self, strength: float | Mapping[str, float]) -> None:
        """One strength for all components, or one for each that is named."""
        values = strength if isinstance(strength, Mapping) else dict.fromkeys(self._strength, strength)
        for component, value in values.items():
            if component in self._strength:
                self._strength[component] = float(value)
        if self.attached:
            self._apply_strength()

    def _apply_strength(self) -> None:
        for name, adapter in self.adapters.items():
            self._adapted(name).set_strength(adapter, self._strength[adapter.layer.component])

    def _adapted(self, name: str) -> Adapted:
        """The layer of an adapter that is attached."""
        layer = self.module_of(name)
        assert isinstance(layer, Adapted)
        return layer

    @contextmanager
    def at(self, strength: float | Mapping[str, float]) -> Generator[None, None, None]:
        """The model at a strength of all components, or at one for each that is named."""
        before = self.strength
        self.set_strength(strength)
        try:
            yield
        finally:
            self.set_strength(before)

    @contextmanager
    def enabled(self, on: bool) -> Generator[None, None, None]:
        """With `enabled(False)` the model is the base model."""
        with self.at(self.strength if on else 0.0):
            yield

    # In the weights

    def merge(self, strength: float = 1.0, *, for_good: bool = False) -> None:
        """Write the changes into the weights and biases of the layers, which must not have the adapters attached.

        `for_good`: without saving the values from before, which `unmerge` would put back.
        """
        if self.attached or self._unmerged is not None:
            raise LorasmithError("detach the adapters before merging them, and merge them once")
        self._unmerged = None if for_good else {}
        for name, adapter in self.adapters.items():
            layer, bias_change = self.module_of(name), adapter.bias_delta()
            self._overwrite(name, "weight", adapter.weight(self.weight_beside(name), strength))
            if bias_change is not None:
                bias = tensor_of(layer, "bias").detach().float().to(bias_change.device)
                self._overwrite(name, "bias", bias + strength * bias_change)

    def _overwrite(self, name: str, parameter_name: str, value: Tensor) -> None:
        """Write a value into a layer's weight or bias, and save the one from before for `unmerge`."""
        parameter = tensor_of(self.module_of(name), parameter_name)
        if self._unmerged is not None:
            self._unmerged[f"{name}/{parameter_name}"] = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(value)

    def unmerge(self) -> None:
        """Put back the values from before `merge`."""
        for key, value in (self._unmerged or {}).items():
            name, _, parameter_name = key.rpartition("/")
            with torch.no_grad():
                tensor_of(self.module_of(name), parameter_name).copy_(value)
        self._unmerged = None

    # Checkpoints

    def state_dict(self) -> dict[str, Tensor]:
        """All parameters and buffers of the adapters, named `layer/parameter`."""
        state: dict[str, Tensor] = {}
        for name, adapter in self.adapters.items():
            for key, tensor in adapter.state_dict().items():
                state[f"{name}/{key}"] = tensor
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`. Raises LorasmithError if the names differ."""
        differing = self.state_dict().keys() ^ state.keys()
        if differing:
            raise LorasmithError(f"the saved adapter has other layers than this one, for example {min(differing)}")
        for name, adapter in self.adapters.items():
            adapter.load_state_dict({key: state[f"{name}/{key}"] for key in adapter.state_dict()})


def select_layers(layers: str | tuple[str, ...], places: Places, presets: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names of the layers that a preset or patterns choose, in the model's order.

    `layers`: a preset, a pattern, or a list of both; a pattern with `!` in front takes layers out. Raises
    LorasmithError, with the nearest preset, if nothing is chosen.
    """
    # a preset can name other presets, and so can a list
    entries = presets.get(layers, (layers,)) if isinstance(layers, str) else layers
    patterns: list[str] = []
    for entry in entries:
        patterns += presets.get(entry, (entry,))
    # exclusions alone mean all layers but those
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    included = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    names = [name for name in places if matches(name, included) and not matches(name, excluded)]
    if not names:
        raise nothing_chosen(layers, places, presets)
    return names


def nothing_chosen(
    layers: str | tuple[str, ...], places: Places, presets: Mapping[str, tuple[str, ...]]
) -> LorasmithError:
    """The error for `adapter.layers` that matches no layer."""
    preset = nearest(layers, presets) if isinstance(layers, str) else None
    hint = "" if preset is None else f'Did you mean "{preset}"? '
    return LorasmithError(
        f"adapter.layers: {layers!r} chooses none of {len(places)} layers. {hint}"
        f"Presets: {', '.join(presets)}; or patterns of names such as {next(iter(places), '')}"
    )


def matches(name: str, patterns: list[str]) -> bool:
    """Whether a layer name matches one of the fnmatch patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def new_adapter(config: AdapterConfig, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> Adapter | None:
    """A fresh adapter for a layer: of the config's kind or, for norms that are trained as well, of kind `norm`."""
    kind = Norm() if layer.kind == "norm" and config.norms else config
    return kind.build(layer, base, generator)


def apply_settings(adapter: Adapter, config: AdapterConfig) -> None:
    """Give an adapter the settings of training, which files do not hold."""
    adapter.dropout = config.dropouts
    adapter.max_norm = config.max_norm
    adapter.up_lr = config.up_lr_of(adapter.layer.component)


def trained_parameters(adapter: Adapter) -> list[nn.Parameter]:
    """The parameters that training may change, even if they do not require a gradient now."""
    frozen_ids: set[int] = set()
    for module in adapter.modules():
        if isinstance(module, Adapter):
            frozen_ids |= {id(getattr(module, name)) for name in module.frozen}
    return [parameter for parameter in adapter.parameters() if id(parameter) not in frozen_ids]


def module_at(place: tuple[nn.Module, str]) -> nn.Module:
    """The module that is at a place now."""
    parent, attribute = place
    return parent.get_submodule(attribute)


def replace_module(place: tuple[nn.Module, str], module: nn.Module) -> None:
    """Put another module at a place."""
    parent, attribute = place
    parent.register_module(attribute, module)
