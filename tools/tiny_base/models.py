"""The three networks of the tiny base, and the start that makes its autoencoder quick to train.

A VAE learns very slowly from random weights. This one starts as the identity: eight channels carry +RGB, -RGB and a
pair of constants through every layer. The constants dominate the statistics of the one norm group, so that normalising
scales the carriers by a steady factor, and silu(x) - silu(-x) = x undoes the last activation.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

VOCABULARY = 4096
START, END = VOCABULARY - 2, VOCABULARY - 1
CARRIERS = 8
CONSTANT = 6.0
LATENT_SCALE = 2.5
"""RGB in -1..1 starts as a latent of +-LATENT_SCALE."""


def unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.x's topology, every layer of it, at a tenth of the width."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def text_encoder() -> CLIPTextModel:
    """CLIP's text model with three layers of 128."""
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=512,
        projection_dim=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    return CLIPTextModel(config)


def text_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights under the names in Stable Diffusion's files, which newer versions of transformers shorten."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("position_ids")}
    return {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in state.items()}


def load_text_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """The inverse of `text_state`."""
    own = model.state_dict()
    named = {k if k in own else k.removeprefix("text_model."): v for k, v in state.items()}
    missing = model.load_state_dict(named, strict=False).missing_keys
    if [k for k in missing if not k.endswith("position_ids")]:
        raise ValueError(f"text encoder: missing {missing}")


def vae() -> AutoencoderKL:
    """The autoencoder, started as the identity."""
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        sample_size=128,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        scaling_factor=0.2,
    )
    with torch.no_grad():
        for side in (model.encoder, model.decoder):
            _pass_through(side)
        _start_encoder(model)
        _start_decoder(model)
        _undo_last_norms(model)
    return model


def _pass_through(side: nn.Module) -> None:
    """Residual branches start at zero; shortcuts and changes of size copy the carriers."""
    for name, module in side.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            nn.init.zeros_(_weight(module))
            nn.init.zeros_(_bias(module))
        elif name.endswith("conv_shortcut"):
            _carry(module, torch.ones(1, 1))
        elif "downsamplers" in name and isinstance(module, nn.Conv2d):
            _carry(module, torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]) / 4)
        elif "upsamplers" in name and isinstance(module, nn.Conv2d):
            blur = torch.tensor([1.0, 2, 1]) / 4
            _carry(module, blur[:, None] * blur[None])


def _weight(module: Any) -> Tensor:
    return module.weight


def _bias(module: Any) -> Tensor:
    return module.bias


def _carry(conv: Any, kernel: Tensor) -> None:
    conv.weight[:CARRIERS] = 0
    conv.bias[:CARRIERS] = 0
    for c in range(CARRIERS):
        conv.weight[c, c] = kernel


def _enter(conv: Any, scale: float) -> None:
    """Three input channels become +x, -x, and the constants appear."""
    middle = conv.kernel_size[0] // 2
    conv.weight[:CARRIERS] = 0
    conv.bias[:CARRIERS] = 0
    for c in range(3):
        conv.weight[c, c, middle, middle] = scale
        conv.weight[c + 3, c, middle, middle] = -scale
    conv.bias[6], conv.bias[7] = CONSTANT, -CONSTANT


def _leave(conv: Any, scale: float) -> None:
    """silu(x) - silu(-x) = x."""
    conv.weight[:3] = 0
    conv.bias[:3] = 0
    for c in range(3):
        conv.weight[c, c, 1, 1] = scale
        conv.weight[c, c + 3, 1, 1] = -scale


def _start_encoder(model: Any) -> None:
    _enter(model.encoder.conv_in, 1.0)
    _leave(model.encoder.conv_out, LATENT_SCALE)
    model.encoder.conv_out.weight[4:] = 0
    model.encoder.conv_out.bias[4:] = -6.0
    model.quant_conv.weight[:, :, 0, 0] = torch.eye(8)
    model.quant_conv.bias.zero_()


def _start_decoder(model: Any) -> None:
    model.post_quant_conv.weight[:, :, 0, 0] = torch.eye(4)
    model.post_quant_conv.bias.zero_()
    _enter(model.decoder.conv_in, 1 / LATENT_SCALE)
    _leave(model.decoder.conv_out, 1.0)


def _undo_last_norms(model: Any) -> None:
    """Multiplies the carriers by what the last norms divide by: measured, since the random channels count too."""
    for side, x in ((model.encoder, torch.rand(4, 3, 64, 64) * 2 - 1), (model.decoder, torch.randn(4, 4, 8, 8))):
        seen: list[Tensor] = []
        hook = side.conv_norm_out.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        side(x)
        hook.remove()
        side.conv_out.weight[:3] *= seen[0].std(dim=(1, 2, 3)).mean()
