"""Every option of Mix-of-Show: keys of its YAML files (also those that its code never reads) and of its scripts."""

from __future__ import annotations

from lorasmith.compat.mixofshow import shapes
from lorasmith.compat.options import Option

TRANSFORMS = (
    "HumanResizeCropFinalV3 and ResizeFillMaskNew work at any size, in the original at 512 only, and encode each view "
    "anew, or, with `kept: 20` in their table, cache 20 variants of each image; without either of them, images keep "
    "their aspect ratio in buckets; the templates of EnhanceText are our own wording, as many as the original's (27 "
    "for objects, 19 for styles, 19 for humans)"
)
NEVER_READ = "never read by the original either"


def lora_options(component: str, rate: float, classes: tuple[str, ...], rate_key: str) -> tuple[Option, ...]:
    """The options of the LoRA of a component. `classes`: values of `where`, the first of them the default."""
    prefix = f"models.finetune_cfg.{component}"
    return (
        Option(f"{prefix}.enable_tuning", "flag", False, to=rate_key),
        Option(f"{prefix}.lr", "float", rate, to=rate_key),
        Option(f"{prefix}.lora_cfg.rank", "int", 4, to="adapter.rank"),
        Option(f"{prefix}.lora_cfg.alpha", "float", 1.0, to="adapter.alpha", note="a factor; ours is rank times it"),
        Option(f"{prefix}.lora_cfg.where", "text", classes[0], to="adapter.layers", choices=classes),
    )


