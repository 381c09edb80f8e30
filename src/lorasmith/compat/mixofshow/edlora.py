"""`train_edlora -opt FILE`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.options import TRAIN
from lorasmith.compat.mixofshow.reading import arguments, pairs, read_yaml
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.errors import ConfigError, LorasmithError, Problem

UNET = {
    "Attention": ("unet.*.attn[12].to_q", "unet.*.attn[12].to_k", "unet.*.attn[12].to_v", "unet.*.attn[12].to_out.0"),
    "Transformer2DModel": ("unet.*.attentions.*",),
}
UNET["CrossAttention"] = UNET["Attention"]
KEYS_AND_VALUES = "unet.*.attn2.to_[kv]"
TEXT = {"CLIPAttention": ("te*.self_attn.*_proj",), "CLIPEncoderLayer": ("te*.self_attn.*_proj", "te*.mlp.fc[12]")}
TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": (
        "a photo of {caption}",
        "a picture of {caption}",
        "a close-up photo of {caption}",
        "{caption} in a photo",
    ),
    "style": ("a picture in the style of {caption}", "a painting in the style of {caption}"),
    "human": ("a photo of {caption}", "a portrait of {caption}", "a picture of {caption}", "a snapshot of {caption}"),
}
"""Sentences of our own for EnhanceText: that the caption is set into varied sentences is what counts."""
NEGATIVE = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality"
)
"""The original's negative prompt, for every picture."""


class TrainEdlora(Script):
    """Mix-of-Show's single-concept training."""

    name = "train_edlora"
    origin = "Mix-of-Show"
    options = TRAIN

    def parse(self, argv: Sequence[str]) -> Parsed:
        given, warnings = split_arguments(self.options, arguments(argv))
        if "opt" not in given:
            raise LorasmithError("train_edlora needs its YAML file: -opt FILE")
        return self.read(read_yaml(Path(str(given["opt"]))) | given, warnings)

    def convert(self, parsed: Parsed) -> Conversion:
        v = parsed.values
        problems = [Problem(k, "missing", remedy="add it") for k in NEEDED if v[k] is None]
        if problems:
            raise ConfigError(problems, str(v["opt"]))
        told = [o for o in TRAIN if o.name in parsed.given and o.state in ("improved", "no_effect")]
        notes = [f"{o.name}: {o.note}" for o in told]
        width, height = size_of(v)
        config: dict[str, Any] = {
            "base": v["models.pretrained_path"],
            "output": f"experiments/{v['name']}",
            "name": str(v["name"]),
            "trigger": [mentions(v)],
            "seed": v["manual_seed"],
            "views_per_image": v["datasets.train.dataset_enlarge_ratio"],
            "accumulation": v["gradient_accumulation_steps"],
            "gradient_checkpointing": v["models.gradient_checkpoint"],
            "data": {
                "subsets": subsets(v),
                "resolution": width if width == height else [width, height],
                "batch_size": v["datasets.train.batch_size_per_gpu"],
                "transforms": transforms(v, notes),
                **({"buckets": {"enabled": False}} if letterboxed(v) else {}),
            },
            "lr_schedule": {"kind": "linear"},
            "objective": objective(v),
            **parts(v),
        }
        if v["val.val_during_save"] and v["datasets.val_vis.prompts"]:
            config["preview"] = preview(v, width, height)
        config["log"] = {"every_steps": v["logger.print_freq"]}
        config["export"] = {"every_steps": v["logger.save_checkpoint_freq"]}
        return Conversion(config, notes)


NEEDED = ("name", "datasets.train.concept_list", "models.pretrained_path", "models.new_concept_token")


def size_of(v: dict[str, Any]) -> tuple[int, int]:
    """Width and height: of the first transform with a size, else of the validation's latents, else 512."""
    for transform in v["datasets.train.instance_transform"] or ():
        if isinstance(transform, dict) and isinstance(transform.get("size"), int):
            return transform["size"], transform["size"]
    latent = v["datasets.val_vis.latent_size"]
    return (latent[2] * 8, latent[1] * 8) if latent else (512, 512)


