"""How a run trains, as kohya's `ss_*` metadata of its LoRA files, by their names without the prefix.

Values that a run does not have are None, which is written as such: programs that list these fields expect all of them.
`formats/privacy.py` decides which of them are written.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorasmith.families.fingerprint import file_hash
from lorasmith.training.output.network_args import network_args
from lorasmith.training.step.eager_adamw import EagerAdamW

if TYPE_CHECKING:
    from lorasmith.data.transforms import Transform
    from lorasmith.training.config import TrainConfig
    from lorasmith.training.run import Run

PRECISIONS = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""Names of kohya's `ss_mixed_precision`."""
LOSSES = {"mse": "l2"}
"""kohya's names of losses where they differ from ours."""


def kohya_settings(run: Run) -> dict[str, Any]:
    """All fields that follow from a run, for a file that is written now."""
    config = run.config
    return {
        **progress_fields(run),
        **optimizer_fields(run),
        **image_fields(run),
        **caption_fields(run),
        **objective_fields(config),
        **validation_fields(config),
        "seed": config.seed,
        "gradient_checkpointing": config.gradient_checkpointing,
        "mixed_precision": PRECISIONS[run.family.dtype],
        "full_fp16": False,
        "fp8_base": False,
        "fp8_base_unet": False,
        "lowram": False,
        "cache_latents": config.data.cache_latents,
        "clip_skip": config.text.clip_skip,
        "max_token_length": config.text.max_tokens if config.text.max_tokens > 75 else None,
        "network_dropout": getattr(config.adapter, "dropout", None) or None,
        "network_args": json.dumps(network_args(config.adapter)),
        "scale_weight_norms": getattr(config.adapter, "max_norm", None),
        **kohya_vae_settings(config.vae),
    }


