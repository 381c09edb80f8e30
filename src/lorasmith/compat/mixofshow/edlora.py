"""`train_edlora -opt FILE`: training of one concept as an ED-LoRA (arXiv 2305.18292)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.options import NOTED, TRAIN
from lorasmith.compat.mixofshow.reading import (
    find_options_file,
    normalize_arguments,
    read_mapping,
    read_prompts,
    read_yaml,
)
from lorasmith.compat.mixofshow.training_data import convert_data, image_size, preview_size, repeats_of
from lorasmith.compat.options import Option, split_arguments
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.errors import ConfigError, LorasmithError, Problem

UNET_ATTENTION = (
    "unet.*.attn[12].to_q",
    "unet.*.attn[12].to_k",
    "unet.*.attn[12].to_v",
    "unet.*.attn[12].to_out.0",
)
UNET_LAYERS = {
    "Attention": UNET_ATTENTION,
    "CrossAttention": UNET_ATTENTION,
    "Transformer2DModel": ("unet.*.attentions.*",),
}
TEXT_LAYERS = {
    "CLIPAttention": ("te*.self_attn.*_proj",),
    "CLIPEncoderLayer": ("te*.self_attn.*_proj", "te*.mlp.fc[12]"),
}
"""Values of lora_cfg.where to the layers that are trained; the first is the default."""
PATTERNS = {"unet": "unet.*", "text_encoder": "te*"}
"""Layers of a component, by its name in finetune_cfg."""
CROSS_ATTENTION_KEYS_AND_VALUES = "unet.*.attn2.to_[kv]"
NEGATIVE_PROMPT = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality"
)
"""The original's negative prompt, used for every image."""
REQUIRED = ("name", "datasets.train.concept_list", "models.pretrained_path", "models.new_concept_token")


class TrainEdlora(Script):
    """Mix-of-Show's single-concept training."""

    name = "train_edlora"
    origin = "Mix-of-Show"
    options = TRAIN

    def parse(self, argv: Sequence[str]) -> Parsed:
        """The YAML file's values, overridden by the command line's."""
        given = split_arguments(self.options, normalize_arguments(argv))
        if "opt" not in given:
            raise LorasmithError("train_edlora requires its YAML file: -opt FILE")
        file_values = read_yaml(Path(str(given["opt"])), self.options)
        return self.read(file_values | given, [], command_line=given)

    def convert(self, parsed: Parsed) -> Conversion:
        values = parsed.values
        problems = [Problem(key, "missing", remedy="add it") for key in REQUIRED if values[key] is None]
        if problems:
            raise ConfigError(problems, str(values["opt"]))
        notes = [f"{option.name}: {option.note}" for option in TRAIN if is_noted(option, values)]

        # The file joins several new tokens with +.
        size = image_size(values)
        tokens = str(values["models.new_concept_token"]).split("+")
        config: dict[str, Any] = {
            "base": values["models.pretrained_path"],
            "output": f"experiments/{values['name']}",
            "name": str(values["name"]),
            "trigger": [" ".join(tokens)],
            "seed": values["manual_seed"],
            "precision": "fp32" if values["mixed_precision"] == "no" else "auto",
            **convert_length(values),
            "accumulation": values["gradient_accumulation_steps"],
            "gradient_checkpointing": values["models.gradient_checkpoint"],
            "data": convert_data(values, size, notes),
            "lr_schedule": {"kind": "linear"},
            "objective": convert_objective(values),
            "concepts": [convert_concept(values, tokens)],
            "optimizer": convert_optimizer(values),
        }
        adapter = convert_adapter(values)
        if adapter:
            config["adapter"] = adapter

        # Files for the original's other scripts, beside ours.
        files: dict[str, Any] = {
            "kind": "mixofshow",
            "stem": "edlora_model" if values["models.enable_edlora"] else "lora_model",
            "pictures": values["datasets.val_vis.name"],
            "grids": values["val.compose_visualize"],
            "every_steps": values["logger.save_checkpoint_freq"],
        }
        if values["opt"]:
            files["options"] = find_options_file(Path(values["opt"]))
        config["hooks"] = [files]

        # Images are drawn when files are saved, so both have the same frequency.
        if values["val.val_during_save"] and values["datasets.val_vis.prompts"]:
            config["preview"] = convert_preview(values, size)
        config["log"] = {"every_steps": values["logger.print_freq"]}
        config["export"] = {"every_steps": values["logger.save_checkpoint_freq"]}
        return Conversion(config, notes)


def convert_length(values: dict[str, Any]) -> dict[str, Any]:
    """One epoch of a data set that has each image so many times, as in the original; a share of the images is a number
    of views."""
    if repeats_of(values) is None:
        return {"views_per_image": values["datasets.train.dataset_enlarge_ratio"]}
    return {"epochs": 1}


def is_noted(option: Option, values: dict[str, Any]) -> bool:
    """Whether the user should know that an option does something else than what its value asks for."""
    return option.name in NOTED and not option.is_unset(values[option.name])


