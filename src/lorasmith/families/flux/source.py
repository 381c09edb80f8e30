"""Where the parts of a Flux model are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from lorasmith.core.errors import LorasmithError
from lorasmith.families.flux.bfl_names import bfl_place
from lorasmith.families.reader import TensorRef
from lorasmith.families.registry import NotRecognisedError
from lorasmith.families.transformer_models.inferred_configs import count_blocks, shape_of
from lorasmith.families.transformer_models.original_names import Place
from lorasmith.families.transformer_models.presets import preset_patterns
from lorasmith.families.transformer_models.shape import TransformerShape
from lorasmith.families.transformer_models.single_file import TransformerFile
from lorasmith.families.transformer_models.source import DENOISER, LATENT_CHANNELS, TransformerFolder, TransformerSource

PACKED_CHANNELS = 4 * LATENT_CHANNELS
"""Inputs of the transformer: 2 x 2 latents of 16 channels."""
_SIGNS = ("img_in.weight", "txt_in.weight", "vector_in.in_layer.weight", "double_blocks.0.img_mod.lin.weight")
DOUBLE_SAVES, SINGLE_SAVES = 20.3, 19.2
"""What autograd saves of the two kinds of blocks (`TransformerShape`)."""
TEXT_TOKENS = 512


def shape_of_config(config: Mapping[str, Any]) -> TransformerShape:
    """The sizes of a transformer of Flux by diffusers' config."""
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    return shape_of_sizes(width, int(config["num_layers"]), int(config["num_single_layers"]))


def shape_of_sizes(width: int, double_blocks: int, single_blocks: int) -> TransformerShape:
    """The sizes of a transformer of Flux by its width and its numbers of blocks."""
    blocks = (DOUBLE_SAVES,) * double_blocks + (SINGLE_SAVES,) * single_blocks
    return TransformerShape(width, 2, TEXT_TOKENS, blocks)


class FluxSource(TransformerSource):
    """Flux.1 dev or schnell."""

    kind = "flux"
    projected_text: ClassVar[tuple[str, ...]] = ()
    needs_t5: ClassVar[bool] = True
    timesteps: ClassVar[str] = "shifted"
    default_cfg: ClassVar[float | None] = 1.0
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]] = preset_patterns(
        ["transformer_blocks", "single_transformer_blocks"]
    )
    folders: ClassVar[Mapping[str, tuple[str, str]]] = {
        "te1": ("text_encoder", "tokenizer"),
        "t5": ("text_encoder_2", "tokenizer_2"),
    }

    @property
    def is_distilled(self) -> bool:
        """Whether the guidance is an input of the network (dev), rather than a second pass (schnell: none at all)."""
        return bool(self.config(DENOISER).get("guidance_embeds"))

    @property
    def network_shape(self) -> TransformerShape:
        return shape_of_config(self.config(DENOISER))

    def empty_denoiser(self) -> nn.Module:
        from lorasmith.families.flux.network import FluxNetwork

        return FluxNetwork.from_config(self.config(DENOISER))  # pyright: ignore[reportReturnType]


class FluxFolder(FluxSource, TransformerFolder):
    """A diffusers folder."""

    class_name: ClassVar[str] = "FluxTransformer2DModel"


class FluxFile(FluxSource, TransformerFile):
    """Black Forest Labs' transformer, or ComfyUI's checkpoint with all parts."""

    latent_scaling: ClassVar[tuple[float, float]] = (0.3611, 0.1159)
    vae_beside: ClassVar[bool] = True

    def recognise(self, refs: Mapping[str, TensorRef]) -> None:
        if not all(sign in refs for sign in _SIGNS):
            raise NotRecognisedError
        channels = refs["img_in.weight"].shape[1]
        if channels != PACKED_CHANNELS:
            raise LorasmithError(
                f"{self.path}: a Flux model that takes more than latents (fill, depth or canny: {channels} inputs, "
                f"dev and schnell have {PACKED_CHANNELS}). Use dev or schnell"
            )

    def denoiser_config(self, refs: Mapping[str, TensorRef]) -> dict[str, Any]:
        width, channels = shape_of(refs, "img_in.weight")
        head = shape_of(refs, "double_blocks.0.img_attn.norm.query_norm.scale")[0]
        # of the rotary embedding: 16, 56 and 56 of 128 for the text, rows and columns
        sides = 2 * (7 * head // 32)
        return {
            "in_channels": channels,
            "num_layers": count_blocks(refs, "double_blocks."),
            "num_single_layers": count_blocks(refs, "single_blocks."),
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": shape_of(refs, "txt_in.weight")[1],
            "pooled_projection_dim": shape_of(refs, "vector_in.in_layer.weight")[1],
            "guidance_embeds": "guidance_in.in_layer.weight" in refs,
            "axes_dims_rope": [head - 2 * sides, sides, sides],
        }

    def scheduler_config(self) -> dict[str, Any]:
        # dev: the shift depends on the size of the picture; schnell has none
        return {"use_dynamic_shifting": True} if self.is_distilled else {"shift": 1.0}

    def place_of(self, path: str) -> Place:
        return bfl_place(path)
