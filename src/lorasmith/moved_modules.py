"""Old import paths of plug-ins, which keep working until version 0.3, with a warning.

Modules were moved once, in version 0.2. Importing an old path gives a module that forwards to the new one.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "train.batches": "training.step.batches",
    "train.build": "training.setup.build",
    "train.check": "training.setup.check",
    "train.checkpoint": "training.output.checkpoint",
    "train.config": "training.config",
    "train.ema": "training.step.ema",
    "train.eva": "training.setup.eva",
    "train.events": "training.output.events",
    "train.export": "training.output.export",
    "train.first_batches": "training.setup.first_batches",
    "train.folder": "training.output.folder",
    "train.gradients": "training.step.gradients",
    "train.graph": "training.step.cuda_graph",
    "train.loop": "training.step.loop",
    "train.losses": "training.step.metrics",
    "train.optimizers": "training.step.optimizers",
    "train.ranks": "training.step.distributed",
    "train.report": "training.output.report",
    "train.run": "training.run",
    "train.schedules": "training.step.lr_schedules",
    "train.session": "training.session",
    "train.summary": "training.output.summary",
    "train.sweep": "training.sweep",
    "train.whole_model": "training.output.full_model",
    "train.words": "training.setup.initial_tokens",
    "train.objectives.parts": "training.step.objectives.terms",
    "train.objectives.parts.terms": "training.step.objectives.terms.evaluate",
    "train.objectives": "training.step.objectives",
    "train.hooks.numbered": "training.hooks.numbered_files",
    "train.hooks.words": "training.hooks.token_embeddings",
    "train.hooks": "training.hooks",
    "train.sweep.outcome": "training.sweep.results",
    "train": "training",
    "infer.asked": "sampling.options",
    "infer.baked": "training.setup.merge_into_base",
    "infer.control": "sampling.control",
    "infer.grid": "imaging.grid",
    "infer.heat": "imaging.heatmap",
    "infer.png": "imaging.png",
    "infer.sheet": "imaging.contact_sheet",
    "infer.loras": "sampling.loras",
    "infer.predictions": "sampling.predictions",
    "infer.prompts": "sampling.prompts",
    "infer.regions": "sampling.regions",
    "infer.run": "sampling.run",
    "infer.sample": "sampling.sample",
    "infer.samplers": "sampling.samplers",
    "infer.settings": "sampling.settings",
    "infer.evaluate.ask": "evaluation.candidates",
    "infer.evaluate.page": "evaluation.report",
    "infer.evaluate.remembered": "evaluation.feature_cache",
    "infer.evaluate.tiny": "evaluation.judge_scorer",
    "infer.evaluate": "evaluation",
    "infer": "sampling",
    "families.sd1": "families.stable_diffusion.sd1",
    "families.sd2": "families.stable_diffusion.sd2",
    "families.sdxl": "families.stable_diffusion.sdxl",
    "families.stable": "families.stable_diffusion.family",
    "families.names": "families.stable_diffusion.layer_names",
    "families.ldm_names": "families.stable_diffusion.ldm_names",
    "families.unet": "families.stable_diffusion.unet",
    "families.unet_config": "families.stable_diffusion.unet_config",
    "families.vae": "families.stable_diffusion.vae",
    "families.other_vae": "families.stable_diffusion.other_vae",
    "families.text": "families.stable_diffusion.text",
    "families.emphasis": "families.stable_diffusion.emphasis",
    "families.attention_maps": "families.stable_diffusion.attention_maps",
    "families.steering": "families.stable_diffusion.steering",
    "families.kernels": "families.ops.triton_group_norm",
    "families.lean": "families.ops.frozen_conv",
    "families.nhwc": "families.ops.group_norm",
    "compat.diffusers.classes": "compat.diffusers.class_images",
    "compat.kohya.images": "compat.kohya.data",
    "compat.sentences": "compat.prompt_templates",
    "compat.kohya.sending": "compat.kohya.uploads",
    "compat.kohya.showing": "compat.kohya.previews",
    "compat.kohya.writing": "compat.kohya.outputs",
    "compat.kohya.options.showing": "compat.kohya.options.previews",
    "concepts.start": "concepts.initial_embeddings",
    "concepts.train": "concepts.token_trainer",
    "data.ahead": "data.prefetch",
    "data.pixels": "data.views",
    "fusion.asked": "fusion.options",
    "fusion.texts": "fusion.prompts",
    "formats.words": "formats.token_embeddings",
}
"""Old to new path below `lorasmith`; a module below an entry moves with it."""

RENAMED = {
    "formats.base": {"Names": "LayerNames", "refuse": "unsupported_layers", "words_of": "layer_tensors"},
    "evaluation": {"Eyes": "FeatureExtractor", "Seen": "Features"},
    "evaluation.base": {"Eyes": "FeatureExtractor", "Seen": "Features"},
    "data.transforms.base": {"Cut": "Crop", "Moment": "TrainingProgress", "joined": "join_tags"},
    "adapters.factored": {"FactoredAdapter": "adapters.factored_adapter:FactoredAdapter"},
    "adapters.lora": {"LoRAAdapter": "adapters.lora_adapter:LoRAAdapter"},
    "training.step.objectives.terms": {"ObjectivePart": "LossTerm"},
    "training.step.objectives.terms.base": {"ObjectivePart": "LossTerm"},
    "families.stable_diffusion.attention_maps": {"Maps": "CrossAttentionMaps"},
    "families.source": {"PARTS": "families.stable_diffusion.source:PARTS"},
    "families.base": {"Cond": "Conditioning", "Moments": "LatentDistribution"},
    "data.transforms": {"Cut": "Crop", "Moment": "TrainingProgress"},
    "files.model": {"Model": "ModelLayers"},
}
"""New path of a module to the old and new names of what plug-ins import from it; `module:name` for what is in another
module today."""

RENAMED_MEMBERS = {
    "adapters.base.Adapter": {
        "words": "tensor_names",
        "passing_weight": "forward_weight",
        "onto": "add_to",
        "begin": "begin_step",
        "steady": "graph_safe",
        "late": "up_parameters",
        "late_rate": "up_lr",
        "still": "frozen",
        "passes": "norm_limit_passes",
        "drop": "dropout_hidden",
        "thin": "dropout_delta",
    },
    "adapters.base.AdapterConfig": {"late_rate": "up_lr_of", "adopt": "continue_from"},
}
"""Extension point to the old and new names of members that plug-ins define or call."""


def new_path(path: str) -> str | None:
    """The new path of a module (both below `lorasmith`), or None if it was not moved."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        moved = MOVED.get(".".join(parts[:length]))
        if moved is not None:
            return ".".join([moved, *parts[length:]])
    return None


