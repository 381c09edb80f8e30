"""How A1111, Forge, ComfyUI, InvokeAI and diffusers load a LoRA file, and why.

Each rule says what effect a property of a file has for which readers; rules of layers say which layers a reader does
not find. The behaviour was measured with the readers' own code: A1111 1.10, Forge of June 2025, ComfyUI of October
2025, InvokeAI of August 2026, diffusers 0.42.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lorasmith.formats.consumer_conditions import (
    DIFFUSERS_SPELLINGS,
    all_of,
    has_boft_without_alpha,
    has_bound,
    has_bundled_output_embeddings,
    has_bundled_tokens,
    has_dora_along,
    has_dora_over_products,
    has_dora_over_tucker_lora,
    has_family,
    has_ia3_on_conv_outputs,
    has_kind,
    has_lone_alphas,
    has_original_names,
    has_peft_config,
    has_scalars,
    has_spelling,
    has_tensor,
    has_unknown_tensors,
    is_base_unknown_to_invoke,
    is_of_partial_openclip_attention,
    is_peft_attention,
    is_taken_for_another_base_by_invoke,
    is_te1_of_sd,
    is_text_norm,
    is_text_norm_unknown_to_a1111,
    lacks_every_out_proj,
    lacks_text_model,
    layer_has,
    layer_is,
    layer_named,
    loses_alphas_in_diffusers,
    not_,
)
from lorasmith.formats.consumer_rules import (
    A1111,
    COMFY,
    DIFFUSERS,
    EFFECTS,
    FORGE,
    INVOKE,
    MAX_UNKNOWN_TENSORS_OF_FORGE,
    READERS,
    USER_INTERFACES,
    Effect,
    LayerRule,
    Rule,
)
from lorasmith.formats.consumers_of_transformers import (
    TRANSFORMER_LAYER_RULES,
    TRANSFORMER_READERS,
    TRANSFORMER_RULES,
)
from lorasmith.formats.survey import Survey


def reader_support(survey: Survey) -> dict[str, dict[str, Any]]:
    """By reader: `loads` (the worst effect) and `remarks` (all reasons)."""
    if survey.family in ("flux", "sd3"):
        readers, rules, layer_rules = TRANSFORMER_READERS, TRANSFORMER_RULES, TRANSFORMER_LAYER_RULES
    else:
        readers, rules, layer_rules = READERS, RULES, LAYER_RULES
    support: dict[str, dict[str, Any]] = {reader: {"loads": "yes", "remarks": []} for reader in readers}
    for rule in rules:
        if rule.condition(survey):
            for reader in rule.readers:
                _add(support[reader], rule.effect, rule.reason)

    # what a reader leaves out: some layers, or all that there are
    missed = _missed_layers(survey, support, layer_rules)
    for reader, layers in missed.items():
        if layers and len(layers) == len(survey.layers):
            _add(support[reader], "no", "there is nothing else in it")
    if _unknown_to_forge(survey, missed[FORGE]) > MAX_UNKNOWN_TENSORS_OF_FORGE:
        _add(support[FORGE], "no", "it refuses a file with more than 12 tensors that it does not know")
    return support


def _missed_layers(
    survey: Survey, support: dict[str, dict[str, Any]], rules: Sequence[LayerRule]
) -> dict[str, set[str]]:
    """The layers that each reader leaves out, by reader; the reasons are added to `support`."""
    missed: dict[str, set[str]] = {reader: set() for reader in support}
    for rule in rules:
        layers = {flat_name for flat_name in survey.layers if rule.is_missed(survey, flat_name)}
        for reader in rule.readers if layers else ():
            missed[reader] |= layers
            _add(support[reader], "partly", rule.reason)
    return missed


def _add(answer: dict[str, Any], effect: Effect, reason: str) -> None:
    """Add a reason to a reader's answer, which is the worst effect of all reasons."""
    answer["loads"] = max(answer["loads"], effect, key=EFFECTS.index)
    answer["remarks"].append(reason)


def _unknown_to_forge(survey: Survey, missed_layers: set[str]) -> int:
    """The number of tensors that Forge does not know: those of layers that it misses, of bundled tokens, and DoRA's
    magnitudes under diffusers' names."""
    bundled = sum(len(vectors) for vectors in survey.file.bundled_embeddings.values())
    magnitudes = 0
    missed = sum(len(survey.layers[name]) for name in missed_layers)
    if IS_DIFFUSERS(survey):
        # of these the alphas are in the metadata, not among the tensors
        missed -= sum("alpha" in survey.layers[name] for name in missed_layers)
        found = (tensors for name, tensors in survey.layers.items() if name not in missed_layers)
        magnitudes = sum("dora_scale" in tensors for tensors in found)
    return bundled + survey.file.scalars + magnitudes + missed


# --- the rules

IS_KOHYA = has_spelling("kohya")
IS_DIFFUSERS = has_spelling(*DIFFUSERS_SPELLINGS)
IS_ORIGINAL = has_spelling("original layout")
IS_SIMPLE_TUNER = has_spelling("SimpleTuner")
SD_WITH_ORIGINAL_NAMES = all_of(IS_KOHYA, has_original_names, has_family("sd1", "sd2"))
SDXL_WITH_DIFFUSERS_NAMES = all_of(IS_KOHYA, has_family("sdxl"), not_(has_original_names))
REFUSES_ALL = "it reads plain LoRA only and refuses the whole file"

