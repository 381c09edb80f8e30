"""`networks.lora_sd3`, `networks.lora_flux`, `networks.oft_flux` and `lycoris.kohya` on transformers, as our `adapter`.

The original has one layer for queries, keys and values (in Flux's single blocks also for the feed-forward part); here
they are layers of their own, with an adapter each, as its `split_qkv` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorasmith.compat.kohya.arguments import KeyValueArguments
from lorasmith.compat.kohya.blocks import sd_blocks
from lorasmith.compat.kohya.lora_modules import add_lora_plus, convert_size
from lorasmith.compat.kohya.lycoris import convert_lycoris
from lorasmith.compat.kohya.network import Converter
from lorasmith.core.errors import Problem

DOUBLE = "transformer.transformer_blocks"
SINGLE = "transformer.single_transformer_blocks"
TEXT = ("te*.self_attn.*_proj", "te*.mlp.fc[12]")
IMAGE_ATTENTION = ("attn*.to_[qkv]", "attn*.to_out.0")
TEXT_ATTENTION = ("attn.add_[qkv]_proj", "attn.to_add_out")
MOST_BLOCKS = 60
"""More blocks than any of these models has; blocks that a model lacks are not looked for."""
TOGETHER = (
    "network_args: queries, keys and values have a LoRA of network_dim each, as with split_qkv=True; without it, the "
    "original has one for all of them"
)
T5 = "T5 is not trained here; remove train_t5xxl"
REGULAR = "use adapter.overrides and adapter.layers of our config, with patterns of layer names"


@dataclass(frozen=True)
class Group:
    """Layers that have an argument for their rank: blocks, and patterns of layers in them."""

    argument: str
    blocks: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Transformer:
    """What the arguments of a network module are about, for one family of models."""

    groups: tuple[Group, ...]
    selections: Mapping[str, str]
    """Argument that chooses blocks by number, to the blocks."""
    inputs: str
    """The argument with the ranks of the layers outside of the blocks."""
    input_layers: tuple[str, ...]
    """The patterns of these layers, in the argument's order."""
    two_clips: bool = False
    """Whether CLIP-G is a text encoder, too, with a learning rate of its own."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """The stacks of blocks."""
        return tuple(dict.fromkeys(group.blocks for group in self.groups))


FLUX = Transformer(
    groups=(
        Group("img_attn_dim", DOUBLE, IMAGE_ATTENTION),
        Group("txt_attn_dim", DOUBLE, TEXT_ATTENTION),
        Group("img_mlp_dim", DOUBLE, ("ff.net.*",)),
        Group("txt_mlp_dim", DOUBLE, ("ff_context.net.*",)),
        Group("img_mod_dim", DOUBLE, ("norm1.linear",)),
        Group("txt_mod_dim", DOUBLE, ("norm1_context.linear",)),
        Group("single_dim", SINGLE, ("attn.to_[qkv]", "proj_*")),
        Group("single_mod_dim", SINGLE, ("norm.linear",)),
    ),
    selections={"train_double_block_indices": DOUBLE, "train_single_block_indices": SINGLE},
    inputs="in_dims",
    input_layers=(
        "transformer.x_embedder",
        "transformer.time_text_embed.timestep_embedder.*",
        "transformer.time_text_embed.text_embedder.*",
        "transformer.time_text_embed.guidance_embedder.*",
        "transformer.context_embedder",
    ),
)
SD3 = Transformer(
    groups=(
        Group("context_attn_dim", DOUBLE, TEXT_ATTENTION),
        Group("context_mlp_dim", DOUBLE, ("ff_context.net.*",)),
        Group("context_mod_dim", DOUBLE, ("norm1_context.linear",)),
        Group("x_attn_dim", DOUBLE, IMAGE_ATTENTION),
        Group("x_mlp_dim", DOUBLE, ("ff.net.*",)),
        Group("x_mod_dim", DOUBLE, ("norm1.linear",)),
    ),
    selections={"train_block_indices": DOUBLE},
    inputs="emb_dims",
    input_layers=(
        "transformer.context_embedder",
        "transformer.time_text_embed.timestep_embedder.*",
        "transformer.pos_embed.proj",
        "transformer.time_text_embed.text_embedder.*",
        "transformer.norm_out.linear",
        "transformer.proj_out",
    ),
    two_clips=True,
)

LYCORIS_PRESETS: Mapping[str, tuple[str, ...]] = {
    "full": (f"{DOUBLE}.*", f"{SINGLE}.*", *TEXT),
    "attn-mlp": (f"{DOUBLE}.*", f"{SINGLE}.*", *TEXT),
    "unet-transformer-only": (f"{DOUBLE}.*", f"{SINGLE}.*"),
    "unet-only": (f"{DOUBLE}.*", f"{SINGLE}.*"),
}
"""LyCORIS' presets on these models: all linear layers of the blocks. `attn-only` is another set in each version."""


