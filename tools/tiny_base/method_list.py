"""The methods that `tools.tiny_base.methods` compares: what each changes in the recipe."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.tiny_base.recipe import LR, MIN_SNR, STEPS, garp_recipe, recipe_of_29_november, unet_recipe

DEFAULT = "default"
NO_OTHERS = "no pictures of other things"
"""The default without regularisation images: what `dco` must be compared with."""

ONE_PICTURE = "one picture"
"""The default with a single picture of the concept: what T-LoRA is made for."""


@dataclass(frozen=True)
class Method:
    """One variant of the recipe."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Merged into the recipe, table by table."""
    others: bool = True
    """Whether the pictures of other things are trained on."""
    preserve: bool = False
    """Whether these pictures are trained towards the base's output."""
    cost: float = 1.0
    """CPU time of a step, in that of the default's (measured by `--costs`); for the comparison at equal time."""
    against: str = DEFAULT
    """The method that differences are taken from."""
    seeds: int = 3
    concepts: tuple[str, ...] = ("garp", "blib", "quop")
    rounds: int = 1
    """How many pictures are judged: 24 of the concept and 24 of other things in each round."""
    start: Callable[[], dict[str, Any]] = unet_recipe
    """The config that is changed."""
    masks: bool = False
    """Whether the loss counts on the subject alone (garp has masks)."""
    cfg: float = 5.0
    """The guidance scale of the judged pictures."""
    pictures: int | None = None
    """How many pictures of the concept are trained on, the first ones; None: all. They are repeated so often that the
    concept has the same share of the views."""


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`table` with `changes`. A table with another `kind` replaces the one that is there, but keeps common settings."""
    result = dict(copy.deepcopy(dict(table)))
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return result


def lora(**settings: Any) -> dict[str, Any]:
    """An adapter table of kind `lora`, rank 16."""
    return {"adapter": {"kind": "lora", "rank": 16} | settings}


def weighted(*weightings: str) -> dict[str, Any]:
    """An objective with these weightings alone."""
    return {"objective": {"weightings": list(weightings)}}


def on(*patterns: str) -> dict[str, Any]:
    """A LoRA on some layers only."""
    return lora(layers=list(patterns))


WITH_TEXT = {"optimizer": {"text_lr": LR}}
RANKS_BY_BLOCK = [
    {"layers": "unet.up_blocks.*", "rank": 20},
    {"layers": "unet.mid_block.*", "rank": 4},
    {"layers": "unet.down_blocks.*", "rank": 10},
]
COMPARED = [
    Method(DEFAULT),
    Method("T-LoRA", {"adapter": {"kind": "tlora", "rank": 16}}),
    Method(NO_OTHERS, others=False),
    Method("DCO, beta 1000", {"objective": {"kind": "dco"}}, others=False, cost=1.35, against=NO_OTHERS),
    Method("DCO, beta 50", {"objective": {"kind": "dco", "beta": 50.0}}, others=False, cost=1.35, against=NO_OTHERS),
    Method("preserve", preserve=True, cost=1.35),
    Method("scaled AdamW", {"optimizer": {"kind": "scaled_adamw", "lr": LR}}),
    Method("stratified timesteps", {"objective": {"timesteps": "stratified"}}),
    Method("SVD-down", lora(init="svd_down")),
    Method("scaled AdamW, betas 0.9 0.98", {"optimizer": {"kind": "scaled_adamw", "lr": LR, "betas": [0.9, 0.98]}}),
    Method("no weighting", weighted()),
    Method("debiased", weighted("debiased")),
    Method("P2", weighted("p2")),
    Method("immiscible, 4 draws", {"objective": {"noise": [{"kind": "immiscible", "candidates": 4}]}}),
    Method("EMA 0.98", {"ema": 0.98}),
    Method("lr x 0.5", {"optimizer": {"lr": LR / 2}}),
    Method("lr x 2", {"optimizer": {"lr": 2 * LR}}),
    Method("preserve, at equal time", {"steps": round(STEPS / 1.35)}, preserve=True, cost=1.35),
    Method("preserve, lr x 2", {"optimizer": {"lr": 2 * LR}}, preserve=True, cost=1.35),
    Method("scaled AdamW, lr x 2", {"optimizer": {"kind": "scaled_adamw", "lr": 2 * LR}}),
    Method("rsLoRA, rank 64", lora(rank=64, alpha=4.0, rank_stabilised=True)),
    Method("rank 64, alpha 16", lora(rank=64, alpha=16.0)),
    Method("mixed ranks, 20 up, 10 down, 4 mid", lora(overrides=RANKS_BY_BLOCK)),
    Method("up blocks only", on("unet.up_blocks.*attentions*")),
    Method("preserve, up blocks only", on("unet.up_blocks.*attentions*"), preserve=True, cost=1.35, against="preserve"),
    Method("preserve, P2", weighted("p2"), preserve=True, cost=1.35, against="preserve"),
    Method("down and middle blocks only", on("unet.down_blocks.*attentions*", "unet.mid_block.*attentions*")),
    Method("cross-attention only", on("unet.*attn2*")),
    Method("self-attention only", on("unet.*attn1*")),
    Method("T-LoRA, 8 ranks at least", {"adapter": {"kind": "tlora", "rank": 16, "min_rank": 8}}),
    Method("scaled AdamW, damping 0.01", {"optimizer": {"kind": "scaled_adamw", "lr": LR, "damping": 0.01}}),
    Method("DCO, beta 10", {"objective": {"kind": "dco", "beta": 10.0}}, others=False, cost=1.35, against=NO_OTHERS),
    Method(
        "DCO, beta 50, at equal time",
        {"objective": {"kind": "dco", "beta": 50.0}, "steps": round(STEPS / 1.35)},
        others=False,
        cost=1.35,
        against=NO_OTHERS,
    ),
    Method("text encoder at half the rate", {"optimizer": {"text_lr": LR / 2}}, cost=1.3),
    Method("preserve, text encoder", WITH_TEXT, preserve=True, against="preserve"),
    Method(
        "preserve, text encoder, up blocks only",
        merged(WITH_TEXT, on("unet.up_blocks.*attentions*", "te.*")),
        preserve=True,
        against="preserve",
    ),
    Method(ONE_PICTURE, pictures=1),
    Method(f"{ONE_PICTURE}, T-LoRA", {"adapter": {"kind": "tlora", "rank": 16}}, pictures=1, against=ONE_PICTURE),
]


def text_side(name: str, text_lr: float = 0.0, preserve: bool = True, **changes: Any) -> Method:
    """The demo's recipe with its text side trained too: garp alone. `text_lr`: of the text encoder."""
    settings = merged(changes, {"optimizer": {"text_lr": text_lr}} if text_lr else {})
    return Method(f"text: {name}", settings, preserve=preserve, against="text: UNet only", seeds=5, concepts=("garp",))