def convert_adapter(values: dict[str, Any]) -> dict[str, Any]:
    """A LoRA with rank, alpha and layers by component; empty if only the new tokens are trained."""
    unet_rules, unet_layers = convert_component("unet", values, UNET_LAYERS)
    text_rules, text_layers = convert_component("text_encoder", values, TEXT_LAYERS)

    # The first rule that matches a layer counts, so the rule for keys and values precedes that of the whole UNet.
    dropout = values["train.unet_kv_drop_rate"]
    if unet_rules and dropout:
        keys_and_values = unet_rules[0] | {"layers": CROSS_ATTENTION_KEYS_AND_VALUES, "module_dropout": dropout}
        unet_rules.insert(0, keys_and_values)
    rules = [*unet_rules, *text_rules]
    if not rules:
        return {}
    return {
        "kind": "lora",
        "rank": rules[0]["rank"],
        "alpha": rules[0]["alpha"],
        "layers": [*unet_layers, *text_layers],
        "overrides": rules,
    }


def convert_component(
    component: str, values: dict[str, Any], layers_by_class: dict[str, tuple[str, ...]]
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """A rule of `adapter.overrides` for a component, and its layers; both empty if it is not trained."""
    prefix = f"models.finetune_cfg.{component}"
    if not values[f"{prefix}.enable_tuning"]:
        return [], ()
    # The original's alpha is a factor of the change; ours is divided by the rank.
    rank = values[f"{prefix}.lora_cfg.rank"]
    alpha = rank * values[f"{prefix}.lora_cfg.alpha"]
    rule = {"layers": PATTERNS[component], "rank": rank, "alpha": alpha}
    return [rule], layers_by_class[values[f"{prefix}.lora_cfg.where"]]


def convert_concept(values: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    """The table of the new tokens in `concepts`."""
    prefix = "models.finetune_cfg.text_embedding"
    weight_decay = values[f"{prefix}.weight_decay"]
    concept: dict[str, Any] = {
        "words": tokens,
        "layerwise": values["models.enable_edlora"],
        "lr": values[f"{prefix}.lr"] if values[f"{prefix}.enable_tuning"] else 0.0,
        "weight_decay": values["train.optim_g.weight_decay"] if weight_decay is None else weight_decay,
        "norm_stop": values["train.emb_norm_threshold"],
    }
    if values["models.initializer_token"]:
        concept["init"] = str(values["models.initializer_token"]).split("+")
    return concept


def convert_optimizer(values: dict[str, Any]) -> dict[str, Any]:
    """AdamW without gradient clipping; a component that is not trained has a learning rate of 0."""
    rates: dict[str, float] = {}
    for component in PATTERNS:
        prefix = f"models.finetune_cfg.{component}"
        rates[component] = values[f"{prefix}.lr"] if values[f"{prefix}.enable_tuning"] else 0.0
    return {
        "kind": "adamw",
        # `lr` is only the default of the other two.
        "lr": values["models.finetune_cfg.unet.lr"],
        "unet_lr": rates["unet"],
        "text_lr": rates["text_encoder"],
        "weight_decay": values["train.optim_g.weight_decay"],
        "betas": list(values["train.optim_g.betas"]),
        "eps": values["train.optim_g.eps"],
        "clip": 0.0,
    }


def convert_objective(values: dict[str, Any]) -> dict[str, Any]:
    """Noise offset, and attention regularisation. As in the original, masked losses are summed over channels.

    The weight of the attention regularisation is chosen for this sum.
    """
    table: dict[str, Any] = {"kind": "denoising", "mask_mean": "channel_sum"}
    if values["models.noise_offset"]:
        table["noise"] = [{"kind": "offset", "strength": values["models.noise_offset"]}]
    if values["models.attn_reg_weight"]:
        table["parts"] = [
            {
                "kind": "attention_regularisation",
                "weight": values["models.attn_reg_weight"],
                "full_identity": values["models.reg_full_identity"],
                "maximum": "batch",
            }
        ]
    return table


def convert_preview(values: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Images at each save and at the end: of each prompt and seed (from 1), one for each strength."""
    width, height = preview_size(values) or size
    return {
        "prompts": list_prompts(values),
        "negative": NEGATIVE_PROMPT,
        "seed": 1,
        "count": values["datasets.val_vis.num_samples_per_prompt"],
        "strengths": list_strengths(values),
        "compare_base": False,
        "steps": values["val.sample.num_inference_steps"],
        "cfg": values["val.sample.guidance_scale"],
        "sampler": "dpm++_2m",
        "width": width,
        "height": height,
        "every_steps": values["logger.save_checkpoint_freq"],
        "at_end": True,
    }


def list_prompts(values: Mapping[str, Any]) -> list[str]:
    """The validation prompts. Without share_latent_across_prompt, each has seeds of its own."""
    replacements = read_mapping(values["datasets.val_vis.replace_mapping"])
    prompts = read_prompts(values["datasets.val_vis.prompts"], replacements)
    if values["datasets.val_vis.share_latent_across_prompt"]:
        return prompts
    count = values["datasets.val_vis.num_samples_per_prompt"]
    return [f"{prompt} --d {1 + index * count}" for index, prompt in enumerate(prompts)]


def list_strengths(values: Mapping[str, Any]) -> list[float]:
    """The strengths that images are drawn with."""
    return list(values["val.alpha_list"] or (1.0,))