def convert_lora(
    values: Mapping[str, Any], arguments: KeyValueArguments, model: Transformer, notes: list[str]
) -> dict[str, Any]:
    """networks.lora_flux and networks.lora_sd3: all linear layers of the blocks, and those of CLIP."""
    table: dict[str, Any] = {"kind": "lora", **convert_size(values, arguments)}
    if not arguments.take_flag("split_qkv"):
        notes.append(TOGETHER)
    if arguments.take_flag("train_t5xxl"):
        arguments.problems.append(Problem("network_args.train_t5xxl", "is not supported", remedy=T5))

    blocks = take_block_stacks(arguments, model)
    rules, excluded = take_ranks(arguments, model, blocks)
    inputs, input_rules = take_input_ranks(arguments, model)
    excluded += take_block_numbers(arguments, model, blocks)
    text = text_rates(values, model)
    table["layers"] = [*(f"{stack}.*" for stack in blocks), *TEXT, *inputs, *excluded, *text.excluded]
    table["overrides"] = [*rules, *input_rules, *text.rules] or None

    for key in ("network_reg_lrs", "network_reg_dims"):
        arguments.refuse(key, REGULAR)
    for key in ("ggpo_beta", "ggpo_sigma"):
        arguments.refuse(key, "it changes weights at random while training; remove it")
    # the transformers have no convolution inside of blocks
    for key in ("conv_dim", "conv_alpha", "verbose", "dropout"):
        arguments.ignore(key)
    add_lora_plus(arguments, table)
    return table


def take_block_stacks(arguments: KeyValueArguments, model: Transformer) -> tuple[str, ...]:
    """The stacks of blocks that `train_blocks` of networks.lora_flux chooses."""
    if len(model.blocks) == 1:
        return model.blocks
    chosen = arguments.take_text("train_blocks", "all")
    stacks = {"all": model.blocks, "double": (DOUBLE,), "single": (SINGLE,)}
    if chosen not in stacks:
        arguments.problems.append(Problem("network_args.train_blocks", f'found "{chosen}"', ", ".join(stacks)))
    return stacks.get(chosen, model.blocks)


