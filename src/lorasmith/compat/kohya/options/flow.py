"""Options of `sd3_train_network` and `flux_train_network`: their own, and what differs among the shared ones."""

from collections.abc import Iterable

from lorasmith.compat.flow_schemes import SCHEMES, scheme_options
from lorasmith.compat.kohya.options import OPTIONS as SHARED
from lorasmith.compat.kohya.options.data import TEXT_CACHE
from lorasmith.compat.options import Option

UNUSED = "this script of the original does not use it either"
BROKEN = "it does nothing in the original either"
PARTS = "not beside a diffusers folder, which has its own parts"
SAVES_MEMORY = "it only saves memory; `memory` goes as far as the run needs (docs/performance.md)"

UNUSED_OPTIONS = (
    Option("v2", state="no_effect", note=UNUSED),
    Option("v_parameterization", state="no_effect", note=UNUSED),
    Option("clip_skip", "int", state="no_effect", note=UNUSED),
    Option("max_token_length", "int", state="no_effect", note=f"{UNUSED}; t5xxl_max_token_length sets T5's length"),
    Option("noise_offset", "float", state="no_effect", note=UNUSED),
    Option("noise_offset_random_strength", state="no_effect", note=UNUSED),
    Option("adaptive_noise_scale", "float", state="no_effect", note=UNUSED),
    Option("multires_noise_iterations", "int", state="no_effect", note=UNUSED),
    Option("multires_noise_discount", "float", 0.3, state="no_effect", note=UNUSED),
    Option("min_snr_gamma", "float", state="no_effect", note=UNUSED),
    Option("debiased_estimation_loss", state="no_effect", note=UNUSED),
    Option("scale_v_pred_loss_like_noise_pred", state="no_effect", note=UNUSED),
    Option("v_pred_like_loss", "float", state="no_effect", note=UNUSED),
    Option("zero_terminal_snr", state="no_effect", note=UNUSED),
    Option("sample_sampler", "text", "ddim", state="no_effect", note="Euler is always used, as in the original"),
    Option("weighted_captions", state="refused", note="the original stops at it: T5 knows no emphasis; remove it"),
    Option(
        "huber_schedule",
        "text",
        "snr",
        to="objective.loss.schedule",
        choices=("constant", "exponential", "snr"),
        note="the default, `snr`, cannot be used with loss_type = huber or smooth_l1, as in the original",
    ),
)
"""Shared options that these scripts take and do not use, or use in another way."""

TRANSFORMER_OPTIONS = (
    Option("cache_text_encoder_outputs", state="no_effect", note=TEXT_CACHE),
    Option("cache_text_encoder_outputs_to_disk", state="no_effect", note=TEXT_CACHE),
    Option("text_encoder_batch_size", "int", state="no_effect", note="captions are encoded one by one, once"),
    Option("disable_mmap_load_safetensors", state="no_effect", note="weights are read tensor by tensor"),
    *scheme_options("uniform", (*SCHEMES, "none", "uniform")),
    Option("blocks_to_swap", "int", state="no_effect", note=SAVES_MEMORY),
)
"""What both scripts have beside the shared options."""

ENCODERS = (
    Option("clip_l", "text", to="base_parts", note=PARTS),
    Option("t5xxl", "text", to="base_parts", note=PARTS),
)
LOG_METHODS = (
    Option(
        "apply_t5_attn_mask",
        state="refused",
        note="the padding of T5 is not masked, as the base models were trained; remove it",
    ),
)

SD3_OWN = (
    *TRANSFORMER_OPTIONS,
    *ENCODERS,
    Option("clip_g", "text", to="base_parts", note=PARTS),
    Option("save_clip", state="no_effect", note=BROKEN),
    Option("save_t5xxl", state="no_effect", note=BROKEN),
    Option("t5xxl_device", "text", state="no_effect", note=BROKEN),
    Option("t5xxl_dtype", "text", state="no_effect", note=BROKEN),
    Option("t5xxl_max_token_length", "int", 256, to="text.t5_tokens"),
    Option(
        "apply_lg_attn_mask",
        state="refused",
        note="the padding of CLIP is not zeroed, as the base models were trained; remove it",
    ),
    *LOG_METHODS,
    Option(
        "clip_l_dropout_rate",
        "float",
        0.0,
        state="refused",
        note="single encoders are not dropped; caption_dropout_rate drops the caption for all of them",
    ),
    Option("clip_g_dropout_rate", "float", 0.0, state="refused", note="see clip_l_dropout_rate"),
    Option("t5_dropout_rate", "float", 0.0, state="refused", note="see clip_l_dropout_rate"),
    Option(
        "pos_emb_random_crop_rate",
        "float",
        0.0,
        state="refused",
        note="positions are always those of the middle of the base's grid; remove it",
    ),
    Option(
        "enable_scaled_pos_embed",
        state="refused",
        note="positions are always those of the middle of the base's grid; remove it",
    ),
    Option(
        "training_shift",
        "float",
        1.0,
        to="objective.timesteps.shift",
        note="moves t before it is placed between min_timestep and max_timestep",
    ),
    Option("ip_noise_gamma", "float", state="no_effect", note=UNUSED),
    Option("ip_noise_gamma_random_strength", state="no_effect", note=UNUSED),
)

SAMPLINGS = ("sigma", "uniform", "sigmoid", "shift", "flux_shift")
PREDICTION_TYPES = ("raw", "additive", "sigma_scaled")
FLUX_OWN = (
    *TRANSFORMER_OPTIONS,
    *ENCODERS,
    Option("ae", "text", to="base_parts", note=PARTS),
    Option("vae", "text", state="no_effect", note=UNUSED),
    Option("min_timestep", "int", state="no_effect", note=UNUSED),
    Option("max_timestep", "int", state="no_effect", note=UNUSED),
    Option("controlnet_model_name_or_path", "text", state="no_effect", note=UNUSED),
    Option(
        "t5xxl_max_token_length", "int", to="text.t5_tokens", note="default: 512, 256 for schnell, as in the original"
    ),
    *LOG_METHODS,
    Option("guidance_scale", "float", 3.5, to="guidance"),
    Option("timestep_sampling", "text", "sigma", to="objective.timesteps", choices=SAMPLINGS),
    Option("sigmoid_scale", "float", 1.0, to="objective.timesteps.of.std", note="of sigmoid, shift and flux_shift"),
    Option(
        "model_prediction_type",
        "text",
        "sigma_scaled",
        to="objective.weightings",
        choices=PREDICTION_TYPES,
        state="improved",
        note="`sigma_scaled`, the default, is the loss of x0; the original compares x0 with noise - x0, which trains "
        "nothing that a sampler can use. `additive` has the same fault and no meaning to go by: it is refused. Use "
        "`raw`",
    ),
    Option("discrete_flow_shift", "float", 3.0, to="objective.timesteps.shift", note="of sigma and shift"),
    Option(
        "model_type",
        "text",
        "flux",
        choices=("flux", "chroma"),
        note="`chroma` is refused: it is another family of models",
    ),
    Option("split_mode", state="no_effect", note=SAVES_MEMORY),
)


def combined(own: Iterable[Option]) -> tuple[Option, ...]:
    """The shared options with those of one script, which replace the ones of the same name."""
    changed = {option.name: option for option in (*UNUSED_OPTIONS, *own)}
    kept = [changed.pop(option.name, option) for option in SHARED]
    return (*kept, *changed.values())


SD3_OPTIONS = combined(SD3_OWN)
"""Of `sd3_train_network`."""
FLUX_OPTIONS = combined(FLUX_OWN)
"""Of `flux_train_network`."""
