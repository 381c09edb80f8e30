"""`lycoris.kohya`: LyCORIS' algorithms, presets and arguments as our `adapter`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.compat.kohya.arguments import KeyValueArguments
from lorasmith.compat.kohya.blocks import Blocks
from lorasmith.compat.kohya.lora_modules import UNET_ATTENTION, UNET_RESIDUAL, add_lora_plus, convert_size
from lorasmith.core.errors import Problem, did_you_mean

ALGORITHMS = {
    "lora": "lora",
    "locon": "lora",
    "loha": "loha",
    "lokr": "lokr",
    "ia3": "ia3",
    "full": "full",
    "glora": "glora",
    "diag-oft": "oft",
    "boft": "boft",
    "dylora": "dylora",
    "tlora": "tlora",
}
"""LyCORIS' names to our kinds."""

ATTENTION_MLP = (*UNET_ATTENTION, "te*.self_attn.*_proj", "te*.mlp.fc[12]")
INPUT_OUTPUT = ("unet.conv_in", "unet.conv_out", "unet.time_embedding.linear_?")
NO_3X3_CONVOLUTIONS = ("!unet.*.conv1", "!unet.*.conv2", "!unet.*samplers.*.conv")
PRESETS: dict[str, list[str]] = {
    "full": [*ATTENTION_MLP, *UNET_RESIDUAL, *INPUT_OUTPUT],
    "full-lin": [*ATTENTION_MLP, "unet.*.resnets.*.time_emb_proj", "unet.time_embedding.linear_?"],
    "attn-mlp": [*ATTENTION_MLP],
    "attn-only": ["attention"],
    "unet-only": [*UNET_ATTENTION, *UNET_RESIDUAL, *INPUT_OUTPUT],
    "unet-transformer-only": [*UNET_ATTENTION],
    "unet-convblock-only": [*UNET_RESIDUAL],
}
"""LyCORIS' presets as patterns of layers."""


def convert_lycoris(
    values: Mapping[str, Any], arguments: KeyValueArguments, blocks: Blocks, notes: list[str]
) -> dict[str, Any]:
    """lycoris.kohya: the algorithm by name; conv_dim defaults to network_dim."""
    algorithm = arguments.take_text("algo", "lora").lower()
    kind = ALGORITHMS.get(algorithm)
    if kind is None:
        hint = did_you_mean(algorithm, ALGORITHMS)
        problem = Problem("network_args.algo", f'found "{algorithm}"', ", ".join(ALGORITHMS), hint)
        arguments.problems.append(problem)
        return {"kind": "lora"}
    table: dict[str, Any] = {"kind": kind, **convert_size(values, arguments)}
    table["dropout"] = arguments.take_float("dropout", table["dropout"])

    # A rank of 0 excludes the 3x3 convolutions; an alpha of 0 means the rank.
    conv_rank = arguments.take_int("conv_dim", table["rank"])
    conv_alpha = arguments.take_float("conv_alpha", table["alpha"]) or conv_rank
    table["conv_rank"] = conv_rank or None
    table["conv_alpha"] = conv_alpha if conv_rank else None
    table["layers"] = take_preset(arguments)
    if not conv_rank:
        table["layers"] += NO_3X3_CONVOLUTIONS

    table |= take_algorithm_arguments(arguments)

    # LyCORIS uses block_size for DyLoRA's unit.
    if kind == "dylora":
        table["unit"] = table.pop("block_size", 4)
        table["boost"] = 1.0
        if table["unit"] > 1:
            notes.append(
                "dylora: alpha is divided by the number of ranks, in training and in files; LyCORIS divides it by the "
                "number of blocks in training"
            )

    # LyCORIS takes the size of OFT's blocks from network_dim.
    if kind in ("oft", "boft"):
        table.setdefault("block_size", max(2, table["rank"]))
    if arguments.take_flag("dora_wd"):
        table = convert_dora(table, kind, arguments, notes)

    # Without DoRA, wd_on_output has no effect; bypass_mode is only another way to compute the same.
    arguments.ignore("wd_on_output")
    table["norms"] = arguments.take_flag("train_norm")
    for key in ("rescaled", "unbalanced_factorization"):
        arguments.refuse(key, "remove it")
    arguments.ignore("bypass_mode")
    add_lora_plus(arguments, table)
    return table


def take_preset(arguments: KeyValueArguments) -> list[str]:
    """The layers of a preset."""
    preset = arguments.take_text("preset", "full")
    if preset not in PRESETS:
        remedy = f"use one of {', '.join(PRESETS)}; instead of a preset file, set adapter.layers in a lorasmith config"
        arguments.problems.append(Problem("network_args.preset", f'found "{preset}"', remedy=remedy))
        return ["attention-mlp"]
    return list(PRESETS[preset])


def take_algorithm_arguments(arguments: KeyValueArguments) -> dict[str, Any]:
    """Arguments that only some algorithms have, without those that are unset."""
    # use_cp is the old name of use_tucker; both are taken, whichever is set
    tucker, cp = arguments.take_flag("use_tucker"), arguments.take_flag("use_cp")
    table = {
        "tucker": tucker or cp,
        "scalar": arguments.take_flag("use_scalar"),
        "rank_stabilised": arguments.take_flag("rs_lora"),
        "decompose_both": arguments.take_flag("decompose_both"),
        "full_matrix": arguments.take_flag("full_matrix"),
        "factor": arguments.take_int("factor"),
        "constraint": arguments.take_float("constraint"),
        "block_size": arguments.take_int("block_size"),
    }
    return {key: value for key, value in table.items() if value}


def convert_dora(table: dict[str, Any], kind: str, arguments: KeyValueArguments, notes: list[str]) -> dict[str, Any]:
    """`dora_wd` (DoRA, arXiv 2402.09353): magnitudes of the weights over another kind."""
    if kind not in ("lora", "loha", "lokr"):
        problem = Problem("network_args.dora_wd", f"cannot be combined with {kind}", "lora, loha, lokr")
        arguments.problems.append(problem)
        return table
    per_output = arguments.take_flag("wd_on_output")
    if not per_output:
        notes.append(
            "dora_wd: there is one magnitude for each input, which every user interface supports; with "
            "wd_on_output=True there is one for each output, which none supports"
        )
    return table | {"kind": "dora", "over": kind, "axis": "output" if per_output else "input"}
