"""The settings of peft that a file's tensors do not have: alphas, by layer, from its metadata or from the
`adapter_config.json` beside it.

diffusers packs peft's LoraConfig of each component into the metadata (`unet.lora_alpha`); peft itself writes it beside
the tensors, without a component. Without either, peft and diffusers take the rank for alpha.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import parse_json, read_text
from lorasmith.formats.path_patterns import PathPatterns

METADATA_KEY = "lora_adapter_metadata"
FILE_NAME = "adapter_config.json"
COMPONENTS = {
    "lora_unet": "unet",
    "lora_transformer": "transformer",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
    "lora_te3": "text_encoder_3",
}
"""diffusers' name of a component by kohya's."""
KINDS = ("LORA", "LOHA", "LOKR")
"""`peft_type` of what is read. peft's other kinds have layouts of their own."""
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "lora-ga")
"""Starts of `init_lora_weights` that change the base model too, so that the tensors alone are not what was trained."""


class PeftConfig(BaseModel):
    """The fields of one peft config that change what its tensors mean; the defaults are peft's."""

    model_config = ConfigDict(extra="ignore", strict=True)

    peft_type: str = "LORA"
    r: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=8, allow_inf_nan=False)
    alpha: float = Field(default=8, allow_inf_nan=False)
    """lora_alpha of LoHa and LoKr."""
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str | None = True
    _ranks: PathPatterns = PrivateAttr()
    _alphas: PathPatterns = PrivateAttr()

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("use_rslora", "use_dora", mode="before")
    @classmethod
    def _none_is_false(cls, value: Any) -> Any:
        return False if value is None else value

    def model_post_init(self, context: Any, /) -> None:
        self._ranks = PathPatterns(self.rank_pattern, "rank_pattern")
        self._alphas = PathPatterns(self.alpha_pattern, "alpha_pattern")

    @property
    def kind(self) -> str:
        return self.peft_type.rpartition(".")[2].upper()

    def rank_of(self, path: str) -> int:
        """The rank of a layer, by its dotted path below the component."""
        rank = self._ranks.find(path)
        return self.r if rank is None else int(rank)

    def alpha_of(self, path: str, rank: int) -> float:
        """The alpha of a layer of this rank, as kohya's readers use it, who divide by the rank."""
        alpha = self._alphas.find(path)
        if alpha is None:
            alpha = self.lora_alpha if self.kind == "LORA" else self.alpha
        # rank-stabilized LoRA divides by sqrt(rank) where kohya's readers divide by the rank
        return alpha * math.sqrt(rank) if self.use_rslora and self.kind == "LORA" else alpha


def configs_in_metadata(metadata: Mapping[str, str]) -> dict[str, PeftConfig]:
    """The configs in a file's metadata by component (`unet`, `text_encoder`); empty if it has none. Raises
    LorasmithError for what cannot be read."""
    text = metadata.get(METADATA_KEY)
    if not text:
        return {}
    try:
        packed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LorasmithError(f"its {METADATA_KEY} cannot be read ({error})") from None
    if packed is None:
        return {}
    if not isinstance(packed, dict):
        raise LorasmithError(f"its {METADATA_KEY} cannot be read (it is not an object of JSON, but {text[:40]!r})")
    fields: dict[str, dict[str, Any]] = {}
    for key, value in packed.items():
        component, dot, field = key.partition(".")
        if dot:
            fields.setdefault(component, {})[field] = value
    return {component: _parse(values, f"its {METADATA_KEY}, {component}") for component, values in fields.items()}


def config_beside(path: Path) -> PeftConfig | None:
    """The config that peft wrote beside a file; None if there is none. Raises LorasmithError for what cannot be
    read."""
    config_path = path.with_name(FILE_NAME)
    if not config_path.is_file():
        return None
    content = parse_json(read_text(config_path), config_path)
    if not isinstance(content, dict):
        raise LorasmithError(f"{config_path}: is not a config of peft, which is an object of JSON")
    return _parse(content, str(config_path))


@dataclass(frozen=True)
class PeftConfigs:
    """The configs of a file by component, and where they are from."""

    by_component: Mapping[str, PeftConfig]
    source: str
    is_file: bool = False
    """Whether they are from a file beside it."""

    @classmethod
    def find(cls, metadata: Mapping[str, str], path: Path | None) -> PeftConfigs:
        """Those in the metadata, or else the one beside the file at `path`. Raises LorasmithError for what cannot be
        read."""
        by_component = configs_in_metadata(metadata)
        beside = config_beside(path) if path is not None and not by_component else None
        if path is None or beside is None:
            return cls(by_component, f"its {METADATA_KEY}")
        return cls(dict.fromkeys(COMPONENTS.values(), beside), str(path.with_name(FILE_NAME)), True)

    def of_layer(self, flat_name: str) -> PeftConfig | None:
        """The config of a layer's component."""
        return self.by_component.get(COMPONENTS.get("_".join(flat_name.split("_")[:2]), ""))