def renamed(module: str, name: str) -> Any:
    """The value that `name` of a module (below `lorasmith`) is called today. Raises AttributeError if there is none."""
    new = RENAMED.get(module, {}).get(name)
    if new is None:
        raise AttributeError(f"module 'lorasmith.{module}' has no attribute {name!r}")
    warnings.warn(f"lorasmith.{module}.{name} is now called {new}", FutureWarning, stacklevel=3)
    new_module, _, new_name = new.rpartition(":")
    return getattr(import_module(f"lorasmith.{new_module or module}"), new_name)


def new_member_name(extension_point: str, name: str) -> str | None:
    """What a member of an extension point is called today, with a warning; None if it was not renamed."""
    new = RENAMED_MEMBERS[extension_point].get(name)
    if new is not None:
        warnings.warn(f"{extension_point}.{name} is now called {new}", FutureWarning, stacklevel=3)
    return new


def carry_old_members(plugin: type, extension_point: str) -> None:
    """Let a subclass of an extension point that still defines members under their old names work as before."""
    for name in RENAMED_MEMBERS[extension_point].keys() & vars(plugin).keys():
        new = new_member_name(extension_point, name)
        if new is not None:
            setattr(plugin, new, vars(plugin)[name])


class MovedModule(ModuleType):
    """Stands under an old path; every name comes from the module under the new one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        path = new_path(self.__name__.removeprefix("lorasmith."))
        module = import_module(f"lorasmith.{path}")
        try:
            return getattr(module, name)
        except AttributeError:
            return renamed(str(path), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`lorasmith.train(...)` stays the public function where something has imported `lorasmith.train` as well."""
        if self.__name__ != "lorasmith.train":
            raise TypeError("'module' object is not callable")
        return import_module("lorasmith.api").train(*args, **kwargs)


class MovedModuleFinder(MetaPathFinder, Loader):
    """Finds old import paths below `lorasmith`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        prefix, _, below = fullname.partition(".")
        new = new_path(below) if prefix == "lorasmith" else None
        if new is None:
            return None
        warnings.warn(
            f"{fullname} is now lorasmith.{new}; the old path goes away in version 0.3", FutureWarning, stacklevel=2
        )
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return MovedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def install() -> None:
    """Let old paths be imported from now on. They come first: an emptied old folder would hide them otherwise."""
    sys.meta_path.insert(0, MovedModuleFinder())
