"""`train_dreambooth_lora_sd3.py` and `train_dreambooth_lora_flux.py`: LoRAs of Stable Diffusion 3 and Flux.

Their t is one of the thousand of the base's scheduler, counted from the noise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from lorasmith.compat.diffusers.dreambooth import CAPTION_COLUMN, AdvancedScript
from lorasmith.compat.diffusers.options import (
    ADVANCED,
    CLASSES,
    DATASET,
    LORA,
    PIVOTAL,
    TEXT_WEIGHT_DECAY,
    XL,
    common,
    merged,
)
from lorasmith.compat.diffusers.shared import Table, Values
from lorasmith.compat.flow_schemes import SCHEMES, read_scheme, scheme_options, shifted
from lorasmith.compat.options import Option
from lorasmith.core.errors import ConfigError, Problem

TOKEN = 16
"""The side in pixels of what these models take as one token."""
BLOCKS = "transformer.transformer_blocks"
ATTENTION = (
    "attn.to_k",
    "attn.to_q",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_k_proj",
    "attn.add_q_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
)
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
TEXT = "te*.self_attn.*_proj"

FLOW = (
    Option(
        "lora_layers",
        "text",
        to="adapter.layers",
        note="ends of layer names, separated by commas, such as attn.to_k,attn.to_q",
    ),
    Option(
        "upcast_before_saving", "flag", False, state="no_effect", note="files hold the float32 weights of the adapters"
    ),
)
SD3_ONLY = (
    *scheme_options("logit_normal", SCHEMES),
    Option("precondition_outputs", "int", 1, to="objective.weightings", note="1: the loss of x0"),
    Option("max_sequence_length", "int", 77, to="text.t5_tokens"),
    Option("lora_blocks", "text", to="adapter.layers", note="numbers of blocks, separated by commas"),
)
FLUX_ONLY = (
    *scheme_options("none", (*SCHEMES, "none")),
    Option("max_sequence_length", "int", 512, to="text.t5_tokens"),
    Option("lora_alpha", "int", 4, to="adapter.alpha"),
    Option("guidance_scale", "float", 3.5, to="guidance"),
)
ABSENT = {
    "pretrained_vae_model_name_or_path",
    "tokenizer_name",
    "image_interpolation_mode",
    "enable_xformers_memory_efficient_attention",
    "validation_steps",
    "snr_gamma",
    "noise_offset",
    "use_dora",
    "do_edm_style_training",
    "dataset_config",
}
"""Options of the other scripts that these do not have."""


def flow_options(*own: Iterable[Option], **defaults: object) -> tuple[Option, ...]:
    """The options of one of the scripts."""
    cache = tuple(option for option in PIVOTAL if option.name == "cache_latents")
    text = (CAPTION_COLUMN, replace(TEXT_WEIGHT_DECAY, default=1e-3))
    shared = common(adam_weight_decay=1e-4, **defaults)
    options = merged(shared, DATASET, CLASSES, LORA, ADVANCED, FLOW, cache, text, *own)
    return tuple(option for option in options if option.name not in ABSENT)


class FlowScript(AdvancedScript):
    """What both scripts have in common."""

    sampling: ClassVar[Table]
    """Steps and guidance of the original's pipeline, for previews and class images."""
    layers: ClassVar[Sequence[str]]
    """The ends of the names of the layers that are trained by default."""

    def adjust(self, values: Values, config: Table) -> None:
        """Replace what is another thing for transformers."""
        if values["resolution"] % TOKEN:
            remedy = f"use {values['resolution'] // TOKEN * TOKEN}"
            found = f"found {values['resolution']}"
            raise ConfigError([Problem("--resolution", found, f"a multiple of {TOKEN}", remedy)], self.name)
        config["adapter"] |= {"layers": [*self.layer_patterns(values), TEXT]}
        config["text"] = {"t5_tokens": values["max_sequence_length"]}
        config["objective"] = {"kind": "denoising", **self.flow(values)}
        if "preview" in config:
            config["preview"] |= self.sampling

    def layer_patterns(self, values: Values) -> list[str]:
        """Patterns of the layers of the transformer; names are matched by their ends, as peft does."""
        ends = [end.strip() for end in (values["lora_layers"] or "").split(",") if end.strip()] or self.layers
        return [f"transformer.*.{end}" for end in ends]

    @abstractmethod
    def flow(self, values: Values) -> Table:
        """Timesteps and weightings."""


class TrainDreamboothLoraSd3(FlowScript):
    """`train_dreambooth_lora_sd3.py`."""

    name = "train_dreambooth_lora_sd3"
    options = flow_options(SD3_ONLY, output_dir="sd3-dreambooth")
    sampling: ClassVar[Table] = {"sampler": "euler", "steps": 28, "cfg": 7.0}
    layers = ATTENTION

    def layer_patterns(self, values: Values) -> list[str]:
        patterns = super().layer_patterns(values)
        if values["lora_blocks"] is None:
            return patterns
        try:
            numbers = [int(number) for number in values["lora_blocks"].split(",")]
        except ValueError:
            problem = Problem("--lora_blocks", f'found "{values["lora_blocks"]}"', "numbers, such as 12,13,14")
            raise ConfigError([problem], self.name) from None
        ends = [pattern.removeprefix("transformer.*.") for pattern in patterns]
        return [f"{BLOCKS}.{number}.{end}" for number in numbers for end in ends]

    def flow(self, values: Values) -> Table:
        # the table of the base's scheduler is shifted
        scheme = read_scheme(values)
        timesteps = shifted(scheme.sampler(from_noise=True), "model")
        return {"timesteps": timesteps, "weightings": scheme.weightings(of_x0=bool(values["precondition_outputs"]))}


class TrainDreamboothLoraFlux(FlowScript):
    """`train_dreambooth_lora_flux.py`. The scheduler of dev and schnell is not shifted while training."""

    name = "train_dreambooth_lora_flux"
    options = flow_options(
        FLUX_ONLY,
        (option for option in XL if option.name == "enable_npu_flash_attention"),
        output_dir="flux-dreambooth-lora",
    )
    sampling: ClassVar[Table] = {"sampler": "euler", "steps": 28, "cfg": 1.0}
    layers = (*ATTENTION, *FEED_FORWARD)

    def adjust(self, values: Values, config: Table) -> None:
        super().adjust(values, config)
        config["adapter"]["alpha"] = values["lora_alpha"]
        config["guidance"] = values["guidance_scale"]

    def flow(self, values: Values) -> Table:
        scheme = read_scheme(values)
        table: dict[str, Any] = {"timesteps": scheme.sampler(from_noise=True)}
        weightings = scheme.weightings(of_x0=False)
        return table | ({"weightings": weightings} if weightings else {})