def token(lr: float, vectors: int = 2) -> list[dict[str, Any]]:
    """Garp as a new token that starts as the word itself."""
    return [{"words": ["garp"], "init": "garp" if vectors == 2 else "robot", "vectors": vectors, "lr": lr}]


CONSTANT = {"kind": "constant"}
UP_AND_TEXT = lora(layers=["unet.up_blocks.*attentions*", "te.*"])


def faster(factor: float) -> dict[str, Any]:
    """The up blocks and the text encoder, with a multiple of the UNet's rate."""
    return UP_AND_TEXT | {"optimizer": {"lr": factor * LR}}


TEXT_SIDE = [
    text_side("UNet only"),
    text_side("encoder at 1/4", LR / 4),
    text_side("encoder at full rate", LR),
    text_side("encoder at full rate, 160 steps", LR, steps=160),
    text_side("both at 1.5 times the rate, 160 steps", 1.5 * LR, optimizer={"lr": 1.5 * LR}, steps=160),
    text_side("new token", concepts=token(3e-3)),
    text_side("encoder at full rate, no preserve", LR, preserve=False),
    text_side("UNet only, no preserve", preserve=False),
    text_side("UNet only, constant rate", lr_schedule=CONSTANT),
    text_side("encoder at full rate, constant rate", LR, lr_schedule=CONSTANT),
    text_side("up blocks and encoder, 160 steps", LR, steps=160, **UP_AND_TEXT),
    text_side("up blocks and encoder, 120 steps, 1.33 times the rate", 1.33 * LR, steps=120, **faster(1.33)),
    text_side("up blocks and encoder, 100 steps, 1.6 times the rate", 1.6 * LR, steps=100, **faster(1.6)),
    text_side("up blocks and encoder, P2, 160 steps", LR, steps=160, **UP_AND_TEXT, **weighted("p2")),
    text_side(
        "up blocks and encoder, P2, 100 steps, 1.6 times the rate",
        1.6 * LR,
        steps=100,
        **faster(1.6),
        **weighted("p2"),
    ),
    text_side("encoder at full rate, P2, 160 steps", LR, steps=160, **weighted("p2")),
    text_side("encoder at full rate, mixed ranks, 160 steps", LR, steps=160, **lora(overrides=RANKS_BY_BLOCK)),
    text_side("both at 1.33 times the rate, 120 steps", 1.33 * LR, steps=120, optimizer={"lr": 1.33 * LR}),
    text_side("both at twice the rate, 120 steps", 2 * LR, steps=120, optimizer={"lr": 2 * LR}),
    text_side("encoder at full rate, batch 6, 160 steps", LR, steps=160, data={"batch_size": 6}),
    text_side("encoder at full rate, batch 4, 200 steps", LR, data={"batch_size": 4}),
]