TRAIN = (
    # Run
    Option("opt", "text", note="the YAML file; -opt and --opt"),
    Option("name", "text", to="name", note="of the run's folder, experiments/<name>"),
    Option("manual_seed", "int", 0, to="seed", state="improved", note="each rank draws different noise"),
    Option(
        "mixed_precision",
        "text",
        "fp16",
        to="precision",
        state="improved",
        choices=("no", "fp16", "bf16"),
        note="`no`: fp32; else bf16 for full-size models, without autocast",
    ),
    Option("gradient_accumulation_steps", "int", 1, to="accumulation"),
    # Training data
    Option("datasets.train.name", "text", state="no_effect", note=NEVER_READ),
    Option("datasets.train.concept_list", "text", to="data.subsets"),
    Option("datasets.train.use_caption", "flag", False, to="data.subsets.captions"),
    Option(
        "datasets.train.use_mask",
        "flag",
        False,
        to="data.subsets.masks",
        state="improved",
        note="images without a mask are allowed",
    ),
    Option(
        "datasets.train.instance_transform",
        "any",
        shape=shapes.Transforms,
        to="data.transforms",
        state="improved",
        note=TRANSFORMS,
    ),
    Option("datasets.train.replace_mapping", "any", {}, shape=shapes.Mapping, to="data.transforms (replace)"),
    Option("datasets.train.batch_size_per_gpu", "int", 2, to="data.batch_size", note="of one rank"),
    Option(
        "datasets.train.dataset_enlarge_ratio",
        "float",
        1.0,
        to="data.subsets.repeats",
        note="a number that is not whole: `views_per_image`",
    ),
    # Previews
    Option("datasets.val_vis.name", "text", "PromptDataset", to="hooks.mixofshow.pictures"),
    Option("datasets.val_vis.prompts", "any", shape=shapes.Prompts, to="preview.prompts"),
    Option("datasets.val_vis.num_samples_per_prompt", "int", 1, to="preview.count"),
    Option(
        "datasets.val_vis.latent_size",
        "any",
        shape=shapes.LatentSize,
        to="data.resolution",
        note="[channels, height, width]; times 8: the size of the images",
    ),
    Option("datasets.val_vis.replace_mapping", "any", {}, shape=shapes.Mapping, to="preview.prompts"),
    Option(
        "datasets.val_vis.share_latent_across_prompt",
        "flag",
        True,
        state="improved",
        note="false: seeds go on from prompt to prompt, where the original draws them at random at each save",
    ),
    Option(
        "datasets.val_vis.batch_size_per_gpu",
        "int",
        4,
        state="no_effect",
        note="images do not depend on the batch size",
    ),
    # Model and new tokens
    Option("models.pretrained_path", "text", to="base"),
    Option(
        "models.enable_edlora",
        "flag",
        True,
        to="concepts.layerwise",
        note="a separate token embedding for each cross-attention layer",
    ),
    Option("models.finetune_cfg.text_embedding.enable_tuning", "flag", False, to="concepts"),
    Option("models.finetune_cfg.text_embedding.lr", "float", 1e-3, to="concepts.lr"),
    Option(
        "models.finetune_cfg.text_embedding.weight_decay",
        "float",
        to="concepts.weight_decay",
        state="improved",
        note="only of the embeddings of the new tokens; default: that of train.optim_g",
    ),
    *lora_options("text_encoder", 1e-5, ("CLIPAttention", "CLIPEncoderLayer"), "optimizer.text_lr"),
    *lora_options("unet", 1e-4, ("Attention", "CrossAttention", "Transformer2DModel"), "optimizer.unet_lr"),
    Option("models.new_concept_token", "text", to="concepts.words"),
    Option("models.initializer_token", "text", to="concepts.init"),
    Option("models.noise_offset", "float", to="objective.noise"),
    Option(
        "models.attn_reg_weight",
        "float",
        to="objective.parts",
        state="improved",
        note="works at any size and for any number of mentions of the token; if the mask covers everything at one "
        "size, only that size is left out, not the whole loss term",
    ),
    Option("models.reg_full_identity", "flag", True, to="objective.parts"),
    Option(
        "models.use_mask_loss",
        "flag",
        True,
        to="data.subsets.masks_weigh, objective.mask_mean",
        state="improved",
        note="summed over channels as in the original; an empty mask gives 0, not NaN, and mask edges are averaged by "
        "area",
    ),
    Option(
        "models.gradient_checkpoint",
        "flag",
        False,
        to="gradient_checkpointing",
        state="improved",
        note="works with attention regularisation",
    ),
    Option(
        "models.enable_xformers",
        "flag",
        False,
        state="no_effect",
        note="torch's attention needs as little memory",
    ),
    # Optimizer
    Option(
        "train.optim_g.type",
        "text",
        "AdamW",
        to="optimizer.kind",
        choices=("AdamW",),
        note="the original has no other; for others, train with the config that `lorasmith convert-config` prints",
    ),
    Option("train.optim_g.lr", "float", 0.0, state="no_effect", note="each component has its own, as in the original"),
    Option("train.optim_g.weight_decay", "float", 0.01, to="optimizer.weight_decay"),
    Option("train.optim_g.betas", "floats", (0.9, 0.999), to="optimizer.betas"),
    Option("train.optim_g.eps", "float", 1e-8, to="optimizer.eps"),
    Option("train.emb_norm_threshold", "float", 0.55, to="concepts.norm_stop"),
    Option(
        "train.scheduler",
        "text",
        "linear",
        state="no_effect",
        note="not read; the learning rate decreases linearly to 0, as in the original",
    ),
    Option(
        "train.unet_kv_drop_rate",
        "float",
        0.0,
        to="adapter.overrides (module_dropout)",
        state="improved",
        note="never read by the original's main branch; as in its research branch, keys and values are dropped "
        "independently, each for a whole micro-batch, but from the first step on",
    ),
    # Files
    Option("path.pretrain_network", "text", state="no_effect", note=NEVER_READ),
    Option("path.lora_path", "text", state="no_effect", note="of test files"),
    # Images and files during training
    Option("val.val_during_save", "flag", True, to="preview", note="images at each save and at the end"),
    Option("val.compose_visualize", "flag", True, to="hooks.mixofshow.grids"),
    Option(
        "val.alpha_list",
        "floats",
        to="preview.strengths",
        state="improved",
        note="drawn with the weights in memory, without a second pipeline; 0 draws with the new tokens only",
    ),
    Option("val.sample.num_inference_steps", "int", 50, to="preview.steps"),
    Option("val.sample.guidance_scale", "float", 7.5, to="preview.cfg"),
    Option("logger.print_freq", "int", 10, to="log.every_steps"),
    Option("logger.save_checkpoint_freq", "int", 10000, to="export.every_steps"),
)

