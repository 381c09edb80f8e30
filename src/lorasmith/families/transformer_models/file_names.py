"""Names of a transformer's layers in LoRA files: those of its authors' files for kohya-style ones, diffusers' for peft.

Written from what sd-scripts (`lora_flux.py`, `lora_sd3.py`), ComfyUI (`lora.py`) and Forge write and read. Where the
authors' files hold several layers in one module (q, k and v), each layer also has a name of its own, OneTrainer's
`lora_transformer_<diffusers' path>`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from lorasmith.adapters.base import LayerSpec
from lorasmith.families.file_names import FamilyFileNames, FileNames
from lorasmith.families.place import Place
from lorasmith.families.source import Source
from lorasmith.families.transformer_models.original_names import PlaceOf
from lorasmith.families.transformer_models.published import T5_WIDTH, t5_layers
from lorasmith.families.transformer_models.source import DENOISER, T5, TransformerSource

_OWN, _UNET = "lora_transformer_", "lora_unet_"


class TransformerNames(FileNames):
    """The names of one model's layers.

    `t5_names`: the prefixes of T5's layers in kohya-style files, the one to write first; `t5_folder`: its name in
    diffusers' pipeline.
    """

    def __init__(self, layers: Collection[str], place_of: PlaceOf, t5_names: tuple[str, ...], t5_folder: str) -> None:
        self._t5_names, self._t5_folder = t5_names, t5_folder
        self._parts: dict[str, Place] = {}
        self._modules: dict[str, dict[str, Place]] = {}
        self._own_names: dict[str, str] = {}
        self._layers: dict[str, str] = {}
        for layer in layers:
            component, _, path = layer.partition(".")
            if component == DENOISER:
                self._add_layer(layer, path, place_of)
            else:
                self._add_text_layer(layer, component, path)
        for module, parts in self._modules.items():
            self._modules[module] = dict(sorted(parts.items(), key=lambda item: item[1].index))
        # names to write go before names that are only read
        self._layers |= {name: layer for layer, name in self._own_names.items()}

    def kohya_name(self, layer: str) -> str:
        return self._own_names.get(layer) or _OWN + layer.partition(".")[2].replace(".", "_")

    def from_kohya(self, name: str) -> str | None:
        return self._layers.get(name)

    def kohya_part(self, layer: str) -> Place | None:
        return self._parts.get(layer)

    def kohya_parts(self, name: str) -> Mapping[str, Place]:
        return self._modules.get(name, {})

    def peft_name(self, layer: str) -> str:
        component, _, path = layer.partition(".")
        folders = {"te1": "text_encoder", "te2": "text_encoder_2", T5: self._t5_folder}
        return f"{folders.get(component, component)}.{path}"

    def _add_layer(self, layer: str, path: str, place_of: PlaceOf) -> None:
        flat_path = path.replace(".", "_")
        self._own_names[layer] = _OWN + flat_path
        # OneTrainer's names, and SimpleTuner's as the reader of files spells them
        for prefix in (_OWN, _UNET):
            self._layers.setdefault(prefix + flat_path, layer)
        try:
            place = place_of(path)
        except KeyError:
            return
        module = _UNET + place.module.replace(".", "_")
        if len(place.sizes) == 1 and not place.halves_swapped:
            self._own_names[layer] = module
            return
        place = replace(place, module=module)
        self._parts[layer] = place
        self._modules.setdefault(module, {})[layer] = place
        if place.sizes[:3] == (1, 1, 1) and len(place.sizes) > 3 and place.index < 3:
            # a part of the module, in files that leave out the MLP
            joint = replace(place, module=f"{module}_qkv", sizes=(1, 1, 1))
            self._modules.setdefault(joint.module, {})[layer] = joint

    def _add_text_layer(self, layer: str, component: str, path: str) -> None:
        prefixes = self._t5_names if component == T5 else (f"lora_{component}_",)
        self._own_names[layer] = prefixes[0] + path.replace(".", "_")
        aliases = [*prefixes, *(["lora_te_"] if component == "te1" else [])]
        for prefix in aliases:
            for spelling in (path, path.removeprefix("text_model.")):
                self._layers.setdefault(prefix + spelling.replace(".", "_"), layer)


class TransformerFileNames(FamilyFileNames):
    """A family of transformers. Each has its subclass."""

    def layers_of(self, source: Source) -> tuple[LayerSpec, ...]:
        assert isinstance(source, TransformerSource)
        specs = source.layers_in((DENOISER, *source.present_text_encoders))
        return (*specs, *_layers_of_t5(source))


def _layers_of_t5(source: TransformerSource) -> Iterator[LayerSpec]:
    """The layers of a base's T5; those of T5 XXL for a base without it that takes its states."""
    if source.has_t5 and not source.missing_reason(T5):
        yield from t5_layers(source.config(T5))
    elif source.context_width == T5_WIDTH:
        yield from t5_layers()