NAMING_RULES = (
    Rule((A1111, INVOKE), "no", "the names are diffusers', which it does not know", IS_DIFFUSERS),
    Rule((A1111, INVOKE, DIFFUSERS), "no", "it does not know names that start with lycoris_", IS_SIMPLE_TUNER),
    Rule((A1111, INVOKE, DIFFUSERS), "no", "it does not know names of the original layout with dots", IS_ORIGINAL),
    Rule(
        (INVOKE, DIFFUSERS),
        "no",
        "for SD 1.x and 2.x it knows diffusers' names of UNet layers only",
        SD_WITH_ORIGINAL_NAMES,
    ),
    Rule(
        (INVOKE,),
        "no",
        "it cannot tell the base model, which it asks the k and v of cross-attention and the self-attention of text "
        "encoders (LoRA, LoHa, full differences, LoKr of two whole factors)",
        is_base_unknown_to_invoke,
    ),
    Rule(
        (INVOKE,),
        "no",
        "it takes the file for one of another base: a time embedding, which it takes for SDXL's, stands in it before "
        "the first cross-attention or text encoder",
        is_taken_for_another_base_by_invoke,
    ),
    Rule(
        (A1111, INVOKE, DIFFUSERS),
        "no",
        "it refuses a file in which a layer has an alpha and nothing else; lorasmith convert leaves it out",
        has_lone_alphas,
    ),
)

KIND_RULES = (
    Rule(USER_INTERFACES, "wrong", "it ignores scalar; lorasmith convert multiplies it in", has_scalars),
    Rule((DIFFUSERS,), "no", "it refuses a file with a scalar; lorasmith convert multiplies it in", has_scalars),
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
        "alphas differ; it takes the commonest of a component for attention, for text encoders and where none is",
        all_of(IS_KOHYA, loses_alphas_in_diffusers),
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
    # OFT and BOFT
    Rule((INVOKE,), "no", "it does not know OFT and BOFT", has_kind("oft", "boft")),
    Rule((COMFY,), "wrong", "it reads the bound of the rotation (alpha) differently", has_bound),
    Rule((COMFY,), "wrong", "it ignores OFT's rescale", all_of(has_kind("oft"), has_tensor("rescale"))),
    Rule((COMFY,), "yes", "right at strength 1 only: it applies OFT's strength twice", has_kind("oft", "boft")),
    Rule((COMFY,), "no", "it fails at BOFT without alpha", has_boft_without_alpha),
    # IA3 and GLoRA
    Rule((A1111, INVOKE), "no", "it fails at IA3 on the outputs of convolutions", has_ia3_on_conv_outputs),
    Rule((INVOKE,), "no", "it does not know GLoRA", has_kind("glora")),
)

COMPONENT_RULES = (
    # norms and biases
    Rule((A1111,), "no", "it fails at w_norm without b_norm", has_tensor("w_norm", without="b_norm")),
    Rule((A1111, INVOKE), "no", "it fails at b_norm without w_norm", has_tensor("b_norm", without="w_norm")),
    Rule((FORGE, COMFY), "partly", "it does not find b_norm without w_norm", has_tensor("b_norm", without="w_norm")),
    Rule((A1111, INVOKE), "no", "it fails at diff_b without diff", has_tensor("diff_b", without="diff")),
    # attentions of text encoders
    Rule((DIFFUSERS,), "no", "text encoder layers without any out_proj are refused", lacks_every_out_proj),
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

LAYER_RULES = (
    # names
    LayerRule((FORGE, COMFY), "of diffusers' names it finds no attention layers", is_peft_attention),
    LayerRule(
        (FORGE, COMFY),
        "of diffusers' names it does not find the text projection",
        layer_named("_text_projection", only_if=IS_DIFFUSERS),
    ),
    LayerRule(
        (A1111,),
        "of SDXL layers under diffusers' names it misses add_embedding and one upsampler",
        layer_named("add_embedding", "up_blocks_0_upsamplers", only_if=SDXL_WITH_DIFFUSERS_NAMES),
    ),
    LayerRule(
        (DIFFUSERS,),
        "add_embedding is dropped with a warning",
        layer_named("add_embedding", only_if=SDXL_WITH_DIFFUSERS_NAMES),
    ),
    LayerRule(USER_INTERFACES, "text encoder names lack text_model, so those layers are not found", lacks_text_model),
    LayerRule((INVOKE,), "it looks for SD 1.x text layers under lora_te_, not lora_te1_", is_te1_of_sd),
    # kinds
    LayerRule((COMFY,), "it skips LoKr layers with Tucker factors", layer_has("lokr_t2")),
    LayerRule((FORGE,), "it does not know OFT and BOFT", layer_is("oft", "boft")),
    LayerRule((FORGE, COMFY), "it does not know IA3", layer_is("ia3")),
    LayerRule((A1111,), "it still expects GLoRA's old layout and skips those layers", layer_is("glora")),
    # norms and text encoders
    LayerRule((FORGE, COMFY), "it finds no norms of text encoders", is_text_norm),
    LayerRule((A1111,), "it does not find conv_norm_out", layer_named("conv_norm_out")),
    LayerRule(
        (A1111,),
        "it does not find the last norm of a text encoder, and no norms of OpenCLIP",
        is_text_norm_unknown_to_a1111,
    ),
    LayerRule((A1111,), "it does not find the text projection", layer_named("_text_projection")),
    LayerRule(
        (A1111,),
        "of OpenCLIP attention it takes q, k, v and out together, or none",
        is_of_partial_openclip_attention,
    ),
)
