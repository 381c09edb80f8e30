"""Every option of diffusers' training scripts for Stable Diffusion, in one of four states."""

from __future__ import annotations

from collections.abc import Iterable

from lorasmith.compat.options import Option

BUCKETS = "images keep their shape, in buckets of this area; nothing but a margin is cropped"
SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
UPLOAD = "upload the file yourself; nothing leaves this machine"


COMMON = (
    Option("pretrained_model_name_or_path", "text", None, "same", "", "base"),
    Option("revision", "text", None, "refused", "name a local folder of that revision"),
    Option("variant", "text", None, "pointless", "weights go straight to the dtype they are used in"),
    Option("output_dir", "text", None, "same", "", "output"),
    Option("cache_dir", "text", None, "pointless", "the hub's own cache is used"),
    Option("seed", "int", None, "better", "0 if none is given: a run can be repeated", "seed"),
    Option("resolution", "int", 512, "better", BUCKETS, "data.resolution"),
    Option("center_crop", "flag", False, "better", BUCKETS),
    Option("image_interpolation_mode", "text", "lanczos", "pointless", "always Lanczos"),
    Option("train_batch_size", "int", 4, "same", "", "data.batch_size"),
    Option("num_train_epochs", "int", 1, "same", "", "epochs"),
    Option("max_train_steps", "int", None, "same", "", "steps"),
    Option("gradient_accumulation_steps", "int", 1, "same", "", "accumulation"),
    Option("gradient_checkpointing", "flag", False, "same", "", "gradient_checkpointing"),
    Option("learning_rate", "float", 1e-4, "same", "", "optimizer.lr"),
    Option("scale_lr", "flag", False, "same", "", "optimizer.lr"),
    Option("lr_scheduler", "text", "constant", "same", "", "lr_schedule", SCHEDULES),
    Option("lr_warmup_steps", "int", 500, "same", "`constant` ignores it, there as here", "lr_schedule.warmup"),
    Option("lr_num_cycles", "int", 1, "same", "", "lr_schedule.cycles"),
    Option("lr_power", "float", 1.0, "same", "", "lr_schedule.power"),
    Option("use_8bit_adam", "flag", False, "same", "", "optimizer.kind"),
    Option("adam_beta1", "float", 0.9, "same", "", "optimizer.betas"),
    Option("adam_beta2", "float", 0.999, "same", "", "optimizer.betas"),
    Option("adam_weight_decay", "float", 0.01, "same", "", "optimizer.weight_decay"),
    Option("adam_epsilon", "float", 1e-8, "same", "", "optimizer.eps"),
    Option("max_grad_norm", "float", 1.0, "better", "clips: text_to_image's own never does", "optimizer.clip"),
    Option(
        "mixed_precision",
        "text",
        None,
        "better",
        "explicit dtypes, no autocast",
        "precision",
        ("no", "fp16", "bf16"),
    ),
    Option("allow_tf32", "flag", False, "pointless", "torch's own default is kept"),
    Option("enable_xformers_memory_efficient_attention", "flag", False, "pointless", "torch's attention is as lean"),
    Option("dataloader_num_workers", "int", 0, "pointless", "latents are cached; no workers are needed"),
    Option("validation_prompt", "text", None, "better", "drawn without a second pipeline", "preview.prompts"),
    Option("num_validation_images", "int", 4, "same", "", "preview.prompts"),
    Option("validation_epochs", "int", 50, "same", "", "preview.every_epochs"),
    Option("validation_steps", "int", None, "same", "", "preview.every_steps"),
    Option(
        "checkpointing_steps",
        "int",
        500,
        "better",
        "exact to the bit, also inside an epoch",
        "checkpoint.every_steps",
    ),
    Option("checkpoints_total_limit", "int", None, "same", "", "checkpoint.keep"),
    Option("resume_from_checkpoint", "text", None, "better", "`latest`, or nothing: the newest whole one"),
    Option("logging_dir", "text", "logs", "pointless", "logs are in the run's folder"),
    Option("report_to", "text", "tensorboard", "pointless", "TensorBoard and events.jsonl are always written"),
    Option("push_to_hub", "flag", False, "refused", UPLOAD),
    Option("hub_token", "text", None, "pointless", UPLOAD),
    Option("hub_model_id", "text", None, "pointless", UPLOAD),
    Option("local_rank", "int", -1, "pointless", "the launcher's environment says it"),
    Option("tokenizer_name", "text", None, "refused", "the base model's own tokenizer is used"),
    Option("pretrained_vae_model_name_or_path", "text", None, to="vae"),
)


def common(**defaults: object) -> tuple[Option, ...]:
    """Options that all the scripts have, with a script's own defaults."""
    unknown = set(defaults) - {o.name for o in COMMON}
    assert not unknown, unknown
    return tuple(_with_default(o, defaults[o.name]) if o.name in defaults else o for o in COMMON)


def _with_default(option: Option, default: object) -> Option:
    return Option(option.name, option.type, default, option.state, option.note, option.to, option.choices)