def progress_fields(run: Run) -> dict[str, Any]:
    """Lengths, positions and times."""
    config = run.config
    steps_per_epoch = run.length.steps_per_epoch
    # the same in all files of a run, and different from those of others
    session = hashlib.sha256(f"{run.started} {run.name}".encode()).digest()
    return {
        "session_id": int.from_bytes(session[:4], "little"),
        "training_started_at": run.started,
        "training_finished_at": time.time(),
        "steps": run.state.step,
        "max_train_steps": run.length.steps,
        # the epoch that the last step belongs to, counted from 1
        "epoch": -(-run.state.step // steps_per_epoch),
        "num_epochs": -(-run.length.steps // steps_per_epoch),
        "num_batches_per_epoch": len(run.dataset.epoch(0)),
        "gradient_accumulation_steps": config.accumulation,
    }


def optimizer_fields(run: Run) -> dict[str, Any]:
    """Optimizer, learning rates before the schedule, and schedule."""
    config = run.config
    rates = {group["name"]: group["base_lr"] for group in run.optimizer.param_groups}
    schedule = config.lr_schedule
    warmup = getattr(schedule, "warmup", 0) or 0
    # a warm-up below 1 is a share of the run
    warmup_steps = round(warmup * run.length.steps) if isinstance(warmup, float) and warmup < 1 else int(warmup)
    return {
        "optimizer": optimizer_name(run),
        "learning_rate": config.optimizer.lr,
        "unet_lr": rates.get(run.family.denoiser_component),
        "text_encoder_lr": rates.get(run.family.text_components[0]),
        "max_grad_norm": config.optimizer.clip,
        "lr_scheduler": getattr(schedule, "name", "") or getattr(schedule, "kind", ""),
        "lr_warmup_steps": warmup_steps,
    }


def optimizer_name(run: Run) -> str:
    """The optimizer's class with its arguments: `torch.optim.adamw.AdamW(weight_decay=0.01,betas=(0.9, 0.999))`."""
    optimizer_class = type(run.optimizer)
    if optimizer_class is EagerAdamW:  # the same method under a name that readers of the file know
        optimizer_class = torch.optim.AdamW
    settings = run.config.optimizer.model_dump()
    arguments = settings.get("args") or {
        name: settings[name] for name in ("weight_decay", "betas", "eps") if name in settings
    }
    texts = ",".join(f"{name}={value}" for name, value in arguments.items())
    name = f"{optimizer_class.__module__}.{optimizer_class.__qualname__}"
    return f"{name}({texts})" if texts else name


def image_fields(run: Run) -> dict[str, Any]:
    """Numbers of images, folders, buckets and changes of images. Regularisation images are those with `hold_out` off,
    as configs of sd-scripts are converted."""
    data = run.config.data
    records = run.dataset.records
    kinds = settings_by_kind(transforms_of(run.config))
    folders: dict[bool, dict[str, dict[str, int]]] = {True: {}, False: {}}
    views: Counter[bool] = Counter()
    buckets: Counter[tuple[int, int]] = Counter()
    ratio_errors: list[float] = []
    for record in records:
        views[record.hold_out] += record.repeats
        folder = folders[record.hold_out].setdefault(
            record.path.parent.name, {"n_repeats": record.repeats, "img_count": 0}
        )
        folder["img_count"] += 1
        width, height = bucket = run.dataset.placement(record).bucket
        buckets[bucket] += record.repeats
        ratio_errors.append(abs(width / height - record.size[0] / record.size[1]))
    sizes = [{"resolution": list(size), "count": count} for size, count in sorted(buckets.items())]
    bucket_info = {
        "buckets": dict(enumerate(sizes)),
        "mean_img_ar_error": sum(ratio_errors) / max(1, len(ratio_errors)),
    }
    regularisation_weights = {record.loss_weight for record in records if not record.hold_out}
    return {
        "num_train_images": views[True],
        "num_reg_images": views[False],
        "num_validation_images": len(run.dataset.validation),
        # the config's batch is that of all processes together; the first have one more where it does not divide
        "batch_size_per_device": -(-data.batch_size // run.ranks.count),
        "total_batch_size": data.batch_size * run.config.accumulation,
        "dataset_dirs": json.dumps(folders[True]),
        "reg_dataset_dirs": json.dumps(folders[False]),
        "prior_loss_weight": next(iter(regularisation_weights), 1.0),
        "bucket_info": json.dumps(bucket_info) if data.buckets.enabled else None,
        "enable_bucket": data.buckets.enabled,
        "bucket_no_upscale": not data.buckets.upscale,
        "min_bucket_reso": data.buckets.min,
        "max_bucket_reso": data.buckets.max,
        "resize_interpolation": next((s.resize for s in data.sources if s.resize != "auto"), None),
        "color_aug": "color" in kinds,
        "flip_aug": "flip" in kinds,
        "random_crop": "random_crop" in kinds,
        "face_crop_aug_range": face_crop_range(run.config),
    }


def caption_fields(run: Run) -> dict[str, Any]:
    """Changes of captions."""
    by_kind = settings_by_kind(transforms_of(run.config))
    tags = by_kind.get("tags", {})
    shuffle = by_kind.get("shuffle", {})
    dropout = by_kind.get("caption_dropout", {})
    return {
        "shuffle_caption": bool(shuffle) or bool(tags.get("shuffle")),
        "keep_tokens": shuffle.get("keep", tags.get("keep", 0)),
        "caption_dropout_rate": dropout.get("rate", 0.0),
        "caption_dropout_every_n_epochs": dropout.get("every_epochs", 0),
        "caption_tag_dropout_rate": by_kind.get("tag_dropout", {}).get("rate", tags.get("dropout", 0.0)),
    }


def objective_fields(config: TrainConfig) -> dict[str, Any]:
    """Loss, noise and weights over timesteps."""
    objective = config.objective.model_dump(mode="python")
    noise = settings_by_kind(getattr(config.objective, "noise", ()))
    weightings = settings_by_kind(getattr(config.objective, "weightings", ()))
    loss = objective.get("loss") or {}
    offset, multires, perturbation = (noise.get(kind, {}) for kind in ("offset", "multires", "input_perturbation"))
    return {
        "zero_terminal_snr": config.zero_terminal_snr,
        "noise_offset": offset.get("strength"),
        "noise_offset_random_strength": offset.get("random"),
        "adaptive_noise_scale": offset.get("adaptive") or None,
        "multires_noise_iterations": multires.get("levels"),
        "multires_noise_discount": multires.get("discount"),
        "ip_noise_gamma": perturbation.get("gamma"),
        "ip_noise_gamma_random_strength": perturbation.get("random"),
        "min_snr_gamma": weightings.get("min_snr", {}).get("gamma"),
        "debiased_estimation": "debiased" in weightings,
        "loss_type": LOSSES.get(loss.get("kind", "mse"), loss.get("kind")),
        "huber_schedule": loss.get("schedule"),
        "huber_c": loss.get("c"),
        "huber_scale": loss.get("scale"),
    }


def validation_fields(config: TrainConfig) -> dict[str, Any]:
    """Which images are held out, and when they are measured."""
    held_out = config.data.validation
    return {
        "validation_split": held_out.split,
        "validation_seed": held_out.seed,
        "validate_every_n_steps": getattr(config.validation, "every_steps", None),
        "validate_every_n_epochs": getattr(config.validation, "every_epochs", None),
        "max_validation_steps": None,
    }


def transforms_of(config: TrainConfig) -> list[Transform]:
    """The transforms of the whole data set and of all subsets."""
    return [*config.data.transforms, *(transform for subset in config.data.sources for transform in subset.transforms)]


def face_crop_range(config: TrainConfig) -> str | None:
    """The closest and the widest crop around faces."""
    crop = settings_by_kind(transforms_of(config)).get("face_crop")
    return f"({crop['closest']}, {crop['widest']})" if crop else None


def settings_by_kind(components: Any) -> dict[str, Mapping[str, Any]]:
    """Settings of components by kind; of several of one kind, those of the first."""
    by_kind: dict[str, Mapping[str, Any]] = {}
    for component in components:
        settings = component.model_dump(mode="python")
        by_kind.setdefault(settings["kind"], settings)
    return by_kind


def kohya_vae_settings(name: str) -> dict[str, str]:
    """A replaced VAE in kohya's metadata: its name and, for a file, two hashes: the first 8 hex digits of the SHA-256
    of 64 KiB from 1 MiB on, and the SHA-256 of the whole file."""
    if not name:
        return {}
    path = Path(name).expanduser()
    if not path.exists():
        return {"vae_name": name}
    if path.is_dir():
        return {"vae_name": path.name, "vae_hash": "IsADirectory", "new_vae_hash": "IsADirectory"}
    # the short hash is the one that web user interfaces show for models
    with path.open("rb") as file:
        file.seek(0x100000)
        short_hash = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    return {"vae_name": path.name, "vae_hash": short_hash, "new_vae_hash": file_hash(path)}