OF_29_NOVEMBER = "120 steps of 8, rank 16"
"""The recipe of the demo on that day."""


def of_demo(
    name: str,
    masks: bool = False,
    preserve: bool = True,
    start: Callable[[], dict[str, Any]] = recipe_of_29_november,
    **changes: Any,
) -> Method:
    """The demo's recipe of 29 November 2026 with `changes`, judged at the guidance scale of its previews: garp alone,
    five seeds."""
    return Method(
        f"garp: {name}",
        changes,
        preserve=preserve,
        against=f"garp: {OF_29_NOVEMBER}",
        seeds=5,
        concepts=("garp",),
        rounds=2,
        start=start,
        masks=masks,
        cfg=3.5,
    )


def both_rates(lr: float) -> dict[str, Any]:
    """The learning rate of the UNet and of the text encoder."""
    return {"optimizer": {"lr": lr, "text_lr": lr}}


CONVOLUTIONS = {"layers": ["unet.up_blocks.*", "te.*"], "conv_rank": 8}
RANK_32 = {"rank": 32}
DEMO = [
    of_demo("as it is", start=garp_recipe),
    of_demo(OF_29_NOVEMBER),
    of_demo("120 steps, batch 6, rank 32", adapter=RANK_32, data={"batch_size": 6}),
    of_demo("min-SNR", **MIN_SNR),
    of_demo("100 steps at 1.9e-3", steps=100, **both_rates(1.9e-3)),
    of_demo("100 steps, rank 32", steps=100, adapter=RANK_32),
    of_demo("100 steps at 1.9e-3, masks", masks=True, steps=100, **both_rates(1.9e-3)),
    of_demo("100 steps, masks, rank 32", masks=True, steps=100, adapter=RANK_32),
    of_demo("100 steps at 1.9e-3, garp three times, masks", masks=True, repeats=3, steps=100, **both_rates(1.9e-3)),
    of_demo("120 steps, batch 6", data={"batch_size": 6}),
    of_demo("130 steps, batch 6, masks", masks=True, steps=130, data={"batch_size": 6}),
    of_demo("100 steps at 1.9e-3, convolutions", steps=100, adapter=CONVOLUTIONS, **both_rates(1.9e-3)),
    of_demo("90 steps at 2.1e-3, masks, rank 32", masks=True, steps=90, adapter=RANK_32, **both_rates(2.1e-3)),
    of_demo("120 steps, no preserve", preserve=False),
    of_demo("110 steps at 1.75e-3", steps=110, **both_rates(1.75e-3)),
    of_demo("120 steps, masks", masks=True),
    of_demo("120 steps, rank 32", adapter=RANK_32),
    of_demo("min-SNR, masks", masks=True, **MIN_SNR),
    of_demo("min-SNR, masks, 160 steps at 1.2e-3", masks=True, steps=160, **MIN_SNR, **both_rates(1.2e-3)),
    of_demo("min-SNR, 200 steps at 1.2e-3", steps=200, **MIN_SNR, **both_rates(1.2e-3)),
    of_demo("min-SNR, 160 steps at 1.2e-3", steps=160, **MIN_SNR, **both_rates(1.2e-3)),
    of_demo("min-SNR, 80 steps at 2.4e-3", steps=80, **MIN_SNR, **both_rates(2.4e-3)),
    of_demo("min-SNR, 80 steps", steps=80, **MIN_SNR),
    of_demo("min-SNR, 2.2e-3", **MIN_SNR, **both_rates(2.2e-3)),
    of_demo("min-SNR, rank 32", adapter=RANK_32, **MIN_SNR),
    of_demo("min-SNR, rank 8", adapter={"rank": 8}, **MIN_SNR),
    of_demo("min-SNR, convolutions", adapter=CONVOLUTIONS, **MIN_SNR),
    of_demo(
        "min-SNR, all blocks, 1.2e-3", adapter={"layers": ["unet.*attentions*", "te.*"]}, **MIN_SNR, **both_rates(LR)
    ),
    of_demo("min-SNR, garp three times", repeats=3, **MIN_SNR),
    of_demo("min-SNR, garp four times", repeats=4, **MIN_SNR),
    of_demo("min-SNR, text encoder at half the rate", optimizer={"text_lr": 0.8e-3}, **MIN_SNR),
    of_demo("min-SNR, EMA 0.95", ema=0.95, **MIN_SNR),
    of_demo("min-SNR, stratified", **merged(MIN_SNR, {"objective": {"timesteps": "stratified"}})),
    of_demo("no weighting", objective={"weightings": []}),
]
METHODS = {method.name: method for method in [*DEMO, *COMPARED, *TEXT_SIDE]}
"""All, by name, in the order in which they are run."""
