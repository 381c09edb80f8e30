"""Full-size Flux and SD3.5 with random weights, as diffusers folders, for measurements.

A step of training takes the time and the memory that it takes on the real model. T5 has 2 layers instead of 24, because
texts are encoded before training and 9 GB would be written for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lorasmith.core.devices import pick_device
from lorasmith.families.stable_diffusion.random_base import initial_value, write_clip_tokenizer
from lorasmith.families.transformer_models.published import CLIP_G, CLIP_L, T5_INNER, T5_WIDTH

SHARD = 4 * 2**30
"""Bytes of a weight file, after which the next one begins."""
T5_LAYERS = 2
CLIP_TOKENS = {"bos_token_id": 49406, "eos_token_id": 49407, "vocab_size": 49408}
_CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789,.()"


@dataclass(frozen=True)
class RandomModel:
    """What differs between the models."""

    pipeline: str
    transformer: Mapping[str, Any]
    """diffusers' config of the transformer."""
    clips: Mapping[str, Mapping[str, int]]
    """Folder of each CLIP text encoder to its sizes."""
    projected: bool
    """Whether the CLIP text encoders have a projection."""
    t5: str
    """The folder of T5; that of its tokenizer has the same number."""
    scheduler: Mapping[str, Any]
    scaling: tuple[float, float]
    """Factor and shift of latents."""


def _sd35(layers: int, heads: int, table: int, dual: int) -> RandomModel:
    """A Stable Diffusion 3.5. `table`: side of the table of positions; `dual`: blocks with a second attention."""
    transformer = {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": layers,
        "attention_head_dim": 64,
        "num_attention_heads": heads,
        "joint_attention_dim": T5_WIDTH,
        "caption_projection_dim": 64 * heads,
        "pooled_projection_dim": CLIP_L["projection_dim"] + CLIP_G["projection_dim"],
        "pos_embed_max_size": table,
        "dual_attention_layers": list(range(dual)),
        "qk_norm": "rms_norm",
    }
    clips = {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G}
    scheduler = {"num_train_timesteps": 1000, "shift": 3.0}
    return RandomModel(
        "StableDiffusion3Pipeline", transformer, clips, True, "text_encoder_3", scheduler, (1.5305, 0.0609)
    )


_FLUX = RandomModel(
    "FluxPipeline",
    {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": T5_WIDTH,
        "pooled_projection_dim": CLIP_L["projection_dim"],
        "guidance_embeds": True,
        "axes_dims_rope": [16, 56, 56],
    },
    {"text_encoder": CLIP_L},
    False,
    "text_encoder_2",
    {"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True},
    (0.3611, 0.1159),
)
MODELS: Mapping[str, RandomModel] = {
    "flux": _FLUX,
    "sd35-medium": _sd35(layers=24, heads=24, table=384, dual=13),
    "sd35-large": _sd35(layers=38, heads=38, table=192, dual=0),
}


def write(out: Path, name: str, *, dtype: torch.dtype = torch.bfloat16, **smaller: Any) -> None:
    """Write one of `MODELS` into the folder `out`. `smaller`: other values of the transformer's config, for tests.

    The index of the pipeline is written last, so a folder without it is not complete.
    """
    model = MODELS[name]
    generator = torch.Generator(pick_device("auto")).manual_seed(0)
    config = {**model.transformer, **smaller}
    write_part(out / "transformer", empty_transformer(name, config), config, dtype, generator)
    write_part(out / "vae", *_vae(model.scaling), dtype, generator)
    for number, (folder, sizes) in enumerate(model.clips.items()):
        write_part(out / folder, *_clip(sizes, model.projected), dtype, generator)
        write_clip_tokenizer(out / folder.replace("text_encoder", "tokenizer"), "!" if number else "<|endoftext|>")
    write_part(out / model.t5, *_t5(), dtype, generator)
    write_t5_tokenizer(out / model.t5.replace("text_encoder", "tokenizer"))
    _write_json(out / "scheduler" / "scheduler_config.json", model.scheduler)
    _write_json(out / "model_index.json", {"_class_name": model.pipeline})


def empty_transformer(name: str, config: Mapping[str, Any]) -> nn.Module:
    from lorasmith.families.flux.network import FluxNetwork
    from lorasmith.families.sd3.mmdit import MMDiT

    network: Any = FluxNetwork if name == "flux" else MMDiT
    with torch.device("meta"):
        return network.from_config(dict(config))


def _vae(scaling: tuple[float, float]) -> tuple[nn.Module, dict[str, Any]]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    autoencoder: Any = AutoencoderKL
    config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "scaling_factor": scaling[0],
        "shift_factor": scaling[1],
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    with torch.device("meta"):
        return autoencoder.from_config(config), config


def _clip(sizes: Mapping[str, int], projected: bool) -> tuple[nn.Module, dict[str, Any]]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    activation = "quick_gelu" if sizes["hidden_size"] == CLIP_L["hidden_size"] else "gelu"
    heads = {"num_attention_heads": sizes["hidden_size"] // 64, "hidden_act": activation}
    config = CLIPTextConfig.from_dict({**sizes, **heads, **CLIP_TOKENS})
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
    return model, config.to_dict()


def _t5() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=64,
        d_model=T5_WIDTH,
        d_kv=64,
        d_ff=T5_INNER,
        num_layers=T5_LAYERS,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        return T5EncoderModel(config), config.to_dict()


def write_part(
    folder: Path, model: nn.Module, config: Mapping[str, Any], dtype: torch.dtype, generator: torch.Generator
) -> None:
    """One part with its config, in files of `SHARD` bytes with an index, as diffusers writes them."""
    _write_json(folder / "config.json", config)
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    tensors = model.state_dict()
    shards = _shards(tensors, dtype)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else f"{stem}.safetensors"
        values: dict[str, Tensor] = {}
        for name in names:
            noise = torch.empty(tensors[name].shape, dtype=dtype, device=generator.device).normal_(generator=generator)
            values[name] = initial_value(name, noise).cpu()
        save_file(values, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        _write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _shards(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> list[list[str]]:
    """The names of each file, so that each has at most `SHARD` bytes."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, like in tensors.items():
        size = like.numel() * dtype.itemsize
        if shards[-1] and filled + size > SHARD:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_t5_tokenizer(place: Path) -> None:
    """A tokenizer whose tokens are characters, with T5's pad and end tokens."""
    from tokenizers import Tokenizer as Words
    from tokenizers import decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {c: i + 3 for i, c in enumerate(_CHARACTERS)}
    words = Words(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.decoder = decoders.Fuse()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    tokenizer.save_pretrained(str(place))


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
