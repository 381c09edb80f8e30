"""The network modules of sd-scripts itself (`networks.lora` and its relatives) as our `adapter`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.compat.kohya.arguments import KeyValueArguments
from lorasmith.compat.kohya.blocks import Blocks, convert_block_arguments

UNET_ATTENTION = ("unet.*.attentions.*",)
SELECTIONS = ("exclude_patterns", "include_patterns", "network_reg_lrs", "network_reg_dims")
"""Arguments of networks.loha and networks.lokr that select layers by regular expressions of their names."""
UNET_RESIDUAL = ("unet.*.resnets.*", "unet.*.downsamplers.*", "unet.*.upsamplers.*")


def convert_size(values: Mapping[str, Any], arguments: KeyValueArguments) -> dict[str, Any]:
    """Rank, alpha and dropouts. An alpha of 0 means the rank, as in the original."""
    rank = values["network_dim"] or 4
    return {
        "rank": rank,
        "alpha": values["network_alpha"] or rank,
        "dropout": values["network_dropout"] or 0.0,
        "rank_dropout": arguments.take_float("rank_dropout", 0.0),
        "module_dropout": arguments.take_float("module_dropout", 0.0),
    }


def add_lora_plus(arguments: KeyValueArguments, table: dict[str, Any]) -> None:
    """LoRA+ (arXiv 2402.12354): factors of the learning rate of the matrix that starts as zero."""
    both = arguments.take_float("loraplus_lr_ratio")
    unet = arguments.take_float("loraplus_unet_lr_ratio")
    text = arguments.take_float("loraplus_text_encoder_lr_ratio")
    unet_factor = unet or both or 1.0
    text_factor = text or both or 1.0
    table["up_lr"] = unet_factor
    if text_factor != unet_factor:
        table["text_up_lr"] = text_factor


def convert_lora(
    values: Mapping[str, Any], arguments: KeyValueArguments, blocks: Blocks, notes: list[str]
) -> dict[str, Any]:
    """networks.lora: attention and feed-forward layers; with conv_dim also those of the residual blocks."""
    table: dict[str, Any] = {"kind": "lora", **convert_size(values, arguments)}
    conv_rank = arguments.take_int("conv_dim")
    conv_alpha = arguments.take_float("conv_alpha", 1.0)
    # Either argument makes the original train the residual blocks.
    residual = bool(conv_rank) or "conv_block_dims" in arguments.texts
    rules, excluded = convert_block_arguments(arguments, blocks, table["rank"], table["alpha"], residual)
    if residual:
        table["conv_rank"] = conv_rank
        table["conv_alpha"] = conv_alpha or conv_rank
    preset = "full" if residual else "attention-mlp"
    table["layers"] = [preset, *excluded] if excluded else preset
    table["overrides"] = rules or None

    # networks.lora reads its dropout from network_dropout only.
    arguments.ignore("dropout")
    add_lora_plus(arguments, table)
    return table


def convert_lora_fa(
    values: Mapping[str, Any], arguments: KeyValueArguments, blocks: Blocks, notes: list[str]
) -> dict[str, Any]:
    """networks.lora_fa: networks.lora whose down matrices keep their initial values."""
    table = convert_lora(values, arguments, blocks, notes)
    table["freeze_down"] = True
    return table


def convert_dylora(
    values: Mapping[str, Any], arguments: KeyValueArguments, blocks: Blocks, notes: list[str]
) -> dict[str, Any]:
    """networks.dylora: the layers and arguments of networks.lora, with `unit`."""
    table = convert_lora(values, arguments, blocks, notes)
    table["kind"] = "dylora"
    table["unit"] = arguments.take_int("unit", 1)
    # In training, the original multiplies the change by the square root of rank / ranks in use.
    table["boost"] = 0.5
    return table


def convert_oft(
    values: Mapping[str, Any], arguments: KeyValueArguments, blocks: Blocks, notes: list[str]
) -> dict[str, Any]:
    """networks.oft: network_dim is a number of blocks; by default only the UNet's attention is rotated."""
    all_linear = bool(arguments.take_text("enable_all_linear"))
    convolutions = bool(arguments.take_text("enable_conv"))
    # By default the original changes only the UNet's attention.
    layers = ["attention", "!te*"]
    if all_linear or convolutions:
        layers = [*UNET_ATTENTION]
    if convolutions:
        layers += UNET_RESIDUAL
    block_count = values["network_dim"] or 4
    notes.append(
        f"networks.oft: in the original, network_dim = {block_count} is the number of blocks. Here, the size of a "
        "block is set: 32, or adapter.block_size. The file has the layout of LyCORIS, which user interfaces read"
    )
    return {"kind": "oft", "constraint": values["network_alpha"] or 0.0, "layers": layers}


def convert_loha(
    values: Mapping[str, Any], arguments: KeyValueArguments, blocks: Blocks, notes: list[str]
) -> dict[str, Any]:
    """networks.loha of sd-scripts 0.11: the layers of networks.lora, with conv_dim also those of residual blocks."""
    table: dict[str, Any] = {"kind": "loha", **convert_size(values, arguments)}
    conv_rank = arguments.take_int("conv_dim")
    conv_alpha = arguments.take_float("conv_alpha", 1.0)
    if conv_rank:
        table["conv_rank"] = conv_rank
        table["conv_alpha"] = conv_alpha or conv_rank
    table["layers"] = "full" if conv_rank else "attention-mlp"
    table["tucker"] = arguments.take_flag("use_tucker")
    for key in SELECTIONS:
        arguments.refuse(
            key, "use networks.lora with block_dims, or adapter.layers and adapter.overrides in our config"
        )
    arguments.ignore("verbose")
    add_lora_plus(arguments, table)
    return table


def convert_lokr(
    values: Mapping[str, Any], arguments: KeyValueArguments, blocks: Blocks, notes: list[str]
) -> dict[str, Any]:
    """networks.lokr of sd-scripts 0.11: as networks.loha, with `factor`; the first factor is always a whole matrix."""
    table = convert_loha(values, arguments, blocks, notes)
    table["kind"] = "lokr"
    table["factor"] = arguments.take_int("factor", -1)
    return table
