"""`train_custom_diffusion.py` (arXiv 2212.04488): keys and values of cross-attention in full, and new words."""

from __future__ import annotations

import json
from pathlib import Path

from lorasmith.compat.diffusers.dreambooth import NO_CAPTIONS, Subsets
from lorasmith.compat.diffusers.options import CLASSES, CUSTOM, common, merged
from lorasmith.compat.diffusers.shared import Table, conversion, general, needed, optimizer
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.errors import LorasmithError

LAYERS = {
    "crossattn_kv": ["unet.*.attn2.to_k", "unet.*.attn2.to_v"],
    "crossattn": ["unet.*.attn2.to_q", "unet.*.attn2.to_k", "unet.*.attn2.to_v", "unet.*.attn2.to_out.0"],
}


class TrainCustomDiffusion(Script):
    """SD 1.x and 2.x."""

    name = "train_custom_diffusion"
    origin = "diffusers"
    options = merged(
        common(
            output_dir="custom-diffusion-model",
            seed=42,
            learning_rate=1e-5,
            num_validation_images=2,
            checkpointing_steps=250,
        ),
        CLASSES,
        CUSTOM,
    )

    def convert(self, parsed: Parsed) -> Conversion:
        v = parsed.values
        needed(self, v, "pretrained_model_name_or_path")
        entries = concepts_of(self, v)
        instances: list[Table] = [
            {"images": e["instance_data_dir"], "caption": e["instance_prompt"], "caption_extension": NO_CAPTIONS}
            for e in entries
        ]
        subsets = Subsets(v, instances, [(e.get("class_data_dir"), e.get("class_prompt")) for e in entries])
        config = general(v, subsets.longest)
        config |= {
            "data": {
                "subsets": subsets.tables,
                "resolution": v["resolution"],
                "batch_size": v["train_batch_size"] * (2 if v["with_prior_preservation"] else 1),
                "transforms": [{"kind": "flip"}] if v["hflip"] else [],
            },
            "adapter": {"kind": "full", "layers": LAYERS[v["freeze_model"]]},
            "optimizer": optimizer(v),
        }
        if v["modifier_token"]:
            words, starts = v["modifier_token"].split("+"), v["initializer_token"].split("+")
            if len(starts) < len(words):
                raise LorasmithError(f"--initializer_token has {len(starts)} words for {len(words)} new ones")
            lr = config["optimizer"]["lr"]
            config["concepts"] = [{"words": [w], "init": i, "lr": lr} for w, i in zip(words, starts, strict=False)]
            config["trigger"] = words
        return conversion(self, parsed, config, prepare=subsets.prepare)


def concepts_of(script: Script, v: Table) -> list[Table]:
    """The concepts of a list, or the one of the command line."""
    if not v["concepts_list"]:
        needed(script, v, "instance_data_dir", "instance_prompt")
        return [v]
    path = Path(v["concepts_list"])
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all({"instance_data_dir", "instance_prompt"} <= set(entry) for entry in found):
            return found
        what = "each entry needs instance_data_dir and instance_prompt"
    except (OSError, ValueError, TypeError) as error:
        what = str(error)
    raise LorasmithError(f"--concepts_list {path}: not a list of concepts ({what})")