NOTED = ("train.scheduler", "train.unet_kv_drop_rate", "path.pretrain_network")
"""Options that are noted where they have another value than their default: what happens then is not what they ask
for, or not what the original does."""

SHARED_WITH_TEST = ("name", "manual_seed", "models.pretrained_path", "models.enable_edlora")
TEST = (
    Option("opt", "text", note="the YAML file"),
    Option("lora_path", "text", note="replaces path.lora_path"),
    Option("save_dir", "text", note="replaces results/<name>"),
    *(option for option in TRAIN if option.name in SHARED_WITH_TEST),
    *(option for option in TRAIN if option.name.startswith(("val.", "datasets.val_vis."))),
    # With another meaning than in training
    Option("mixed_precision", "text", "fp16", state="improved", note="the precision of the base is used"),
    Option("path.lora_path", "text", note="the trained file"),
)

CLOSED_FORM = "solved in closed form, without iterations"
FUSION = (
    Option("concept_cfg", "text", note="the JSON list of concepts; relative paths may also start at its folder"),
    Option(
        "save_path",
        "text",
        state="improved",
        note="one LoRA with its token embeddings is written, which every program reads",
    ),
    Option("pretrained_models", "text", note="the base model"),
    Option("optimize_unet_iters", "int", 50, state="no_effect", note=CLOSED_FORM),
    Option("optimize_textenc_iters", "int", 500, state="no_effect", note=CLOSED_FORM),
    Option("suffix", "text", "base", note="of the file's name, combined_model_<suffix>"),
)

OURS = "not in the original"
REGIONS = (
    # Model and prompts
    Option(
        "pretrained_model",
        "text",
        state="improved",
        note="a fused model of the original, or the output of gradient_fusion",
    ),
    Option("base", "text", note=f"{OURS}: the base of a fused LoRA; default: the one that it was fused on"),
    Option("prompt", "text", to="prompt"),
    Option("negative_prompt", "text", "", to="negative"),
    Option(
        "prompt_rewrite",
        "text",
        to="regions",
        state="improved",
        note="[prompt]-*-[negative]-*-[top, left, bottom, right]|...; parsed, never evaluated as code",
    ),
    # Conditions
    Option("sketch_condition", "text", to="controls", state="improved", note="optional, as is the pose"),
    Option("keypose_condition", "text", to="controls", state="improved", note="optional, as is the sketch"),
    Option("sketch_adaptor_weight", "float", 1.0, to="controls.weight"),
    Option("keypose_adaptor_weight", "float", 1.0, to="controls.weight"),
    Option("region_sketch_adaptor_weight", "text", "", to="controls.areas"),
    Option("region_keypose_adaptor_weight", "text", "", to="controls.areas"),
    Option(
        "sketch_adaptor",
        "text",
        "TencentARC/t2iadapter_sketch_sd14v1",
        to="controls.model",
        note=f"{OURS}: may be a local folder",
    ),
    Option(
        "keypose_adaptor",
        "text",
        "TencentARC/t2iadapter_openpose_sd14v1",
        to="controls.model",
        note=f"{OURS}: may be a local folder, also of a ControlNet",
    ),
    # Images and files
    Option("seed", "int", 16141, to="seed"),
    Option("suffix", "text", "", note="a folder below save_dir"),
    Option("save_dir", "text"),
    Option(
        "width",
        "int",
        note=f"{OURS}: in pixels; default: the size of the condition, else the extent of the regions",
    ),
    Option("height", "int", note=f"{OURS}: in pixels"),
    Option("apart", "float", 0.0, to="apart", note=f"{OURS}: see docs/regions.md"),
    Option("count", "int", 1, to="count", note=f"{OURS}: number of images, with consecutive seeds"),
)
