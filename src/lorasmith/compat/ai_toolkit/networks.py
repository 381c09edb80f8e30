"""From ai-toolkit's `network` to our `adapter`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.core.errors import Problem

TEXT = ("te*.self_attn.*_proj", "te*.mlp.fc[12]")
LARGE_CONVOLUTIONS = (
    "!unet.conv_in",
    "!unet.conv_out",
    "!unet.*.conv1",
    "!unet.*.conv2",
    "!unet.*samplers.*.conv",
)
"""Convolutions of 3 x 3, which are trained only with `conv`."""
OUTSIDE_OF_BLOCKS = (
    "!transformer.x_embedder",
    "!transformer.context_embedder",
    "!transformer.time_text_embed.*",
    "!transformer.pos_embed.*",
    "!transformer.norm_out.*",
    "!transformer.proj_out",
)
"""Layers of SD3 and Flux that `transformer_only` leaves out."""
KINDS = {"lora": "lora", "locon": "lora", "dora": "dora", "lokr": "lokr"}
FILTERS = ("only_if_contains", "ignore_if_contains")


def convert_network(
    values: Mapping[str, Any], *, flow: bool, notes: list[str], problems: list[Problem]
) -> dict[str, Any]:
    """The table `adapter`."""
    rank = values["network.rank"] or values["network.linear"] or 4
    alpha = convert_alpha(values, rank, flow=flow, notes=notes)
    table: dict[str, Any] = {
        "kind": KINDS[str(values["network.type"]).lower()],
        "rank": rank,
        "alpha": alpha,
        "layers": convert_layers(values, flow=flow, problems=problems),
    }
    if values["network.dropout"]:
        table["dropout"] = values["network.dropout"]
    conv = values["network.conv"]
    if conv and not flow:
        table["conv_rank"] = conv
        table["conv_alpha"] = values["network.conv_alpha"] or conv
    if table["kind"] == "lokr":
        table["factor"] = values["network.lokr_factor"]
        if values["network.lokr_full_rank"]:
            table["full_matrix"] = True
    return table


def convert_alpha(values: Mapping[str, Any], rank: int, *, flow: bool, notes: list[str]) -> float:
    """The alpha of linear layers. Files for SD3 and Flux have none, so the original sets it to the rank then."""
    alpha = values["network.linear_alpha"]
    if alpha is None:
        alpha = values["network.alpha"]
    if flow and alpha != rank:
        notes.append(f"network.linear_alpha is {rank}, the rank, as in the original, whose files have no alpha")
    return rank if flow else alpha


def convert_layers(values: Mapping[str, Any], *, flow: bool, problems: list[Problem]) -> list[str]:
    """The layers: all linear ones of the blocks or of the UNet, those of CLIP, and what the filters leave."""
    given = values["network.network_kwargs"] or {}
    for key in sorted(given.keys() - set(FILTERS)):
        problems.append(Problem(f"network.network_kwargs.{key}", "is not supported", ", ".join(FILTERS)))
    only, ignored = (as_list(given.get(key) or values[f"model.{key}"]) for key in FILTERS)
    denoiser = "transformer" if flow else "unet"
    layers = patterns_of(only, denoiser) if only else [f"{denoiser}.*", *TEXT]
    if flow and values["network.transformer_only"]:
        layers += OUTSIDE_OF_BLOCKS
    if not flow and not values["network.conv"]:
        layers += LARGE_CONVOLUTIONS
    return layers + [f"!{pattern}" for pattern in patterns_of(ignored, denoiser)]


def patterns_of(words: list[str], denoiser: str) -> list[str]:
    """Patterns of the layers whose name contains one of the words."""
    return [pattern for word in words for pattern in patterns(word, denoiser)]


def patterns(word: str, denoiser: str) -> list[str]:
    """Patterns of the layers whose name contains a word, as the original writes names: with dots or `$$`."""
    part = word.replace("$$", ".").removeprefix("lora_")
    if part.startswith(f"{denoiser}."):
        return [f"{part}*"]
    return [f"{denoiser}.*{part}*", f"te*{part}*"]


def as_list(words: Any) -> list[str]:
    """A list of texts, also where one text is given."""
    return [words] if isinstance(words, str) else [str(word) for word in words or []]
