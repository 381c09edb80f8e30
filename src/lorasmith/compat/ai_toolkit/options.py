"""Every key of ai-toolkit's configs of image LoRAs, in one of four states.

The keys of a process are written with their section: `train.lr`. `datasets.` stands for each item of that list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.compat.options import Option, State

ALWAYS_CACHED = "latents and texts are cached on the disk wherever nothing about them changes"
MEMORY = "`memory` goes as far as the run needs (docs/performance.md); the base keeps its own precision"
ATTENTION = "torch's fused attention is always used"
OTHER_MODELS = "for models that are not trained here"
WITH_REFUSED = "belongs to a setting that is refused"
SPECIAL = "is not supported; remove it"
CONTROL = "control images are not trained here; remove it"
VIDEO = "videos and sound are not trained here; remove it"
FLOW_T = (
    "`sigmoid`, `linear`, `weighted`, `shift`, `flux_shift` and `lumina2_shift`; the others are refused. `weighted` is "
    "the weighting `flex_curve`, within 2.1 % of the original's table"
)


def keys(section: str, state: State, note: str, defaults: Mapping[str, Any]) -> tuple[Option, ...]:
    """Options of one section with the same state and note."""
    return tuple(
        Option(f"{section}.{name}", "flag" if isinstance(default, bool) else "any", default, state, note)
        for name, default in defaults.items()
    )


PROCESS = (
    Option("name", "text", to="name", note="of `config`; `[name]` in any text stands for it"),
    Option("type", "text", "sd_trainer", choices=("sd_trainer", "diffusion_trainer", "ui_trainer")),
    Option("training_folder", "text", to="output", note="the run's folder is `training_folder/name`"),
    Option("device", "text", to="device", state="no_effect", note="the GPU is found; set `device` to choose one"),
    Option("trigger_word", "text", to="trigger, data.transforms"),
    Option(
        "training_seed", "int", to="seed", state="improved", note="0 if none is given, so that a run can be repeated"
    ),
    Option("log_dir", "text", state="no_effect", note="TensorBoard's files are in the run's folder"),
    Option("performance_log_every", "int", 0, state="no_effect", note="the log names the seconds of each step"),
    Option("sqlite_db_path", "text", state="no_effect", note="the data base of that program's interface"),
    Option("torch_profiler", "flag", False, state="no_effect", note="use `lorasmith bench`"),
    *(
        Option(name, "any", None, "refused", SPECIAL)
        for name in ("first_sample", "guidance", "embedding", "decorator", "adapter", "slider", "do_lorm")
    ),
)
NETWORK = (
    Option("network.type", "text", "lora", to="adapter.kind", choices=("lora", "locon", "lokr", "dora")),
    Option("network.rank", "int", to="adapter.rank"),
    Option("network.linear", "int", to="adapter.rank"),
    Option("network.alpha", "float", 1.0, to="adapter.alpha"),
    Option(
        "network.linear_alpha",
        "float",
        to="adapter.alpha",
        note="SD3 and Flux: always the rank, as in the original, whose files for them have no alpha",
    ),
    Option("network.conv", "int", to="adapter.conv_rank"),
    Option("network.conv_alpha", "float", to="adapter.conv_alpha"),
    Option("network.dropout", "float", to="adapter.dropout"),
    Option(
        "network.network_kwargs",
        "any",
        to="adapter.layers",
        note="only_if_contains, ignore_if_contains; other keys are refused",
    ),
    Option("network.transformer_only", "flag", True, to="adapter.layers"),
    Option("network.lokr_full_rank", "flag", True, to="adapter.full_matrix"),
    Option("network.lokr_factor", "int", -1, to="adapter.factor"),
    Option("network.pretrained_lora_path", "text", to="start"),
    *keys("network", "no_effect", OTHER_MODELS, {"old_lokr_format": False, "split_multistage_loras": True}),
    *keys("network", "no_effect", MEMORY, {"layer_offloading": False}),
    *keys("network", "refused", SPECIAL, {"lorm": None, "all_layers": False}),
)
SAVE = (
    Option("save.save_every", "int", 1000, to="export.every_steps"),
    Option("save.dtype", "text", "float16", to="export.dtype"),
    Option("save.max_step_saves_to_keep", "int", 5, to="export.keep"),
    Option("save.save_format", "text", "safetensors", choices=("safetensors",)),
    Option("save.push_to_hub", "flag", False, to="hooks.upload"),
    Option("save.hf_repo_id", "text", to="hooks.upload.repo"),
    Option("save.hf_private", "flag", False, to="hooks.upload.public"),
)
LOGGING = (
    Option("logging.use_wandb", "flag", False, to="hooks.wandb"),
    Option("logging.project_name", "text", "ai-toolkit", to="hooks.wandb.project"),
    Option("logging.run_name", "text", to="hooks.wandb.run_name"),
    *keys(
        "logging",
        "no_effect",
        "every step is logged",
        {"log_every": 100, "verbose": False, "use_ui_logger": False},
    ),
)
DATASETS = (
    Option("datasets.folder_path", "text", to="data.subsets.images"),
    Option("datasets.dataset_path", "text", to="data.subsets.images", note="a folder"),
    Option("datasets.type", "text", "image", choices=("image",)),
    Option("datasets.batch_size", "int", to="data.subsets.batch_size"),
    Option("datasets.default_caption", "text", to="data.subsets.caption"),
    Option("datasets.trigger_word", "text", to="data.subsets.transforms"),
    Option("datasets.caption_ext", "text", ".txt", to="data.subsets.caption_extension"),
    Option("datasets.caption_type", "text", to="data.subsets.caption_extension", note="old name of caption_ext"),
    Option(
        "datasets.resolution",
        "any",
        512,
        to="data.subsets.resolution",
        note="a list trains the images at each of these sizes",
    ),
    Option("datasets.buckets", "flag", True, to="data.subsets.buckets.enabled"),
    Option("datasets.bucket_tolerance", "int", 64, to="data.subsets.buckets.step"),
    Option("datasets.square_crop", "flag", False, to="data.subsets.buckets.enabled"),
    Option(
        "datasets.is_reg",
        "flag",
        False,
        to="data.subsets.loss_weight",
        state="improved",
        note="used as often as its images are many, not in every second step",
    ),
    Option("datasets.prior_reg", "flag", False, to="data.subsets.preserve"),
    Option("datasets.loss_multiplier", "float", 1.0, to="data.subsets.loss_weight"),
    Option("datasets.num_repeats", "int", 1, to="data.subsets.repeats"),
    Option("datasets.caption_dropout_rate", "float", 0.0, to="data.subsets.transforms"),
    Option("datasets.token_dropout_rate", "float", 0.0, to="data.subsets.transforms"),
    Option("datasets.keep_tokens", "int", 0, to="data.subsets.transforms"),
    Option("datasets.shuffle_tokens", "flag", False, to="data.subsets.transforms"),
    Option("datasets.replacements", "any", None, to="data.subsets.transforms", note='a list of texts "old|new"'),
    Option("datasets.flip_x", "flag", False, to="data.subsets.transforms"),
    Option("datasets.random_crop", "flag", False, to="data.subsets.transforms"),
    Option("datasets.mask_path", "text", to="data.subsets.masks"),
    Option("datasets.alpha_mask", "flag", False, to="data.subsets.masks"),
    *keys(
        "datasets",
        "no_effect",
        ALWAYS_CACHED,
        {
            "cache_latents": False,
            "cache_latents_to_disk": False,
            "cache_text_embeddings": False,
            "load_image_when_caching_latents": False,
            "cache_latents_num_workers": None,
            "num_workers": 2,
            "prefetch_factor": 2,
            "fast_image_size": False,
            "debug": False,
        },
    ),
    *keys(
        "datasets",
        "no_effect",
        WITH_REFUSED,
        {
            "random_triggers_max": 1,
            "num_controls_from_same_folder": 1,
            "control_transparent_color": [0, 0, 0],
            "full_size_control_images": True,
            "guidance_type": "targeted",
            "replay_transforms": True,
            "shrink_video_to_frames": True,
            "fps": 24,
            "trim_auto_frame_count_tail": True,
            "diff_output_preservation": False,
            "diff_output_preservation_class": "",
        },
    ),
    *keys(
        "datasets",
        "refused",
        CONTROL,
        {
            "control_path": None,
            "control_path_1": None,
            "control_path_2": None,
            "control_path_3": None,
            "control_from_same_folder": False,
            "controls": [],
            "inpaint_path": None,
            "unconditional_path": None,
            "clip_image_path": None,
            "clip_image_from_same_folder": False,
            "clip_image_augmentations": None,
            "clip_image_shuffle_augmentations": False,
            "cache_clip_vision_to_disk": False,
        },
    ),
    *keys(
        "datasets",
        "refused",
        VIDEO,
        {
            "num_frames": 1,
            "auto_frame_count": False,
            "cache_tensors_to_disk": False,
            "do_i2v": False,
            "do_audio": False,
            "audio_preserve_pitch": False,
            "audio_normalize": False,
        },
    ),
    *keys(
        "datasets",
        "refused",
        SPECIAL,
        {
            "flip_y": False,
            "random_scale": False,
            "scale": 1.0,
            "augments": [],
            "augmentations": None,
            "shuffle_augmentations": False,
            "random_triggers": [],
            "use_short_captions": False,
            "standardize_images": False,
            "invert_mask": False,
            "mask_min_value": 0.0,
            "network_weight": 1.0,
            "extra_values": [],
            "poi": None,
        },
    ),
)
SAMPLE = (
    Option("sample.sampler", "text", "ddpm", to="preview.sampler", note="`flowmatch` is Euler"),
    Option("sample.sample_every", "int", 100, to="preview.every_steps"),
    Option("sample.prompts", "any", to="preview.prompts"),
    Option("sample.samples", "any", to="preview.prompts", note="with prompt, width, height, neg, seed, ... of each"),
    Option("sample.width", "int", 512, to="preview.width"),
    Option("sample.height", "int", 512, to="preview.height"),
    Option("sample.neg", "any", False, to="preview.negative"),
    Option("sample.seed", "int", 0, to="preview.seed"),
    Option("sample.walk_seed", "flag", False, to="preview.prompts"),
    Option(
        "sample.guidance_scale", "float", 7.0, to="preview.cfg", note="Flux is drawn with its own guidance as an input"
    ),
    Option("sample.sample_steps", "int", 20, to="preview.steps"),
    *keys("sample", "no_effect", "pictures are PNG files", {"format": "jpg"}),
    *keys("sample", "no_effect", "previews begin with the first step", {"sample_start_step": 0}),
    *keys(
        "sample",
        "no_effect",
        OTHER_MODELS,
        {"adapter_conditioning_scale": 1.0, "refiner_start_at": 0.5, "fps": 16, "do_cfg_norm": False},
    ),
    *keys(
        "sample",
        "refused",
        SPECIAL,
        {"network_multiplier": 1, "guidance_rescale": 0.0, "extra_values": [], "num_frames": 1},
    ),
)
