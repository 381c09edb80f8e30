"""Every key of Mix-of-Show's YAML that its code reads, and those in its files that it does not."""

from __future__ import annotations

from lorasmith.compat.options import Option

LETTERBOX = (
    "HumanResizeCropFinalV3 and ResizeFillMaskNew at any size, where the original knows 512 only; without either, "
    "images keep their shape in buckets"
)

TRAIN = (
    Option("opt", "text", None, "same", "the YAML file; -opt and --opt"),
    Option("name", "text", None, "same", "of the run's folder, experiments/<name>", "name"),
    Option("manual_seed", "int", 0, "better", "every rank draws noise of its own", "seed"),
    Option("mixed_precision", "text", "fp16", "better", "computed without autocast in the base's own precision"),
    Option("gradient_accumulation_steps", "int", 1, "same", "", "accumulation"),
    Option("datasets.train.name", "text", None, "pointless", "never read by the original either"),
    Option("datasets.train.concept_list", "text", None, "same", "", "data.subsets"),
    Option("datasets.train.use_caption", "flag", False, "same", "", "data.subsets.captions"),
    Option(
        "datasets.train.use_mask", "flag", False, "better", "an image without one is no error", "data.subsets.masks"
    ),
    Option("datasets.train.instance_transform", "any", None, "better", LETTERBOX, "data.transforms"),
    Option("datasets.train.replace_mapping", "any", {}, "same", "", "data.transforms (replace)"),
    Option("datasets.train.batch_size_per_gpu", "int", 2, "same", "of one process", "data.batch_size"),
    Option(
        "datasets.train.dataset_enlarge_ratio", "float", 1.0, "same", "how often an image is seen", "views_per_image"
    ),
    Option("datasets.val_vis.name", "text", "PromptDataset", "pointless", "only the name of a folder"),
    Option("datasets.val_vis.prompts", "any", None, "same", "", "preview.prompts"),
    Option("datasets.val_vis.num_samples_per_prompt", "int", 1, "same", "", "preview.count"),
    Option("datasets.val_vis.latent_size", "any", None, "same", "times 8: the pictures' size", "data.resolution"),
    Option("datasets.val_vis.replace_mapping", "any", {}, "same", "", "preview.prompts"),
    Option("datasets.val_vis.share_latent_across_prompt", "flag", True, "same", "seeds count up for each prompt"),
    Option("datasets.val_vis.batch_size_per_gpu", "int", 4, "pointless", "pictures come out the same in any batch"),
    Option("models.pretrained_path", "text", None, "same", "", "base"),
    Option(
        "models.enable_edlora",
        "flag",
        True,
        "same",
        "words of their own for each cross-attention layer",
        "concepts.layerwise",
    ),
    Option(
        "models.finetune_cfg.text_embedding",
        "any",
        None,
        "better",
        "only the new words' rows are optimised and decayed",
        "concepts",
    ),
    Option("models.finetune_cfg.text_encoder", "any", None, "same", "", "optimizer.text_lr, adapter"),
    Option("models.finetune_cfg.unet", "any", None, "same", "", "optimizer.unet_lr, adapter"),
    Option("models.new_concept_token", "text", None, "same", "", "concepts.words"),
    Option("models.initializer_token", "text", None, "same", "", "concepts.init"),
    Option("models.noise_offset", "float", None, "same", "", "objective.noise"),
    Option(
        "models.attn_reg_weight",
        "float",
        None,
        "better",
        "any size and number of mentions; a size at which nothing is outside the mask is left out, not the whole term",
        "objective.parts",
    ),
    Option("models.reg_full_identity", "flag", True, "same", "", "objective.parts"),
    Option(
        "models.use_mask_loss",
        "flag",
        True,
        "better",
        "summed over channels as in the original; an empty mask gives 0, not NaN, and edges are averaged by area",
        "data.subsets.masks_weigh, objective.mask_mean",
    ),
    Option(
        "models.gradient_checkpoint",
        "flag",
        False,
        "better",
        "works with attention regularisation",
        "gradient_checkpointing",
    ),
    Option("models.enable_xformers", "flag", False, "pointless", "torch's own attention is as lean"),
    Option("train.optim_g", "any", {}, "same", "", "optimizer"),
    Option("train.emb_norm_threshold", "float", 0.55, "same", "", "concepts.norm_stop"),
    Option("train.scheduler", "text", "linear", "pointless", "never read: linear to 0, and so it is here"),
    Option(
        "train.unet_kv_drop_rate",
        "float",
        0.0,
        "better",
        "never read by the original's main branch; as in its research branch, keys and values are dropped apart, for a "
        "whole micro-batch, but from the first step on",
        "adapter.overrides (module_dropout)",
    ),
    Option("path.pretrain_network", "text", None, "pointless", "never read by the original either"),
    Option("path.lora_path", "text", None, "pointless", "of test files"),
    Option("val.val_during_save", "flag", True, "same", "pictures at each save and at the end", "preview"),
    Option("val.compose_visualize", "flag", True, "same", "a labelled grid of each prompt is always made"),
    Option(
        "val.alpha_list",
        "any",
        None,
        "better",
        "drawn with the weights at hand, without a second pipeline; 0 is the new words alone",
        "preview.strengths",
    ),
    Option("val.sample", "any", {}, "same", "", "preview.steps, preview.cfg"),
    Option("logger.print_freq", "int", 10, "same", "", "log.every_steps"),
    Option("logger.save_checkpoint_freq", "int", 10000, "same", "", "export.every_steps"),
)

