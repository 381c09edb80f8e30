"""Where the parts of a Stable Diffusion 3 model are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from lorasmith.core.errors import LorasmithError
from lorasmith.families.reader import TensorRef
from lorasmith.families.registry import NotRecognisedError
from lorasmith.families.sd3.sai_names import sai_place
from lorasmith.families.transformer_models.inferred_configs import count_blocks, shape_of
from lorasmith.families.transformer_models.original_names import Place
from lorasmith.families.transformer_models.presets import preset_patterns
from lorasmith.families.transformer_models.shape import TransformerShape
from lorasmith.families.transformer_models.single_file import TransformerFile
from lorasmith.families.transformer_models.source import DENOISER, LATENT_CHANNELS, TransformerFolder, TransformerSource

HEAD = 64
"""The width of an attention head where the file does not show it."""
_SIGNS = ("x_embedder.proj.weight", "pos_embed", "joint_blocks.0.x_block.attn.qkv.weight")
BLOCK_SAVES, DUAL_SAVES = 23.4, 11.2
"""What autograd saves of a block, and of its second attention (`TransformerShape`)."""
TEXT_TOKENS = 77 + 256


def shape_of_config(config: Mapping[str, Any]) -> TransformerShape:
    """The sizes of a transformer of SD3 by diffusers' config."""
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    dual = len(config.get("dual_attention_layers") or ())
    return shape_of_sizes(width, int(config["num_layers"]), dual, int(config.get("patch_size", 2)))


def shape_of_sizes(width: int, blocks: int, dual: int, patch: int) -> TransformerShape:
    """The sizes of a transformer of SD3. `dual`: how many blocks attend to the image a second time; `patch`: the side
    of a token in latents."""
    return TransformerShape(width, patch, TEXT_TOKENS, (BLOCK_SAVES,) * blocks, dual, DUAL_SAVES)


class SD3Source(TransformerSource):
    """SD3 medium, SD3.5 medium or large."""

    kind = "sd3"
    projected_text: ClassVar[tuple[str, ...]] = ("te1", "te2")
    needs_t5: ClassVar[bool] = False
    timesteps: ClassVar[str] = "logit_normal"
    default_cfg: ClassVar[float | None] = 4.5
    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]] = preset_patterns(["transformer_blocks"])
    folders: ClassVar[Mapping[str, tuple[str, str]]] = {
        "te1": ("text_encoder", "tokenizer"),
        "te2": ("text_encoder_2", "tokenizer_2"),
        "t5": ("text_encoder_3", "tokenizer_3"),
    }

    @property
    def network_shape(self) -> TransformerShape:
        return shape_of_config(self.config(DENOISER))

    def empty_denoiser(self) -> nn.Module:
        from lorasmith.families.sd3.mmdit import MMDiT

        return MMDiT.from_config(self.config(DENOISER))  # pyright: ignore[reportReturnType]


class SD3Folder(SD3Source, TransformerFolder):
    """A diffusers folder."""

    class_name: ClassVar[str] = "SD3Transformer2DModel"


class SD3File(SD3Source, TransformerFile):
    """Stability AI's checkpoint, with or without text encoders."""

    latent_scaling: ClassVar[tuple[float, float]] = (1.5305, 0.0609)
    vae_beside: ClassVar[bool] = False

    def recognise(self, refs: Mapping[str, TensorRef]) -> None:
        if not all(sign in refs for sign in _SIGNS):
            raise NotRecognisedError
        channels = refs["x_embedder.proj.weight"].shape[1]
        if channels != LATENT_CHANNELS:
            raise LorasmithError(
                f"{self.path}: a Stable Diffusion 3 model that takes more than latents ({channels} inputs, "
                f"text-to-image models have {LATENT_CHANNELS}). Use SD3 medium, or SD3.5 medium or large"
            )

    def denoiser_config(self, refs: Mapping[str, TensorRef]) -> dict[str, Any]:
        width, channels, patch, _ = shape_of(refs, "x_embedder.proj.weight")
        norm = refs.get("joint_blocks.0.x_block.attn.ln_q.weight")
        head = HEAD if norm is None else norm.shape[0]
        blocks = count_blocks(refs, "joint_blocks.")
        return {
            "sample_size": 128,
            "patch_size": patch,
            "in_channels": channels,
            "out_channels": channels,
            "num_layers": blocks,
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": shape_of(refs, "context_embedder.weight")[1],
            "caption_projection_dim": shape_of(refs, "context_embedder.weight")[0],
            "pooled_projection_dim": shape_of(refs, "y_embedder.mlp.0.weight")[1],
            "pos_embed_max_size": math.isqrt(shape_of(refs, "pos_embed")[1]),
            "dual_attention_layers": [i for i in range(blocks) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in refs],
            "qk_norm": None if norm is None else "rms_norm",
        }

    def scheduler_config(self) -> dict[str, Any]:
        return {"shift": 3.0}

    def place_of(self, path: str) -> Place:
        return sai_place(path, self.config(DENOISER)["num_layers"])

    def projects(self, part: str) -> bool:
        """A single file's CLIP L is used without its projection, by Stability's own code, ComfyUI and diffusers."""
        return part != "te1" or self._part(part).config is not None