def take_ranks(
    arguments: KeyValueArguments, model: Transformer, blocks: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rules for layers with a rank of their own, and exclusions of those with the rank 0."""
    rules: list[dict[str, Any]] = []
    excluded: list[str] = []
    for group in model.groups:
        rank = arguments.take_int(group.argument)
        if rank is None or group.blocks not in blocks:
            continue
        patterns = [f"{group.blocks}.*.{layer}" for layer in group.layers]
        if rank == 0:
            excluded += [f"!{pattern}" for pattern in patterns]
        else:
            rules += [{"layers": pattern, "rank": rank} for pattern in patterns]
    return rules, excluded


def take_input_ranks(arguments: KeyValueArguments, model: Transformer) -> tuple[list[str], list[dict[str, Any]]]:
    """The layers outside of the blocks that are trained, and their rules, from a list of ranks, `[4,0,0,0,4]`."""
    text = arguments.take_text(model.inputs)
    if not text:
        return [], []
    parts = [part.strip() for part in text.strip("[] ").split(",")]
    count = len(model.input_layers)
    if len(parts) != count or not all(part.isdigit() for part in parts):
        allowed = f"{count} whole numbers, such as [{','.join(['4'] * count)}]"
        arguments.problems.append(Problem(f"network_args.{model.inputs}", f'found "{text}"', allowed))
        return [], []
    chosen = [(layer, int(part)) for layer, part in zip(model.input_layers, parts, strict=True) if int(part) > 0]
    return [layer for layer, _ in chosen], [{"layers": layer, "rank": rank} for layer, rank in chosen]


def take_block_numbers(arguments: KeyValueArguments, model: Transformer, blocks: Sequence[str]) -> list[str]:
    """Exclusions of the blocks that are not chosen by number: `all`, `none`, or `0-3,7`."""
    excluded: list[str] = []
    for argument, stack in model.selections.items():
        given = arguments.take_raw(argument)
        text = "all" if given is None else given.strip()
        if text == "all" or stack not in blocks:
            continue
        if text in ("none", ""):
            excluded.append(f"!{stack}.*")
            continue
        try:
            chosen = parse_numbers(text)
        except ValueError:
            allowed = "all, none, or numbers and ranges such as 0-3,7"
            arguments.problems.append(Problem(f"network_args.{argument}", f'found "{text}"', allowed))
            continue
        excluded += [f"!{stack}.{number}.*" for number in range(MOST_BLOCKS) if number not in chosen]
    return excluded


def parse_numbers(text: str) -> set[int]:
    """`0-3,7` as numbers. Raises ValueError."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        start, end = int(first), int(last if dash else first)
        if not 0 <= start <= end < MOST_BLOCKS:
            raise ValueError(part)
        numbers |= set(range(start, end + 1))
    return numbers


@dataclass(frozen=True)
class TextRates:
    """What `text_encoder_lr` says: one rate for all text encoders, or one each for CLIP-L, CLIP-G and T5."""

    rate: float
    """Our `optimizer.text_lr`."""
    rules: tuple[dict[str, Any], ...] = ()
    excluded: tuple[str, ...] = ()


def text_rates(values: Mapping[str, Any], model: Transformer) -> TextRates:
    """The rates of the CLIP encoders. T5 is never trained, so its rate has no effect."""
    rates = values["text_encoder_lr"] or [values["learning_rate"]]
    if values["network_train_unet_only"]:
        return TextRates(0.0)
    if not model.two_clips or len(rates) == 1 or rates[0] == rates[1]:
        return TextRates(rates[0])
    if not rates[0]:
        return TextRates(rates[1], excluded=("!te1.*",))
    if not rates[1]:
        return TextRates(rates[0], excluded=("!te2.*",))
    return TextRates(rates[0], rules=({"layers": "te2.*", "lr": rates[1] / rates[0]},))


def convert_oft(
    values: Mapping[str, Any], arguments: KeyValueArguments, model: Transformer, notes: list[str]
) -> dict[str, Any]:
    """networks.oft_flux: the attention of the double blocks, or all layers of the blocks; never CLIP."""
    all_linear = bool(arguments.take_text("enable_all_linear"))
    layers = [f"{DOUBLE}.*", f"{SINGLE}.*"] if all_linear else [f"{DOUBLE}.*.attn.*"]
    notes.append(
        f"networks.oft_flux: in the original, network_dim = {values['network_dim'] or 4} is the number of blocks. "
        "Here, the size of a block is set: 32, or adapter.block_size. The file has the layout of LyCORIS"
    )
    return {"kind": "oft", "constraint": values["network_alpha"] or 0.0, "layers": layers}


def convert_lycoris_of(
    values: Mapping[str, Any], arguments: KeyValueArguments, model: Transformer, notes: list[str]
) -> dict[str, Any]:
    """lycoris.kohya: its algorithms on all linear layers of the blocks."""
    preset = arguments.texts.pop("preset", "full")
    if preset not in LYCORIS_PRESETS:
        allowed = ", ".join(LYCORIS_PRESETS)
        remedy = "or set adapter.layers in a lorasmith config"
        arguments.problems.append(Problem("network_args.preset", f'found "{preset}"', allowed, remedy))
    table = convert_lycoris(values, arguments, sd_blocks(), notes)
    for key in ("conv_rank", "conv_alpha"):
        table[key] = None
    text = text_rates(values, model)
    table["layers"] = [*LYCORIS_PRESETS.get(preset, ("full",)), *text.excluded]
    table["overrides"] = list(text.rules) or None
    notes.append("lycoris.kohya: queries, keys and values have an adapter each; LyCORIS has one for the joined layer")
    return table


FLUX_MODULES: Mapping[str, Converter[Transformer]] = {
    "networks.lora_flux": convert_lora,
    "networks.oft_flux": convert_oft,
    "lycoris.kohya": convert_lycoris_of,
}
SD3_MODULES: Mapping[str, Converter[Transformer]] = {
    "networks.lora_sd3": convert_lora,
    "lycoris.kohya": convert_lycoris_of,
}