LORA = (
    Option("rank", "int", 4, "same", "", "adapter.rank"),
    Option("lora_dropout", "float", 0.0, "same", "", "adapter.dropout"),
    Option("train_text_encoder", "flag", False, "same", "", "optimizer.text_lr"),
)
DATASET = (
    Option("dataset_name", "text", None, "same", "a local folder, or a hub id through `datasets`", "data.images"),
    Option("dataset_config_name", "text", None, "same", "of a hub data set"),
    Option("image_column", "text", "image", "same", "of a hub data set"),
    Option("caption_column", "text", "text", "same", "", "data.images"),
    Option("random_flip", "flag", False, "same", "", "data.transforms"),
    Option("snr_gamma", "float", None, "same", "", "objective.weightings"),
    Option("noise_offset", "float", 0.0, "same", "", "objective.noise"),
)
CLASSES = (
    Option("instance_data_dir", "text", None, "same", "", "data.subsets"),
    Option("instance_prompt", "text", None, "same", "", "data.subsets.caption"),
    Option("class_data_dir", "text", None, "same", "", "data.subsets"),
    Option("class_prompt", "text", None, "same", "", "data.subsets.caption"),
    Option("with_prior_preservation", "flag", False, "same", "", "data.subsets.loss_weight"),
    Option("prior_loss_weight", "float", 1.0, "same", "", "data.subsets.loss_weight"),
    Option("num_class_images", "int", 100, "same", "drawn with the base until there are so many"),
    Option("sample_batch_size", "int", 4, "same", "of class pictures"),
    Option("prior_generation_precision", "text", None, "pointless", "as the base is trained"),
)
FLOYD = "DeepFloyd IF is not supported; Stable Diffusion 1.x, 2.x and XL are"
DREAMBOOTH = (
    Option("pre_compute_text_embeddings", "flag", False, "pointless", "always, where texts do not change"),
    Option("tokenizer_max_length", "int", None, "refused", FLOYD),
    Option("text_encoder_use_attention_mask", "flag", False, "refused", FLOYD),
    Option("validation_images", "texts", None, "refused", FLOYD),
    Option("class_labels_conditioning", "text", None, "refused", FLOYD),
)
ADVANCED = (
    Option("repeats", "int", 1, "same", "", "data.subsets.repeats"),
    Option("text_encoder_lr", "float", 5e-6, "same", "", "optimizer.text_lr"),
    Option("optimizer", "text", "AdamW", "same", "", "optimizer.kind", ("adamw", "prodigy")),
    Option("prodigy_beta3", "float", None, "same", "", "optimizer.args"),
    Option("prodigy_decouple", "flag", True, "same", "", "optimizer.args"),
    Option("prodigy_use_bias_correction", "flag", True, "same", "", "optimizer.args"),
    Option("prodigy_safeguard_warmup", "flag", True, "same", "", "optimizer.args"),
    Option(
        "adam_weight_decay_text_encoder", "float", None, "better", "of the new words; the adapters have one", "concepts"
    ),
    Option("use_dora", "flag", False, "same", "", "adapter.kind"),
    Option("do_edm_style_training", "flag", False, "refused", "train with the base's own noise schedule"),
)
PIVOTAL = (
    Option("token_abstraction", "text", "TOK", "same", "", "concepts.words"),
    Option("num_new_tokens_per_abstraction", "int", 2, "same", "", "concepts.words"),
    Option("train_text_encoder_ti", "flag", False, "same", "", "concepts"),
    Option("train_text_encoder_ti_frac", "float", 0.5, "same", "", "phases.words"),
    Option("train_text_encoder_frac", "float", 1.0, "same", "", "phases.text"),
    Option("cache_latents", "flag", False, "better", "always; by image, never by position in the epoch"),
    Option("clip_skip", "int", None, "same", "", "text.clip_skip"),
)
XL = (
    Option("output_kohya_format", "flag", False, "pointless", "such a file is always written"),
    Option("enable_npu_flash_attention", "flag", False, "pointless", "torch's attention is used"),
    Option("debug_loss", "flag", False, "pointless", "events.jsonl has every loss"),
)
INVERSION = (
    Option("train_data_dir", "text", None, "same", "", "data.images"),
    Option("placeholder_token", "text", None, "same", "", "concepts.words"),
    Option("initializer_token", "text", None, "better", "may be several words", "concepts.init"),
    Option("num_vectors", "int", 1, "same", "", "concepts.vectors"),
    Option(
        "learnable_property", "text", "object", "same", "sentences of our own", "data.transforms", ("object", "style")
    ),
    Option("repeats", "int", 100, "same", "", "data.subsets.repeats"),
    Option("save_steps", "int", 500, "same", "", "export.every_steps"),
    Option("save_as_full_pipeline", "flag", False, "refused", "the embedding loads with load_textual_inversion"),
    Option("no_safe_serialization", "flag", False, "pointless", "files are safetensors; .bin could carry code"),
)
CUSTOM = (
    Option("concepts_list", "text", None, "same", "", "data.subsets"),
    Option("real_prior", "flag", False, "refused", "class pictures are drawn by the base: --with_prior_preservation"),
    Option("freeze_model", "text", "crossattn_kv", "same", "", "adapter.layers", ("crossattn_kv", "crossattn")),
    Option("modifier_token", "text", None, "same", "", "concepts.words"),
    Option("initializer_token", "text", "ktn+pll+ucd", "same", "", "concepts.init"),
    Option("hflip", "flag", False, "same", "", "data.transforms"),
    Option("noaug", "flag", False, "better", "images are never scaled into a corner"),
    Option("set_grads_to_none", "flag", False, "pointless", "always"),
    Option("no_safe_serialization", "flag", False, "pointless", "files are safetensors; .bin could carry code"),
)


def merged(*groups: Iterable[Option]) -> tuple[Option, ...]:
    """Options of several groups; a later one of the same name counts."""
    return tuple({option.name: option for group in groups for option in group}.values())
