"""How Forge, ComfyUI and diffusers load a LoRA file of Flux or SD3, and why.

Written from their code: `model_lora_keys_unet` and `load_lora` of Forge (June 2025) and ComfyUI (October 2025), and
`lora_pipeline.py` and `lora_conversion_utils.py` of diffusers 0.42. A1111 has no Flux; InvokeAI was not looked at.
"""

from __future__ import annotations

from lorasmith.formats.consumer_conditions import (
    DIFFUSERS_SPELLINGS,
    all_of,
    has_boft_without_alpha,
    has_bound,
    has_bundled_tokens,
    has_diffusers_transformer_name,
    has_dora_along,
    has_family,
    has_kind,
    has_lone_alphas,
    has_scalars,
    has_scaled_last_layer,
    has_spelling,
    has_tensor,
    has_unknown_tensors,
    is_no_attention_of_transformer,
    is_t5,
    is_text_norm,
    lacks_every_out_proj,
    layer_is,
    not_,
)
from lorasmith.formats.consumer_rules import COMFY, DIFFUSERS, FORGE, LayerRule, Rule
from lorasmith.formats.survey import Survey, component_of

TRANSFORMER_READERS = (FORGE, COMFY, DIFFUSERS)
_INTERFACES = (FORGE, COMFY)
_IS_FLUX, _IS_SD3 = has_family("flux"), has_family("sd3")
_IS_PEFT = has_spelling(*DIFFUSERS_SPELLINGS)
_OTHER_KINDS = ("loha", "lokr", "oft", "boft", "ia3", "full", "norm", "glora")


def _is_t5_in_peft(survey: Survey, flat_name: str) -> bool:
    return _IS_PEFT(survey) and is_t5(survey, flat_name)


def _is_diffusers_name_of_sd3(survey: Survey, flat_name: str) -> bool:
    return survey.family == "sd3" and has_diffusers_transformer_name(survey, flat_name)


def _is_misread_by_diffusers(survey: Survey) -> bool:
    """OneTrainer's names of layers other than attention, which diffusers confuses."""
    if survey.family != "flux" or survey.file.spelling != "kohya":
        return False
    return any(is_no_attention_of_transformer(survey, flat_name) for flat_name in survey.layers)


def _has_no_lora_down(survey: Survey) -> bool:
    """ComfyUI's names with peft's tensor names, which diffusers takes for its own."""
    names = survey.file.original_keys
    return survey.file.spelling == "original layout" and not any(".lora_down.weight" in name for name in names)


def _is_left_out_beside_others(survey: Survey, flat_name: str) -> bool:
    """Of a file with names of both kinds, diffusers takes diffusers' ones alone."""
    is_mixed = survey.family == "flux" and survey.has_both_transformer_names
    is_original = component_of(flat_name) == "transformer" and not has_diffusers_transformer_name(survey, flat_name)
    return is_mixed and is_original


TRANSFORMER_RULES = (
    # names
    Rule(
        (*_INTERFACES, DIFFUSERS),
        "no",
        "it does not know the names without a prefix; lorasmith convert gives them one",
        has_spelling("BFL"),
    ),
    Rule((DIFFUSERS,), "no", "of SD3 it knows its own names only (--to peft)", all_of(_IS_SD3, not_(_IS_PEFT))),
    Rule(
        (DIFFUSERS,),
        "no",
        "it does not know these names with lora_A and lora_B; lorasmith convert writes both kinds that it knows",
        all_of(_IS_FLUX, _has_no_lora_down),
    ),
    Rule(
        (DIFFUSERS,),
        "no",
        "it does not know names that start with lycoris_",
        all_of(_IS_FLUX, has_spelling("SimpleTuner")),
    ),
    Rule(
        (DIFFUSERS,),
        "wrong",
        "of OneTrainer's names it confuses all layers of a block that are no attention",
        _is_misread_by_diffusers,
    ),
    Rule(
        (DIFFUSERS,),
        "wrong",
        "it ignores the alpha of the last layer",
        all_of(_IS_FLUX, has_spelling("kohya"), has_scaled_last_layer),
    ),
    # kinds
    Rule(_INTERFACES, "wrong", "it ignores scalar; lorasmith convert multiplies it in", has_scalars),
    Rule((*_INTERFACES, DIFFUSERS), "no", "some layers have tensors of no known adapter kind", has_unknown_tensors),
    Rule((DIFFUSERS,), "no", "it reads plain LoRA only", has_kind(*_OTHER_KINDS)),
    Rule((DIFFUSERS,), "no", "it refuses a layer with an alpha and nothing else", has_lone_alphas),
    Rule(
        _INTERFACES,
        "wrong",
        "the DoRA runs along outputs, which no user interface computes correctly",
        has_dora_along("output"),
    ),
    Rule(
        (DIFFUSERS,),
        "wrong",
        "it drops dora_scale and loads a plain LoRA",
        all_of(not_(_IS_PEFT), has_tensor("dora_scale")),
    ),
    Rule((COMFY,), "wrong", "it reads the bound of the rotation (alpha) differently", has_bound),
    Rule((COMFY,), "wrong", "it ignores OFT's rescale", all_of(has_kind("oft"), has_tensor("rescale"))),
    Rule((COMFY,), "yes", "right at strength 1 only: it applies OFT's strength twice", has_kind("oft", "boft")),
    Rule((COMFY,), "no", "it fails at BOFT without alpha", has_boft_without_alpha),
    # text encoders and tokens
    Rule((DIFFUSERS,), "no", "text encoder layers without any out_proj are refused", lacks_every_out_proj),
    Rule(
        _INTERFACES, "partly", "it leaves out the bundled new tokens; give it their embedding files", has_bundled_tokens
    ),
    Rule((DIFFUSERS,), "no", "bundled new tokens make it refuse the whole file", has_bundled_tokens),
)

TRANSFORMER_LAYER_RULES = (
    LayerRule((FORGE,), "of SD3 it does not know diffusers' names", _is_diffusers_name_of_sd3),
    LayerRule(_INTERFACES, "it does not know T5 under diffusers' names", _is_t5_in_peft),
    LayerRule((DIFFUSERS,), "it leaves out T5", is_t5),
    LayerRule((DIFFUSERS,), "beside OneTrainer's names it leaves out all others", _is_left_out_beside_others),
    LayerRule((FORGE,), "it does not know OFT and BOFT", layer_is("oft", "boft")),
    LayerRule(_INTERFACES, "it does not know IA3", layer_is("ia3")),
    LayerRule(_INTERFACES, "it finds no norms of text encoders", is_text_norm),
)
