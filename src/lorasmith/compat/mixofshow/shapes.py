"""What the tables and lists in Mix-of-Show's YAML files may hold. Keys that are not listed here may have any value."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Len
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict


@with_config(ConfigDict(extra="allow"))
class LoraTable(TypedDict, total=False):
    """`lora_cfg`."""

    rank: int
    alpha: float
    where: str


@with_config(ConfigDict(extra="allow"))
class FinetuneTable(TypedDict, total=False):
    """`text_embedding`, `text_encoder` and `unet` of `finetune_cfg`."""

    enable_tuning: bool
    lr: float
    weight_decay: float
    lora_cfg: LoraTable


@with_config(ConfigDict(extra="allow"))
class TransformTable(TypedDict, total=False):
    """One of `instance_transform`."""

    type: str
    size: int | list[int]
    crop_p: float
    scale_ratio: list[float]
    keep_token_num: int
    enhance_type: str


@with_config(ConfigDict(extra="allow"))
class OptimizerTable(TypedDict, total=False):
    """`optim_g`."""

    type: str
    lr: float
    weight_decay: float
    betas: list[float]
    eps: float


@with_config(ConfigDict(extra="allow"))
class SampleTable(TypedDict, total=False):
    """`val.sample`."""

    num_inference_steps: int
    guidance_scale: float


Mapping = dict[str, Any] | list[dict[str, Any]]
Transforms = list[TransformTable | str]
Prompts = str | list[str | int | float]
LatentSize = Annotated[list[int], Len(3)]
Strengths = list[float]
