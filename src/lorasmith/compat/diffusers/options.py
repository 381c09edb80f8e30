"""Every option of diffusers' training scripts for Stable Diffusion, in one of four states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lorasmith.compat.options import Option

BUCKETS = "images keep their aspect ratio, in buckets of this area; only a margin is cropped"
SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
UPLOADED = (
    "each file is uploaded as soon as it is written, the LoRA under the original's name, README.md at the end; a "
    "failed upload gives a note and does not stop the run"
)
SAFETENSORS = "files are safetensors; a .bin could contain code"
FLOYD = "DeepFloyd IF is not supported; Stable Diffusion 1.x, 2.x and XL are"

COMMON = (
    # Model and files
    Option("pretrained_model_name_or_path", "text", to="base"),
    Option("pretrained_vae_model_name_or_path", "text", to="vae"),
    Option("revision", "text", state="refused", note="name a local folder of that revision"),
    Option("variant", "text", state="no_effect", note="weights are loaded directly in the dtype they are used in"),
    Option("tokenizer_name", "text", state="refused", note="the base model's own tokenizer is used"),
    Option("output_dir", "text", to="output"),
    Option("cache_dir", "text", state="no_effect", note="the hub's own cache is used"),
    Option("seed", "int", to="seed", state="improved", note="0 if none is given, so that a run can be repeated"),
    # Images
    Option("resolution", "int", 512, to="data.resolution", state="improved", note=BUCKETS),
    Option("center_crop", "flag", False, state="improved", note=BUCKETS),
    Option("image_interpolation_mode", "text", "lanczos", state="no_effect", note="always Lanczos"),
    Option("dataloader_num_workers", "int", 0, state="no_effect", note="latents are cached, so no workers are needed"),
    # Training length and memory
    Option("train_batch_size", "int", 4, to="data.batch_size"),
    Option("num_train_epochs", "int", 1, to="epochs"),
    Option("max_train_steps", "int", to="steps"),
    Option("gradient_accumulation_steps", "int", 1, to="accumulation"),
    Option("gradient_checkpointing", "flag", False, to="gradient_checkpointing"),
    Option(
        "mixed_precision",
        "text",
        to="precision",
        choices=("no", "fp16", "bf16"),
        state="improved",
        note="explicit dtypes, no autocast",
    ),
    Option("allow_tf32", "flag", False, state="no_effect", note="torch's default is used"),
    Option(
        "enable_xformers_memory_efficient_attention",
        "flag",
        False,
        state="no_effect",
        note="torch's attention needs as little memory",
    ),
    Option("local_rank", "int", -1, state="no_effect", note="read from the launcher's environment"),
    # Optimizer and learning rate schedule
    Option("learning_rate", "float", 1e-4, to="optimizer.lr"),
    Option("scale_lr", "flag", False, to="optimizer.lr"),
    Option("lr_scheduler", "text", "constant", to="lr_schedule", choices=SCHEDULES),
    Option(
        "lr_warmup_steps", "int", 500, to="lr_schedule.warmup", note="`constant` ignores it, in the original and here"
    ),
    Option("lr_num_cycles", "int", 1, to="lr_schedule.cycles"),
    Option("lr_power", "float", 1.0, to="lr_schedule.power"),
    Option("use_8bit_adam", "flag", False, to="optimizer.kind"),
    Option("adam_beta1", "float", 0.9, to="optimizer.betas"),
    Option("adam_beta2", "float", 0.999, to="optimizer.betas"),
    Option("adam_weight_decay", "float", 0.01, to="optimizer.weight_decay"),
    Option("adam_epsilon", "float", 1e-8, to="optimizer.eps"),
    Option(
        "max_grad_norm",
        "float",
        1.0,
        to="optimizer.clip",
        state="improved",
        note="gradients are clipped; the original's text_to_image script never clips",
    ),
    # Previews
    Option("validation_prompt", "text", to="preview.prompts", state="improved", note="drawn without a second pipeline"),
    Option("num_validation_images", "int", 4, to="preview.prompts"),
    Option("validation_epochs", "int", 50, to="preview.every_epochs"),
    Option("validation_steps", "int", to="preview.every_steps"),
    # Checkpoints, logs, hub
    Option(
        "checkpointing_steps",
        "int",
        500,
        to="checkpoint.every_steps",
        state="improved",
        note="a resumed run is identical bit for bit, also from the middle of an epoch",
    ),
    Option("checkpoints_total_limit", "int", to="checkpoint.keep"),
    Option(
        "resume_from_checkpoint",
        "text",
        state="improved",
        note="any value stands for `latest`: the newest complete checkpoint, if there is one",
    ),
    Option("logging_dir", "text", "logs", state="no_effect", note="logs are in the run's folder"),
    Option(
        "report_to", "text", "tensorboard", state="no_effect", note="TensorBoard and events.jsonl are always written"
    ),
    Option("push_to_hub", "flag", False, to="hooks.upload", state="improved", note=UPLOADED),
    Option(
        "hub_token",
        "text",
        to="hooks.upload.token_from",
        state="improved",
        note="not written to any file; without it, HF_TOKEN or the login of this machine is used",
    ),
    Option("hub_model_id", "text", to="hooks.upload.repo", note="default: the name of output_dir, of your own account"),
)


def common(**defaults: object) -> tuple[Option, ...]:
    """The options that all the scripts have, with the defaults of one script."""
    unknown = set(defaults) - {option.name for option in COMMON}
    assert not unknown, unknown
    options: list[Option] = []
    for option in COMMON:
        if option.name in defaults:
            option = replace(option, default=defaults[option.name])
        options.append(option)
    return tuple(options)


def merged(*groups: Iterable[Option]) -> tuple[Option, ...]:
    """The options of several groups; of options with the same name the last one counts."""
    by_name = {option.name: option for group in groups for option in group}
    return tuple(by_name.values())


LORA = (
    Option("rank", "int", 4, to="adapter.rank"),
    Option("lora_dropout", "float", 0.0, to="adapter.dropout"),
    Option("train_text_encoder", "flag", False, to="optimizer.text_lr"),
)
DATASET = (
    Option("dataset_name", "text", to="data.images", note="a local folder, or a hub id (read with `datasets`)"),
    Option("dataset_config_name", "text", note="of a hub data set"),
    Option("image_column", "text", "image", note="of a hub data set"),
    Option("caption_column", "text", "text", to="data.images"),
    Option("random_flip", "flag", False, to="data.transforms"),
    Option("snr_gamma", "float", to="objective.weightings"),
    Option("noise_offset", "float", 0.0, to="objective.noise"),
)
NUM_CLASS_IMAGES = Option("num_class_images", "int", 100, note="missing ones are drawn with the base model")
CLASSES = (
    Option("instance_data_dir", "text", to="data.subsets"),
    Option("instance_prompt", "text", to="data.subsets.caption"),
    Option("class_data_dir", "text", to="data.subsets"),
    Option("class_prompt", "text", to="data.subsets.caption"),
    Option("with_prior_preservation", "flag", False, to="data.subsets.loss_weight"),
    Option("prior_loss_weight", "float", 1.0, to="data.subsets.loss_weight"),
    NUM_CLASS_IMAGES,
    Option("sample_batch_size", "int", 4, note="of class images"),
    Option("prior_generation_precision", "text", state="no_effect", note="the precision of training is used"),
)
DREAMBOOTH = (
    Option(
        "pre_compute_text_embeddings",
        "flag",
        False,
        state="no_effect",
        note="always done if captions and text encoder do not change",
    ),
    Option("tokenizer_max_length", "int", state="refused", note=FLOYD),
    Option("text_encoder_use_attention_mask", "flag", False, state="refused", note=FLOYD),
    Option("validation_images", "texts", state="refused", note=FLOYD),
    Option("class_labels_conditioning", "text", state="refused", note=FLOYD),
)
TEXT_WEIGHT_DECAY = Option(
    "adam_weight_decay_text_encoder",
    "float",
    to="optimizer.text_weight_decay",
    note="also of the new tokens; without it, adam_weight_decay counts",
)
ADVANCED = (
    Option("repeats", "int", 1, to="data.subsets.repeats"),
    Option("text_encoder_lr", "float", 5e-6, to="optimizer.text_lr"),
    Option("optimizer", "text", "AdamW", to="optimizer.kind", choices=("adamw", "prodigy")),
    Option("prodigy_beta3", "float", to="optimizer.args"),
    Option("prodigy_decouple", "flag", True, to="optimizer.args"),
    Option("prodigy_use_bias_correction", "flag", True, to="optimizer.args"),
    Option("prodigy_safeguard_warmup", "flag", True, to="optimizer.args"),
    TEXT_WEIGHT_DECAY,
    Option("use_dora", "flag", False, to="adapter.kind"),
    Option("do_edm_style_training", "flag", False, state="refused", note="train with the base's own noise schedule"),
)
PIVOTAL = (
    Option("token_abstraction", "text", "TOK", to="concepts.words"),
    Option("num_new_tokens_per_abstraction", "int", 2, to="concepts.words"),
    Option("train_text_encoder_ti", "flag", False, to="concepts"),
    Option("train_text_encoder_ti_frac", "float", 0.5, to="phases.words"),
    Option("train_text_encoder_frac", "float", 1.0, to="phases.text"),
    Option(
        "cache_latents",
        "flag",
        False,
        state="improved",
        note="always on; latents are found by image, never by position in the epoch",
    ),
    Option("clip_skip", "int", to="text.clip_skip"),
)
BLOCKS = (
    Option(
        "lora_unet_blocks",
        "text",
        to="adapter.layers",
        note="names of blocks, separated by commas: the attention in them is trained",
    ),
    Option("use_blora", "flag", False, to="adapter.layers", note="two blocks, as in B-LoRA (arXiv 2403.14572)"),
)
XL = (
    Option("output_kohya_format", "flag", False, state="no_effect", note="this file is always written"),
    Option("enable_npu_flash_attention", "flag", False, state="no_effect", note="torch's attention is used"),
    Option("debug_loss", "flag", False, state="no_effect", note="events.jsonl contains every loss"),
)
INVERSION = (
    Option("train_data_dir", "text", to="data.images"),
    Option("placeholder_token", "text", to="concepts.words"),
    Option("initializer_token", "text", to="concepts.init", state="improved", note="may be several words"),
    Option("num_vectors", "int", 1, to="concepts.vectors"),
    Option(
        "learnable_property",
        "text",
        "object",
        to="data.transforms",
        choices=("object", "style"),
        note="our own prompt templates are used",
    ),
    Option("repeats", "int", 100, to="data.subsets.repeats"),
    Option("save_steps", "int", 500, to="export.every_steps"),
    Option(
        "save_as_full_pipeline",
        "flag",
        False,
        state="refused",
        note="load the embedding with load_textual_inversion instead",
    ),
    Option("no_safe_serialization", "flag", False, state="no_effect", note=SAFETENSORS),
)
CUSTOM = (
    Option("concepts_list", "text", to="data.subsets"),
    replace(NUM_CLASS_IMAGES, default=200),
    Option(
        "real_prior",
        "flag",
        False,
        state="refused",
        note="use --with_prior_preservation, which draws class images with the base model",
    ),
    Option("freeze_model", "text", "crossattn_kv", to="adapter.layers", choices=("crossattn_kv", "crossattn")),
    Option("modifier_token", "text", to="concepts.words"),
    Option("initializer_token", "text", "ktn+pll+ucd", to="concepts.init"),
    Option("hflip", "flag", False, to="data.transforms"),
    Option("noaug", "flag", False, state="improved", note="images are never shrunk into a corner of the canvas"),
    Option("set_grads_to_none", "flag", False, state="no_effect", note="always done"),
    Option("no_safe_serialization", "flag", False, state="no_effect", note=SAFETENSORS),
)
