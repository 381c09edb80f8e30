"""The configuration of a Stable Diffusion UNet: diffusers' config.json, reduced to what differs between models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.families.network_shape import BlockActivations
from lorasmith.families.stable_diffusion.unet_activations import MARGIN, block_activations

_FIXED: dict[str, tuple[Any, ...]] = {  # settings that are the same in all models of the family
    "act_fn": ("silu",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "addition_embed_type": (None, "text_time"),
}


@dataclass(frozen=True)
class UNetConfig:
    """Tuples have one entry for each level, from the highest resolution to the lowest."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    """Transformer blocks in each attention; 0 if the level has none."""
    heads: tuple[int, ...]
    """Attention heads."""
    context: int
    """Width of the text states."""
    layers: int = 2
    """Residual blocks of a level on the way down; there is one more on the way up."""
    mid_depth: int = 1
    groups: int = 32
    eps: float = 1e-5
    linear_projection: bool = False
    pooled: int = 0
    """Width of [pooled text, sizes]; 0 if this is not SDXL."""
    size_embed: int = 0
    """Width of one embedded size."""
    in_channels: int = 4
    out_channels: int = 4

    @property
    def margin(self) -> float:
        """See `NetworkShape`."""
        return MARGIN

    def block_activations(self, width: int, height: int) -> list[BlockActivations]:
        """See `NetworkShape`."""
        return block_activations(self, width, height)

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any], where: str = "unet/config.json") -> UNetConfig:
        """Read diffusers' config. Raises LorasmithError for a setting that no model of the family has."""
        _check_fixed(config, where)
        channels = tuple(config.get("block_out_channels", (320, 640, 1280, 1280)))
        levels = len(channels)
        has_attention = _levels_with_attention(config, levels, where)
        block_depths = config.get("transformer_layers_per_block", 1)
        depths = _per_level(block_depths, levels, "transformer_layers_per_block", where)
        # diffusers' `attention_head_dim` is the number of heads in these models (a known misnomer).
        heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
        context = config.get("cross_attention_dim", 1280)
        layers = config.get("layers_per_block", 2)
        if not isinstance(context, int) or not isinstance(layers, int):
            raise LorasmithError(f"{where}: cross_attention_dim and layers_per_block must be one number for all levels")

        is_sdxl = config.get("addition_embed_type") == "text_time"
        return cls(
            channels=channels,
            depths=tuple(depth if has else 0 for depth, has in zip(depths, has_attention, strict=True)),
            heads=_per_level(heads, levels, "attention_head_dim", where),
            context=context,
            layers=layers,
            mid_depth=depths[-1],
            groups=config.get("norm_num_groups", 32),
            eps=config.get("norm_eps", 1e-5),
            linear_projection=bool(config.get("use_linear_projection", False)),
            pooled=config["projection_class_embeddings_input_dim"] if is_sdxl else 0,
            size_embed=config["addition_time_embed_dim"] if is_sdxl else 0,
            in_channels=config.get("in_channels", 4),
            out_channels=config.get("out_channels", 4),
        )


def _check_fixed(config: Mapping[str, Any], where: str) -> None:
    for key, allowed in _FIXED.items():
        if key in config and config[key] not in allowed:
            raise LorasmithError(
                f"{where}: {key} is {config[key]!r}; only {' or '.join(map(repr, allowed))} is supported. "
                "Is this a Stable Diffusion 1.x, 2.x or XL model?"
            )


def _levels_with_attention(config: Mapping[str, Any], levels: int, where: str) -> list[bool]:
    """For each level whether it has attention. Raises LorasmithError unless the way up mirrors the way down."""
    down = config.get("down_block_types", ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",))
    up = config.get("up_block_types", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1))
    has_attention = [_has_attention(kind, where) for kind in down]
    if [_has_attention(kind, where) for kind in reversed(up)] != has_attention:
        raise LorasmithError(f"{where}: up_block_types {list(up)} do not mirror down_block_types {list(down)}")
    return has_attention


def _has_attention(kind: str, where: str) -> bool:
    if kind in ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"):
        return True
    if kind in ("DownBlock2D", "UpBlock2D"):
        return False
    raise LorasmithError(f"{where}: blocks of kind {kind!r} do not occur in Stable Diffusion")


def _per_level(value: Any, levels: int, key: str, where: str) -> tuple[int, ...]:
    values = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(values) != levels or not all(isinstance(v, int) for v in values):
        raise LorasmithError(
            f"{where}: {key} is {value!r}; expected one whole number, or one for each of {levels} levels"
        )
    return values