def add_peft_alphas(
    tensors: dict[str, Tensor], paths: Mapping[str, str], metadata: Mapping[str, str], path: Path | None
) -> list[str]:
    """Add the alphas of the configs to tensors in kohya's spelling; returns notes on what had to be assumed.

    `paths`: dotted module path below the component by flat layer name; `path`: the file, if peft itself may have
    written its config beside it. Raises LorasmithError for a config that cannot be read or is not that of the file.
    """
    # alphas in the file are those of its layers, whatever a config says
    without_alpha = {name: module for name, module in paths.items() if f"{name}.alpha" not in tensors}
    configs = PeftConfigs.find(metadata, path if len(without_alpha) == len(paths) else None)
    assumed = False
    other_ranks: list[str] = []
    for flat_name, module_path in without_alpha.items():
        config, rank = configs.of_layer(flat_name), _rank_of(flat_name, tensors)
        if config is None:
            assumed = assumed or rank is not None
        elif rank is not None:
            tensors[f"{flat_name}.alpha"] = torch.tensor(config.alpha_of(module_path, rank))
            if "r" in config.model_fields_set and config.rank_of(module_path) != rank:
                other_ranks.append(f"{module_path} has rank {rank}, there {config.rank_of(module_path)}")
        else:
            _scale_whole_lokr(tensors, flat_name, config, module_path)
    return _notes(configs, tensors, assumed, other_ranks)


def _scale_whole_lokr(tensors: dict[str, Tensor], flat_name: str, config: PeftConfig, module_path: str) -> None:
    """Multiply alpha / rank into LoKr of two whole factors, which peft scales too and all others do not."""
    first = f"{flat_name}.lokr_w1"
    if first in tensors and f"{flat_name}.lokr_w2" in tensors:
        rank = config.rank_of(module_path)
        tensors[first] = tensors[first].float() * (config.alpha_of(module_path, rank) / rank)


def _notes(configs: PeftConfigs, tensors: Mapping[str, Tensor], assumed: bool, other_ranks: list[str]) -> list[str]:
    """What had to be assumed. Raises LorasmithError for a config beside the file that is not of this file."""
    notes: list[str] = []
    if other_ranks:
        difference = f"{other_ranks[0]} ({len(other_ranks)} layers)"
        if configs.is_file:
            raise LorasmithError(
                f"{configs.source} is not the config of this file: {difference}\n    to do: put the config that "
                "belongs to it there, or move this one away"
            )
        notes.append(f"{configs.source} has other ranks than the tensors: {difference}")
    if assumed:
        notes.append(
            f"its alphas are not known (no {FILE_NAME} beside it, and none in its metadata): alpha = rank is assumed, "
            "as diffusers does; if it was trained with another lora_alpha, its change is wrong by lora_alpha / rank"
        )
    uses_dora = any(config.use_dora for config in configs.by_component.values())
    if uses_dora and not any(key.endswith("dora_scale") for key in tensors):
        notes.append(f"{configs.source} says use_dora, but the file has no magnitudes; it is read as plain LoRA")
    return notes


def _rank_of(flat_name: str, tensors: Mapping[str, Tensor]) -> int | None:
    """The rank of a layer of the kinds that peft's configs are read for; None for other layers."""
    for name in ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        tensor = tensors.get(f"{flat_name}.{name}")
        if tensor is not None:
            return tensor.shape[0] if tensor.dim() else None
    return None


def _parse(fields: Mapping[str, Any], source: str) -> PeftConfig:
    """A config with the types of peft's. `source`: where it is from, for errors."""
    try:
        config = PeftConfig.model_validate(dict(fields))
    except ValidationError as error:
        problems = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg'].lower()}" for e in error.errors()]
        raise LorasmithError(f"{source}: cannot be read ({'; '.join(problems)})") from None
    except LorasmithError as error:
        raise LorasmithError(f"{source}: {error}") from None
    if config.kind not in KINDS:
        raise LorasmithError(f"{source}: peft_type is {config.peft_type}; LORA, LOHA and LOKR are read")
    start = config.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise LorasmithError(
            f"{source}: init_lora_weights is {start}, which changes the base model before training, so that the file "
            "alone is not the change that was trained\n    to do: save it again in peft with "
            "path_initial_model_for_weight_conversion, which makes an ordinary LoRA of it"
        )
    return config