def mentions(v: dict[str, Any]) -> str:
    """The new words as captions have them."""
    return " ".join(str(v["models.new_concept_token"]).split("+"))


def subsets(v: dict[str, Any]) -> list[dict[str, Any]]:
    """The sources of a concept list. Raises LorasmithError if it cannot be read."""
    path = Path(v["datasets.train.concept_list"])
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        found = []
        for entry in listed:
            own = {"images": entry["instance_data_dir"], "caption": entry["instance_prompt"], "caption_lines": "first"}
            if v["datasets.train.use_caption"] and entry.get("caption_dir"):
                own["captions"] = entry["caption_dir"]
            elif not v["datasets.train.use_caption"]:
                own["caption_extension"] = [".no-captions"]
            if v["datasets.train.use_mask"] and entry.get("mask_dir"):
                weigh = v["models.use_mask_loss"]
                own |= {"masks": entry["mask_dir"], "masks_weigh": weigh, "masks_for_all": False}
            found.append(own)
        return found
    except OSError as error:
        raise LorasmithError(f"concept_list: {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LorasmithError(
            f"concept_list: {path} is not a list of objects with instance_prompt and instance_data_dir ({error})"
        ) from None


def transforms(v: dict[str, Any], notes: list[str]) -> list[dict[str, Any]]:
    """What is done to captions and images, in the original's order; words are replaced first."""
    found: list[dict[str, Any]] = []
    if words := pairs(v["datasets.train.replace_mapping"]):
        found.append({"kind": "replace", "words": words})
    for listed in v["datasets.train.instance_transform"] or ():
        entry = listed if isinstance(listed, dict) else {"type": listed}
        kind = entry.get("type")
        if kind == "ShuffleCaption":
            found.append({"kind": "shuffle", "keep": entry.get("keep_token_num", 1)})
        elif kind == "EnhanceText":
            found.append({"kind": "template", "templates": list(TEMPLATES[entry.get("enhance_type", "object")])})
        elif kind in ("RandomHorizontalFlip", "PairRandomHorizontalFlip"):
            found.append({"kind": "flip"})
        elif kind in LETTERBOXES:
            found.append(letterbox(entry))
            notes.append(f"{kind}: images are encoded anew in each step; with `kept = 20` in it, 20 forms are cached")
        elif kind in ("RandomCrop", "PairRandomCrop"):
            notes.append(f"{kind}: buckets keep each image whole but for its margin")
        elif kind not in ("ToTensor", "Normalize", "Resize", "CenterCrop", "BILINEARResize", "PairResize"):
            notes.append(f"instance_transform: {kind} is unknown and left out")
    return found


LETTERBOXES = {"HumanResizeCropFinalV3": True, "ResizeFillMaskNew": False}
"""The transforms that put an image on black, and whether they keep the upper part of a portrait."""


def letterboxed(v: dict[str, Any]) -> bool:
    """Whether all images are put on a canvas of one size."""
    listed = v["datasets.train.instance_transform"] or ()
    return any((entry.get("type") if isinstance(entry, dict) else entry) in LETTERBOXES for entry in listed)


def letterbox(entry: dict[str, Any]) -> dict[str, Any]:
    """Our transform for one of these."""
    own = {"kind": "letterbox", "crop": float(entry.get("crop_p", 0.5)), "upper": LETTERBOXES[entry["type"]]}
    return own if "scale_ratio" not in entry else own | {"scale": [float(x) for x in entry["scale_ratio"]]}


