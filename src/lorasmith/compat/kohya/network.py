"""From `network_module` and its arguments to our `adapter`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lorasmith.adapters import AdapterConfig
from lorasmith.compat.kohya.arguments import Arguments
from lorasmith.compat.kohya.blocks import Blocks, block_rules
from lorasmith.core.errors import Problem, did_you_mean
from lorasmith.core.registry import registered

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
ATTENTION_MLP = ("unet.*.attentions.*", "te*.self_attn.*_proj", "te*.mlp.fc[12]")
RESIDUAL = ("unet.*.resnets.*", "unet.*.downsamplers.*", "unet.*.upsamplers.*")
ENDS = ("unet.conv_in", "unet.conv_out", "unet.time_embedding.linear_?")
SPATIAL = ("!unet.*.conv1", "!unet.*.conv2", "!unet.*samplers.*.conv")
PRESETS: dict[str, list[str]] = {
    "full": [*ATTENTION_MLP, *RESIDUAL, *ENDS],
    "full-lin": [*ATTENTION_MLP, "unet.*.resnets.*.time_emb_proj", "unet.time_embedding.linear_?"],
    "attn-mlp": [*ATTENTION_MLP],
    "attn-only": ["attention"],
    "unet-only": [*ATTENTION_MLP[:1], *RESIDUAL, *ENDS],
    "unet-transformer-only": [*ATTENTION_MLP[:1]],
    "unet-convblock-only": [*RESIDUAL],
}
"""LyCORIS' presets as patterns of layers."""
LORA_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
Convert = Callable[[Mapping[str, Any], Arguments, Blocks, list[str]], dict[str, Any]]


def convert_network(
    values: Mapping[str, Any], blocks: Blocks, notes: list[str], problems: list[Problem]
) -> dict[str, Any]:
    """The table `adapter`."""
    module = str(values["network_module"] or "")
    arguments = Arguments.read("network_args", values["network_args"], problems)
    convert = MODULES.get(module.lower())
    if convert is None:
        hint = did_you_mean(module, MODULES) if module else ""
        found = f'"{module}" is no network that is known here' if module else "missing"
        problems.append(Problem("network_module", found, ", ".join(MODULES), hint))
        return {}
    table = convert(values, arguments, blocks, notes)
    notes += arguments.rest()
    kinds = registered(AdapterConfig)
    if table.get("kind") not in kinds:
        remedy = "use networks.lora, or lycoris.kohya with another algo"
        problems.append(Problem("network_module", f'"{module}": there is no {table.get("kind")} here', remedy=remedy))
        return {}
    if values["scale_weight_norms"]:
        table["max_norm"] = values["scale_weight_norms"]
    known = kinds[table["kind"]].model_fields
    dropped = [key for key in table if key not in known]
    for key in dropped:
        if table[key] not in (None, 0, 0.0, False):
            notes.append(f"{table['kind']} has no {key}, here or there; it is left out")
    return {key: value for key, value in table.items() if key in known and value is not None}


def common(values: Mapping[str, Any], arguments: Arguments) -> dict[str, Any]:
    """Rank, alpha and dropouts."""
    rank = values["network_dim"] or 4
    return {
        "rank": rank,
        "alpha": values["network_alpha"] or rank,
        "dropout": values["network_dropout"] or 0.0,
        "rank_dropout": arguments.float("rank_dropout", 0.0),
        "module_dropout": arguments.float("module_dropout", 0.0),
    }


def lora(values: Mapping[str, Any], arguments: Arguments, blocks: Blocks, notes: list[str]) -> dict[str, Any]:
    """networks.lora: attention and feed-forward layers, with conv_dim the residual blocks' too."""
    table = {"kind": "lora", **common(values, arguments)}
    conv = arguments.int("conv_dim")
    alpha = arguments.float("conv_alpha", 1.0)
    spatial = bool(conv) or "conv_block_dims" in arguments.texts
    rules, out = block_rules(arguments, blocks, (table["rank"], table["alpha"]), spatial)
    if spatial:
        table |= {"conv_rank": conv, "conv_alpha": alpha or conv}
    preset = "full" if spatial else "attention-mlp"
    table |= {"layers": [preset, *out] if out else preset, "overrides": rules or None}
    arguments.drop("dropout")
    lora_plus(arguments, table)
    return table


def lora_fa(values: Mapping[str, Any], arguments: Arguments, blocks: Blocks, notes: list[str]) -> dict[str, Any]:
    """networks.lora_fa: networks.lora with its downward factors as they were drawn."""
    return lora(values, arguments, blocks, notes) | {"freeze_down": True}


def lora_plus(arguments: Arguments, table: dict[str, Any]) -> None:
    """Ratios of learning rates of the factor that starts as zero."""
    both, unet, text = (arguments.float(name) for name in LORA_PLUS)
    table["up_lr"] = unet or both or 1.0
    if (text or both or 1.0) != table["up_lr"]:
        table["text_up_lr"] = text or both or 1.0


