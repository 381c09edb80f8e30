"""Conditions of the rules on how other programs load a LoRA file: of a whole file, and of single layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Literal

from lorasmith.formats.invoke_base import UNKNOWN_WIDTH, base_for_invoke
from lorasmith.formats.survey import T5, Survey, component_of, rank_of

Condition = Callable[[Survey], bool]
"""Of a file."""
LayerCondition = Callable[[Survey, str], bool]
"""Of one layer of a file, by its flat name."""
DIFFUSERS_SPELLINGS = ("peft", "diffusers", "diffusers before 0.22")
_DIFFUSERS_TRANSFORMER = re.compile(r"^lora_(?:transformer|unet(?=_(?:single_)?transformer_blocks))_")
_ATTENTION_OF_TRANSFORMER = re.compile(r"transformer_blocks_\d+_attn_|embedder|lora_transformer_(?:norm_out|proj_out)")
_ATTENTION_PROJECTION = re.compile(r"_to_(?:q|k|v|out_0)$")


# --- combinations of conditions


def all_of(*conditions: Condition) -> Condition:
    return lambda survey: all(condition(survey) for condition in conditions)


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
            is_text = component_of(flat_name).startswith(("te", T5))
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


def has_unknown_tensors(survey: Survey) -> bool:
    return "unknown" in survey.kinds or bool(survey.unknown_keys)


def lacks_every_out_proj(survey: Survey) -> bool:
    """Text encoder layers without any `out_proj`: incomplete attentions or, under peft's names, MLPs too."""
    if has_layer_named("out_proj")(survey):
        return False
    is_peft = survey.file.spelling in DIFFUSERS_SPELLINGS
    has_text = any(component.startswith("te") for component in survey.components)
    return bool(survey.partial_attentions) or (is_peft and has_text)


def has_ia3_on_conv_outputs(survey: Survey) -> bool:
    for flat_name, tensors in survey.layers.items():
        is_ia3 = survey.kind_by_layer[flat_name] == "ia3"
        if is_ia3 and tensors["weight"].dim() == 4 and not bool(tensors["on_input"]):
            return True
    return False


def has_boft_without_alpha(survey: Survey) -> bool:
    layers = survey.layers.items()
    return any(survey.kind_by_layer[name] == "boft" and "alpha" not in tensors for name, tensors in layers)


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


def loses_alphas_in_diffusers(survey: Survey) -> bool:
    """Some layers have an alpha that diffusers replaces by the commonest one of their component: those of text
    encoders, the projections of attention, and layers without an alpha beside others with one."""
    layers_by_component: dict[str, list[str]] = {}
    for flat_name, tensors in survey.layers.items():
        if "lora_up.weight" in tensors:
            layers_by_component.setdefault(component_of(flat_name), []).append(flat_name)
    for component, flat_names in layers_by_component.items():
        alphas = {name: float(survey.layers[name]["alpha"]) for name in flat_names if "alpha" in survey.layers[name]}
        if not alphas:
            continue
        # of two that are equally common, the one that comes first in the file
        commonest = Counter(alphas.values()).most_common(1)[0][0]
        for name in flat_names:
            if name not in alphas:
                wrong = rank_of(survey.layers[name]) != commonest
            else:
                is_replaced = component != "unet" or _ATTENTION_PROJECTION.search(name) is not None
                wrong = is_replaced and alphas[name] != commonest
            if wrong:
                return True
    return False


def has_lone_alphas(survey: Survey) -> bool:
    return bool(survey.file.lone_alphas)


def has_scalars(survey: Survey) -> bool:
    return bool(survey.file.scalars)


def is_base_unknown_to_invoke(survey: Survey) -> bool:
    """Also true of widths of no published model, unless the metadata say that the base is one of that kind and it is
    the context that is of that width."""
    base, layer = base_for_invoke(survey.file.tensors)
    return base is None or (base == UNKNOWN_WIDTH and (survey.family is None or "time_emb_proj" in layer))


def is_taken_for_another_base_by_invoke(survey: Survey) -> bool:
    base, _ = base_for_invoke(survey.file.tensors)
    return survey.family is not None and base not in (None, UNKNOWN_WIDTH, survey.family)


def has_scaled_last_layer(survey: Survey) -> bool:
    """The last layer of Flux has an alpha other than its rank."""
    for flat_name, tensors in survey.layers.items():
        if "final_layer" in flat_name and "alpha" in tensors and float(tensors["alpha"]) != rank_of(tensors):
            return True
    return False


# --- conditions of single layers


def layer_has(name: str) -> LayerCondition:
    """The layer has a tensor of this name."""
    return lambda survey, flat_name: name in survey.layers[flat_name]


def layer_is(*kinds: str) -> LayerCondition:
    """The layer is of one of these adapter kinds."""
    return lambda survey, flat_name: survey.kind_by_layer[flat_name] in kinds


def layer_named(*parts: str, only_if: Condition | None = None) -> LayerCondition:
    """The layer has one of these in its flat name. `only_if`: a condition of the file."""
    return lambda survey, name: (only_if is None or only_if(survey)) and any(part in name for part in parts)


def is_peft_attention(survey: Survey, flat_name: str) -> bool:
    return survey.file.spelling in DIFFUSERS_SPELLINGS and _ATTENTION_PROJECTION.search(flat_name) is not None


def is_te1_of_sd(survey: Survey, flat_name: str) -> bool:
    return survey.family in ("sd1", "sd2") and component_of(flat_name) == "te1"


def lacks_text_model(survey: Survey, flat_name: str) -> bool:
    """A text encoder layer without `text_model` in its name."""
    return "_te" in flat_name and "_encoder_layers_" in flat_name and "text_model" not in flat_name


def is_text_norm(survey: Survey, flat_name: str) -> bool:
    return survey.kind_by_layer[flat_name] == "norm" and component_of(flat_name).startswith("te")


def is_openclip(survey: Survey, flat_name: str) -> bool:
    """A layer of an OpenCLIP text encoder, whose modules A1111 has under other names."""
    component = component_of(flat_name)
    return component == "te2" or (survey.family == "sd2" and component.startswith("te"))


def is_text_norm_unknown_to_a1111(survey: Survey, flat_name: str) -> bool:
    """Every norm of OpenCLIP, and the last one of the text encoder of SD 1.x."""
    is_last = component_of(flat_name) == "te" and "final_layer_norm" in flat_name
    return is_text_norm(survey, flat_name) and (is_last or is_openclip(survey, flat_name))


def is_of_partial_openclip_attention(survey: Survey, flat_name: str) -> bool:
    attention = flat_name.rpartition("self_attn_")[0] + "self_attn_"
    return attention in survey.partial_attentions and is_openclip(survey, flat_name)


def has_diffusers_transformer_name(survey: Survey, flat_name: str) -> bool:
    """A layer of a transformer under diffusers' name."""
    return component_of(flat_name) == "transformer" and _DIFFUSERS_TRANSFORMER.search(flat_name) is not None


def is_no_attention_of_transformer(survey: Survey, flat_name: str) -> bool:
    """A layer of a transformer's blocks, in diffusers' names, that is no attention."""
    return has_diffusers_transformer_name(survey, flat_name) and _ATTENTION_OF_TRANSFORMER.search(flat_name) is None


def is_t5(survey: Survey, flat_name: str) -> bool:
    """A layer of T5."""
    return component_of(flat_name) == T5