TEST = (
    Option("opt", "text", None, "same", "the YAML file"),
    Option("lora_path", "text", None, "same", "in place of path.lora_path"),
    Option("save_dir", "text", None, "same", "in place of results/<name>"),
    *(o for o in TRAIN if o.name in ("name", "manual_seed", "models.pretrained_path", "models.enable_edlora")),
    *(o for o in TRAIN if o.name.startswith(("val.", "datasets.val_vis."))),
    Option("mixed_precision", "text", "fp16", "better", "the base's own precision"),
    Option("path.lora_path", "text", None, "same", "the trained file"),
)

FUSION = (
    Option("concept_cfg", "text", None, "same", "the JSON list of concepts; paths are looked for beside it, too"),
    Option("save_path", "text", None, "better", "gets one LoRA and its words, which every program reads"),
    Option("pretrained_models", "text", None, "same", "the base model"),
    Option("optimize_unet_iters", "int", 50, "pointless", "solved in closed form, without iterations"),
    Option("optimize_textenc_iters", "int", 500, "pointless", "solved in closed form, without iterations"),
    Option("suffix", "text", "base", "same", "of the file's name, combined_model_<suffix>"),
)

OURS = "not of the original"
REGIONS = (
    Option("pretrained_model", "text", None, "better", "a fused model of the original, or what gradient_fusion writes"),
    Option("base", "text", None, "same", f"{OURS}: the base of a fused LoRA that does not name it"),
    Option("prompt", "text", None, "same", "", "prompt"),
    Option("negative_prompt", "text", "", "same", "", "negative"),
    Option(
        "prompt_rewrite",
        "text",
        None,
        "better",
        "[prompt]-*-[negative]-*-[top, left, bottom, right]|...; read, never evaluated",
        "regions",
    ),
    Option("sketch_condition", "text", None, "better", "may be left out, as the pose may", "controls"),
    Option("keypose_condition", "text", None, "better", "may be left out, as the sketch may", "controls"),
    Option("sketch_adaptor_weight", "float", 1.0, "same", "", "controls.weight"),
    Option("keypose_adaptor_weight", "float", 1.0, "same", "", "controls.weight"),
    Option("region_sketch_adaptor_weight", "text", "", "same", "", "controls.areas"),
    Option("region_keypose_adaptor_weight", "text", "", "same", "", "controls.areas"),
    Option(
        "sketch_adaptor",
        "text",
        "TencentARC/t2iadapter_sketch_sd14v1",
        "same",
        f"{OURS}: a local folder",
        "controls.model",
    ),
    Option(
        "keypose_adaptor",
        "text",
        "TencentARC/t2iadapter_openpose_sd14v1",
        "same",
        f"{OURS}: a local folder, of a ControlNet too",
        "controls.model",
    ),
    Option("seed", "int", 16141, "same", "", "seed"),
    Option("suffix", "text", "", "same", "a folder below save_dir"),
    Option("save_dir", "text", None, "same", ""),
    Option("width", "int", None, "same", f"{OURS}: pixels; else as the condition has them, or the regions"),
    Option("height", "int", None, "same", f"{OURS}: pixels"),
    Option("apart", "float", 0.0, "same", f"{OURS}: see docs/regions.md", "apart"),
    Option("count", "int", 1, "same", f"{OURS}: pictures, seeds count up", "count"),
)
