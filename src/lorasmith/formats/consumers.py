"""How A1111, Forge, ComfyUI, InvokeAI and diffusers load a LoRA file, and why.

Each rule says what effect a property of a file has for which readers. The behaviour was measured with the readers' own
code: A1111 1.10, Forge of June 2025, ComfyUI of October 2025, InvokeAI of August 2026, diffusers 0.42.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lorasmith.formats.survey import Survey, component_of

A1111, FORGE, COMFY, INVOKE, DIFFUSERS = "A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers"
READERS = (A1111, FORGE, COMFY, INVOKE, DIFFUSERS)
USER_INTERFACES = (A1111, FORGE, COMFY, INVOKE)
Effect = Literal["yes", "partly", "wrong", "no"]
"""Loads with training's weights; some layers are left out; other weights than training's; not loaded at all."""
EFFECTS: tuple[Effect, ...] = ("yes", "partly", "wrong", "no")
"""From the best to the worst."""
Condition = Callable[[Survey], bool]


@dataclass(frozen=True)
class Rule:
    """Files that meet `condition` have `effect` in `readers`; `reason` explains it."""

    readers: tuple[str, ...]
    effect: Effect
    reason: str
    condition: Condition


def reader_support(survey: Survey) -> dict[str, dict[str, Any]]:
    """By reader: `loads` (the worst effect) and `remarks` (all reasons)."""
    support: dict[str, dict[str, Any]] = {reader: {"loads": "yes", "remarks": []} for reader in READERS}
    for rule in RULES:
        if rule.condition(survey):
            for reader in rule.readers:
                answer = support[reader]
                answer["loads"] = max(answer["loads"], rule.effect, key=EFFECTS.index)
                answer["remarks"].append(rule.reason)
    return support


# --- combinations of conditions


def all_of(*conditions: Condition) -> Condition:
    return lambda survey: all(condition(survey) for condition in conditions)


def any_of(*conditions: Condition) -> Condition:
    return lambda survey: any(condition(survey) for condition in conditions)


def not_(condition: Condition) -> Condition:
    return lambda survey: not condition(survey)


# --- conditions with parameters


def has_kind(*kinds: str) -> Condition:
    """Some layers are of one of these adapter kinds."""
    return lambda survey: any(kind in survey.kinds for kind in kinds)


def has_tensor(name: str, without: str = "") -> Condition:
    """Some layers have a tensor of this name, and none of the name `without`."""
    return lambda survey: any(name in tensors and without not in tensors for tensors in survey.layers.values())


def has_spelling(*spellings: str) -> Condition:
    return lambda survey: survey.file.spelling in spellings


def has_family(*families: str) -> Condition:
    return lambda survey: survey.family in families


def has_layer_named(*parts: str) -> Condition:
    """Some layers have one of these in their flat names."""
    return lambda survey: any(part in flat_name for flat_name in survey.layers for part in parts)


def has_dora_along(axis: Literal["input", "output"], *, only_text: bool = False) -> Condition:
    """Some layers (`only_text`: of the text encoders) have DoRA with magnitudes along this axis."""

    def condition(survey: Survey) -> bool:
        for flat_name, tensors in survey.layers.items():
            magnitude = tensors.get("dora_scale")
            is_text = component_of(flat_name).startswith("te")
            if magnitude is None or (only_text and not is_text):
                continue
            along_input = magnitude.dim() > 1 and magnitude.shape[0] == 1
            if along_input == (axis == "input"):
                return True
        return False

    return condition


# --- single conditions


def has_bound(survey: Survey) -> bool:
    """OFT or BOFT with an alpha above 0, which bounds the rotation."""
    for flat_name, tensors in survey.layers.items():
        if survey.kind_by_layer[flat_name] in ("oft", "boft") and float(tensors.get("alpha", 0)) > 0:
            return True
    return False


def has_dora_over_products(survey: Survey) -> bool:
    """DoRA beside LoHa or LoKr."""
    products = {"hada_w1_a", "lokr_w1", "lokr_w1_a"}
    return any("dora_scale" in tensors and products & tensors.keys() for tensors in survey.layers.values())


def has_dora_over_tucker_lora(survey: Survey) -> bool:
    return any("lora_mid.weight" in tensors and "dora_scale" in tensors for tensors in survey.layers.values())


def has_different_alphas(survey: Survey) -> bool:
    """Some component has more than one alpha."""
    return any(len(alphas) > 1 for alphas in survey.alphas.values())


def has_unknown_tensors(survey: Survey) -> bool:
    return "unknown" in survey.kinds or bool(survey.unknown_keys)


def is_glora_only(survey: Survey) -> bool:
    return set(survey.kinds) == {"glora"}


def is_base_unknown_to_invoke(survey: Survey) -> bool:
    """InvokeAI tells the base by the widths of cross-attentions or text encoders, and SDXL also by its deep
    transformers."""
    if has_layer_named("attn2_to_k", "attn2_to_v")(survey) or set(survey.components) - {"unet"}:
        return False
    deep_transformers = [f"transformer_blocks_{index}_" for index in range(2, 10)]
    return survey.family != "sdxl" or not has_layer_named(*deep_transformers)(survey)


def is_factored_lokr_of_sd(survey: Survey) -> bool:
    """SD 1.x or 2.x, LoKr alone, with a factored second matrix."""
    is_sd = survey.family in ("sd1", "sd2")
    return is_sd and set(survey.kinds) == {"lokr"} and has_tensor("lokr_w2_b")(survey)


def lacks_every_out_proj(survey: Survey) -> bool:
    """Incomplete attentions of text encoders, and no `out_proj` in any."""
    return bool(survey.partial_attentions) and not has_layer_named("out_proj")(survey)


def has_partial_openclip_attention(survey: Survey) -> bool:
    return any(name.startswith("lora_te2_") or survey.family == "sd2" for name in survey.partial_attentions)


def has_too_many_tensors_for_forge(survey: Survey) -> bool:
    """More than 12 tensors that Forge does not know: norms of text encoders, and bundled tokens."""
    unknown = sum(len(vectors) for vectors in survey.file.bundled_embeddings.values())
    for flat_name, tensors in survey.layers.items():
        if survey.kind_by_layer[flat_name] == "norm" and component_of(flat_name) != "unet":
            unknown += len(tensors)
    return unknown > 12


def has_text_norms(survey: Survey) -> bool:
    kinds = survey.kind_by_layer.items()
    return any(kind == "norm" and component_of(flat_name) != "unet" for flat_name, kind in kinds)


def has_ia3_on_conv_outputs(survey: Survey) -> bool:
    for flat_name, tensors in survey.layers.items():
        is_ia3 = survey.kind_by_layer[flat_name] == "ia3"
        if is_ia3 and tensors["weight"].dim() == 4 and not bool(tensors["on_input"]):
            return True
    return False


def has_boft_without_alpha(survey: Survey) -> bool:
    layers = survey.layers.items()
    return any(survey.kind_by_layer[name] == "boft" and "alpha" not in tensors for name, tensors in layers)


def lacks_text_model(survey: Survey) -> bool:
    """Text encoder layers without `text_model` in their names."""
    text_layers = [name for name in survey.layers if "_te" in name and "_encoder_layers_" in name]
    return any("text_model" not in name for name in text_layers)


def has_bundled_tokens(survey: Survey) -> bool:
    return bool(survey.file.bundled_embeddings)


def has_bundled_output_embeddings(survey: Survey) -> bool:
    """Bundled tokens of SD 1.x with output embeddings."""
    for vectors in survey.file.bundled_embeddings.values():
        if {"clip_l", "clip_l_out"} <= vectors.keys() and "clip_g" not in vectors:
            return True
    return False


def has_peft_config(survey: Survey) -> bool:
    return "lora_adapter_metadata" in survey.file.metadata


def has_original_names(survey: Survey) -> bool:
    return survey.has_original_names


def has_te1(survey: Survey) -> bool:
    return "te1" in survey.components


# --- the rules

IS_KOHYA = has_spelling("kohya")
IS_DIFFUSERS = has_spelling("peft", "diffusers", "diffusers before 0.22")
IS_ORIGINAL = has_spelling("original layout")
IS_SIMPLE_TUNER = has_spelling("SimpleTuner")
SD_WITH_ORIGINAL_NAMES = all_of(IS_KOHYA, has_original_names, has_family("sd1", "sd2"))
SDXL_WITH_DIFFUSERS_NAMES = all_of(IS_KOHYA, has_family("sdxl"), not_(has_original_names))
REFUSES_ALL = "it reads plain LoRA only and refuses the whole file"
REFUSES_MANY = "it refuses a file with more than 12 tensors that it does not know"

NAMING_RULES = (
    Rule((A1111, INVOKE), "no", "the names are diffusers', which it does not know", IS_DIFFUSERS),
    Rule((FORGE,), "no", "the names are diffusers'; it refuses a file with more than 12 unknown tensors", IS_DIFFUSERS),
    Rule((COMFY,), "partly", "of diffusers' names it finds no attention layers", IS_DIFFUSERS),
    Rule((A1111, INVOKE, DIFFUSERS), "no", "it does not know names that start with lycoris_", IS_SIMPLE_TUNER),
    Rule((A1111, INVOKE, DIFFUSERS), "no", "it does not know names of the original layout with dots", IS_ORIGINAL),
    Rule(
        (INVOKE, DIFFUSERS),
        "no",
        "for SD 1.x and 2.x it knows diffusers' names of UNet layers only",
        SD_WITH_ORIGINAL_NAMES,
    ),
    Rule(
        (A1111,),
        "partly",
        "of SDXL layers under diffusers' names it misses add_embedding and one upsampler",
        all_of(SDXL_WITH_DIFFUSERS_NAMES, has_layer_named("add_embedding", "up_blocks_0_upsamplers")),
    ),
    Rule(
        (DIFFUSERS,),
        "partly",
        "add_embedding is dropped with a warning",
        all_of(SDXL_WITH_DIFFUSERS_NAMES, has_layer_named("add_embedding")),
    ),
    Rule(
        USER_INTERFACES,
        "partly",
        "text encoder names lack text_model, so those layers are not found",
        lacks_text_model,
    ),
    Rule(
        (INVOKE,),
        "partly",
        "it looks for SD 1.x text layers under lora_te_, not lora_te1_",
        all_of(IS_KOHYA, has_family("sd1", "sd2"), has_te1),
    ),
    Rule(
        (INVOKE,),
        "no",
        "it cannot tell the base model: no cross-attention and no text layer",
        is_base_unknown_to_invoke,
    ),
)

KIND_RULES = (
    Rule(READERS, "no", "some layers have tensors of no known adapter kind", has_unknown_tensors),
    Rule(
        (DIFFUSERS,),
        "no",
        REFUSES_ALL,
        has_kind("loha", "lokr", "oft", "boft", "ia3", "full", "norm", "glora"),
    ),
    Rule((DIFFUSERS,), "no", "it does not know the middle factor of Tucker LoRA", has_tensor("lora_mid.weight")),
    Rule(
        (DIFFUSERS,),
        "wrong",
        "alphas differ; it takes the commonest for every layer of a component",
        all_of(IS_KOHYA, has_different_alphas),
    ),
    # DoRA
    Rule(
        USER_INTERFACES,
        "wrong",
        "the DoRA runs along outputs, which no user interface computes correctly",
        has_dora_along("output"),
    ),
    Rule(
        (DIFFUSERS,),
        "wrong",
        "it drops dora_scale and loads a plain LoRA",
        all_of(IS_KOHYA, has_tensor("dora_scale")),
    ),
    Rule(
        (DIFFUSERS,),
        "wrong",
        "its text encoders lose DoRA magnitudes",
        all_of(not_(IS_KOHYA), has_dora_along("output", only_text=True)),
    ),
    Rule((INVOKE,), "no", "it takes dora_scale beside plain LoRA only", has_dora_over_products),
    Rule((DIFFUSERS,), "no", REFUSES_ALL, has_dora_over_products),
    Rule((INVOKE,), "wrong", "it does not apply DoRA with Tucker factors", has_dora_over_tucker_lora),
    # LoKr
    Rule((FORGE,), "no", "it fails at LoKr with Tucker factors", has_tensor("lokr_t2")),
    Rule((COMFY,), "partly", "it skips LoKr layers with Tucker factors", has_tensor("lokr_t2")),
    Rule(
        (INVOKE,),
        "no",
        "it cannot tell the base model of LoKr files with low-rank factors",
        is_factored_lokr_of_sd,
    ),
    # OFT and BOFT
    Rule((FORGE, INVOKE), "no", "it does not know OFT and BOFT", has_kind("oft", "boft")),
    Rule((COMFY,), "wrong", "it reads the bound of the rotation (alpha) differently", has_bound),
    Rule((COMFY,), "wrong", "it ignores OFT's rescale", all_of(has_kind("oft"), has_tensor("rescale"))),
    Rule((COMFY,), "yes", "right at strength 1 only: it applies OFT's strength twice", has_kind("oft", "boft")),
    Rule((COMFY,), "no", "it fails at BOFT without alpha", has_boft_without_alpha),
    # IA3 and GLoRA
    Rule((FORGE, COMFY), "no", "it does not know IA3", has_kind("ia3")),
    Rule((A1111, INVOKE), "no", "it fails at IA3 on the outputs of convolutions", has_ia3_on_conv_outputs),
    Rule((A1111,), "partly", "it still expects GLoRA's old layout and skips those layers", has_kind("glora")),
    Rule((A1111,), "no", "there is nothing else in it", is_glora_only),
    Rule((INVOKE,), "no", "it does not know GLoRA", has_kind("glora")),
)

COMPONENT_RULES = (
    # norms and biases
    Rule((COMFY,), "partly", "it finds no norms of text encoders", has_text_norms),
    Rule((FORGE,), "no", REFUSES_MANY, has_too_many_tensors_for_forge),
    Rule(
        (A1111,),
        "partly",
        "it does not find conv_norm_out",
        all_of(has_kind("norm"), has_layer_named("conv_norm_out")),
    ),
    Rule((A1111,), "no", "it fails at w_norm without b_norm", has_tensor("w_norm", without="b_norm")),
    Rule((A1111,), "no", "it fails at diff_b without diff", has_tensor("diff_b", without="diff")),
    # attentions of text encoders
    Rule((DIFFUSERS,), "no", "text encoder attention without any out_proj is refused", lacks_every_out_proj),
    Rule(
        (A1111,),
        "partly",
        "of OpenCLIP attention it takes q, k, v and out together, or none",
        has_partial_openclip_attention,
    ),
    # new tokens
    Rule(
        (FORGE, COMFY, INVOKE),
        "partly",
        "it leaves out the bundled new tokens; give it their embedding files",
        has_bundled_tokens,
    ),
    Rule((DIFFUSERS,), "no", "bundled new tokens make it refuse the whole file", has_bundled_tokens),
    Rule(
        (A1111,),
        "no",
        "it fails at bundled tokens of SD 1.x with clip_l_out",
        has_bundled_output_embeddings,
    ),
    Rule(
        (DIFFUSERS,),
        "no",
        "alphas beside lora_adapter_metadata are refused",
        all_of(IS_KOHYA, has_tensor("alpha"), has_peft_config),
    ),
)

RULES = NAMING_RULES + KIND_RULES + COMPONENT_RULES