def named(kind: str) -> Convert:
    """A module that is networks.lora but for its kind."""

    def convert(values: Mapping[str, Any], arguments: Arguments, blocks: Blocks, notes: list[str]) -> dict[str, Any]:
        table = lora(values, arguments, blocks, notes) | {"kind": kind}
        if kind == "dylora":
            table |= {"unit": arguments.int("unit", 1), "boost": 0.5}
        return table

    return convert


def oft(values: Mapping[str, Any], arguments: Arguments, blocks: Blocks, notes: list[str]) -> dict[str, Any]:
    """networks.oft counts blocks, and rotates the UNet's attention unless told otherwise."""
    linear, conv = bool(arguments.text("enable_all_linear")), bool(arguments.text("enable_conv"))
    layers = [*ATTENTION_MLP[:1], *(RESIDUAL if conv else ())] if linear or conv else ["attention", "!te*"]
    blocks_wanted = values["network_dim"] or 4
    notes.append(
        f"networks.oft: network_dim = {blocks_wanted} counts blocks there; here blocks have a size, 32 unless "
        "changed in adapter.block_size, and the file is in LyCORIS' form, which user interfaces read"
    )
    return {"kind": "oft", "constraint": values["network_alpha"] or 0.0, "layers": layers}


def lycoris(values: Mapping[str, Any], arguments: Arguments, blocks: Blocks, notes: list[str]) -> dict[str, Any]:
    """lycoris.kohya: the algorithm by name, presets of layers, conv_dim as network_dim unless given."""
    algorithm = arguments.text("algo", "lora").lower()
    kind = ALGORITHMS.get(algorithm)
    if kind is None:
        allowed = ", ".join(ALGORITHMS)
        arguments.problems.append(
            Problem("network_args.algo", f'found "{algorithm}"', allowed, did_you_mean(algorithm, ALGORITHMS))
        )
        return {"kind": "lora"}
    table = {"kind": kind, **common(values, arguments)}
    table["dropout"] = arguments.float("dropout", table["dropout"])
    conv, alpha = conv_of(arguments, table)
    table |= {"conv_rank": conv or None, "conv_alpha": alpha if conv else None}
    layers = preset_of(arguments)
    table["layers"] = layers if conv else [*layers, *SPATIAL]
    table |= switches(arguments)
    if kind == "dylora":
        table |= {"unit": table.pop("block_size", 4), "boost": 1.0}
        if table["unit"] > 1:
            notes.append("dylora: alpha is divided by ranks, in training as in files; LyCORIS' training, by blocks")
    if kind in ("oft", "boft"):
        table.setdefault("block_size", max(2, table["rank"]))
    if arguments.flag("dora_wd"):
        table = dora(table, kind, arguments, notes)
    arguments.drop("wd_on_output")
    table["norms"] = arguments.flag("train_norm")
    for name in ("rescaled", "unbalanced_factorization"):
        arguments.refuse(name, "leave it out")
    arguments.drop("bypass_mode")
    lora_plus(arguments, table)
    return table


def conv_of(arguments: Arguments, table: Mapping[str, Any]) -> tuple[int, float]:
    """Rank and alpha of 3x3 convolutions; a rank of 0 leaves them out."""
    rank = arguments.int("conv_dim", table["rank"])
    return rank, arguments.float("conv_alpha", table["alpha"]) or rank


def preset_of(arguments: Arguments) -> list[str]:
    """The layers of a preset."""
    preset = arguments.text("preset", "full")
    if preset not in PRESETS:
        remedy = f"one of {', '.join(PRESETS)}; for a file of a preset, write adapter.layers in a config of lorasmith"
        arguments.problems.append(Problem("network_args.preset", f'found "{preset}"', remedy=remedy))
        return ["attention-mlp"]
    return list(PRESETS[preset])


def switches(arguments: Arguments) -> dict[str, Any]:
    """Arguments that only some algorithms have."""
    found = {
        "tucker": arguments.flag("use_tucker") or arguments.flag("use_cp"),
        "scalar": arguments.flag("use_scalar"),
        "rank_stabilised": arguments.flag("rs_lora"),
        "decompose_both": arguments.flag("decompose_both"),
        "full_matrix": arguments.flag("full_matrix"),
        "factor": arguments.int("factor"),
        "constraint": arguments.float("constraint"),
        "block_size": arguments.int("block_size"),
    }
    return {key: value for key, value in found.items() if value not in (None, False)}


def dora(table: dict[str, Any], kind: str, arguments: Arguments, notes: list[str]) -> dict[str, Any]:
    """Magnitudes over another kind."""
    if kind not in ("lora", "loha", "lokr"):
        arguments.problems.append(Problem("network_args.dora_wd", f"{kind} has none", "lora, loha, lokr"))
        return table
    output = arguments.flag("wd_on_output")
    if not output:
        notes.append(
            "dora_wd: one magnitude per input, which every user interface computes; "
            "with wd_on_output=True one per output, which none does"
        )
    return table | {"kind": "dora", "over": kind, "axis": "output" if output else "input"}


MODULES: dict[str, Convert] = {
    "networks.lora": lora,
    "networks.lora_fa": lora_fa,
    "networks.dylora": named("dylora"),
    "networks.oft": oft,
    "lycoris.kohya": lycoris,
}