def parts(v: dict[str, Any]) -> dict[str, Any]:
    """Adapter, new words and optimizer."""
    unet, text, word = (v[f"models.finetune_cfg.{part}"] or {} for part in ("unet", "text_encoder", "text_embedding"))
    optim = dict(v["train.optim_g"] or {})
    decay = float(optim.get("weight_decay", 0.01))
    rules, layers = [], []
    for name, own, places in (("unet.*", unet, UNET), ("te*", text, TEXT)):
        if not own.get("enable_tuning"):
            continue
        lora = own.get("lora_cfg", {})
        where = lora.get("where", next(iter(places)))
        if where not in places:
            raise LorasmithError(f'finetune_cfg: where is "{where}"; allowed: {", ".join(places)}')
        rank = int(lora.get("rank", 4))
        layers += places[where]
        rule = {"layers": name, "rank": rank, "alpha": rank * float(lora.get("alpha", 1.0))}
        if name == "unet.*" and v["train.unet_kv_drop_rate"]:
            rules.append(rule | {"layers": KEYS_AND_VALUES, "module_dropout": v["train.unet_kv_drop_rate"]})
        rules.append(rule)
    concept: dict[str, Any] = {
        "words": str(v["models.new_concept_token"]).split("+"),
        "layerwise": v["models.enable_edlora"],
        "lr": float(word.get("lr", 1e-3)) if word.get("enable_tuning") else 0.0,
        "weight_decay": float(word.get("weight_decay", decay)),
        "norm_stop": v["train.emb_norm_threshold"],
    }
    if v["models.initializer_token"]:
        concept["init"] = str(v["models.initializer_token"]).split("+")
    optimizer: dict[str, Any] = {
        "kind": "adamw",
        "lr": float(unet.get("lr", 1e-4)),
        "unet_lr": float(unet.get("lr", 1e-4)) if unet.get("enable_tuning") else 0.0,
        "text_lr": float(text.get("lr", 1e-5)) if text.get("enable_tuning") else 0.0,
        "weight_decay": decay,
        "clip": 0.0,
    }
    if "betas" in optim:
        optimizer["betas"] = optim["betas"]
    found: dict[str, Any] = {"concepts": [concept], "optimizer": optimizer}
    if layers:
        first = rules[0]
        adapter = {"kind": "lora", "rank": first["rank"], "alpha": first["alpha"], "layers": layers}
        found["adapter"] = adapter | {"overrides": rules}
    return found


def objective(v: dict[str, Any]) -> dict[str, Any]:
    """Noise offset, the original's sum over channels, and attention regularisation, which its weight is made for."""
    found: dict[str, Any] = {"kind": "denoising", "mask_mean": "channel_sum"}
    if v["models.noise_offset"]:
        found["noise"] = [{"kind": "offset", "strength": v["models.noise_offset"]}]
    if v["models.attn_reg_weight"]:
        part = {"kind": "attention_regularisation", "weight": v["models.attn_reg_weight"]}
        found["parts"] = [part | {"full_identity": v["models.reg_full_identity"], "maximum": "batch"}]
    return found


def preview(v: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """Pictures at each save and at the end: of each prompt and seed, from 1, one for each strength."""
    sample = v["val.sample"] or {}
    lines = prompts_of(v["datasets.val_vis.prompts"], pairs(v["datasets.val_vis.replace_mapping"]))
    latent = v["datasets.val_vis.latent_size"]
    width, height = (latent[2] * 8, latent[1] * 8) if latent else (width, height)
    return {
        "prompts": lines,
        "negative": NEGATIVE,
        "seed": 1,
        "count": v["datasets.val_vis.num_samples_per_prompt"],
        "strengths": [float(a) for a in v["val.alpha_list"] or (1.0,)],
        "compare_base": False,
        "steps": sample.get("num_inference_steps", 50),
        "cfg": sample.get("guidance_scale", 7.5),
        "sampler": "dpm++_2m",
        "width": width,
        "height": height,
        "every_steps": v["logger.save_checkpoint_freq"],
        "at_end": True,
    }


def prompts_of(source: Any, words: dict[str, str]) -> list[str]:
    """The prompts of a file or list with words replaced. Raises LorasmithError if the file is not there."""
    if isinstance(source, str):
        if not Path(source).is_file():
            raise LorasmithError(f"datasets.val_vis.prompts: {source}: no such file")
        source = Path(source).read_text(encoding="utf-8").splitlines()
    found = []
    for line in (str(text).strip() for text in source):
        for old, new in words.items():
            line = line.replace(old, new)
        if line:
            found.append(" ".join(line.split()))
    return found
