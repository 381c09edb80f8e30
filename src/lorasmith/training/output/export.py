"""From a run to a LoRA file with everything that it should say about itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lorasmith.core.config import to_toml
from lorasmith.families.fingerprint import file_hash
from lorasmith.formats import embeddings, token_embeddings
from lorasmith.formats.base import Encoded, Format
from lorasmith.formats.kohya import Kohya
from lorasmith.formats.metadata import Facts, describe, tag_counts
from lorasmith.formats.write import write as write_file
from lorasmith.formats.write import write_pickle

if TYPE_CHECKING:
    from lorasmith.training.config import TrainConfig
    from lorasmith.training.run import Run

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def encode(run: Run, form: Format) -> Encoded:
    """The adapter as it is now (averaged, if there is an average) in a file's form. Raises LorasmithError, naming the
    tensors, if the form cannot hold it."""
    with run.showing():
        return form.encode_adapters(run.adapters.adapters, run.family, run.adapters.weight_of)


def write(run: Run, path: Path, form: Format, dtype: str) -> Path:
    """Write the adapter as it is now; into a pickle of tensors alone, if that is what the path's suffix says."""
    encoded = encode(run, form)
    carried = carried_words(run, form)
    tensors = {**encoded.tensors, **carried}
    if path.suffix != ".safetensors":
        return write_pickle(path, tensors, DTYPES[dtype])
    metadata = describe(facts_of(run)) | encoded.metadata
    if run.words is not None:
        vocabulary = run.words.vocabulary
        metadata |= (
            token_embeddings.renamed(metadata, token_embeddings.values_of(vocabulary))
            if carried
            else token_embeddings.named(vocabulary)
        )
    return write_file(path, tensors, metadata, DTYPES[dtype])


def carried_words(run: Run, form: Format) -> dict[str, Tensor]:
    """The new words as they are now, in a form that has a place for them. Raises LorasmithError if it cannot hold
    one."""
    if run.words is None:
        return {}
    with run.showing():
        return form.words(token_embeddings.plain(token_embeddings.values_of(run.words.vocabulary)))


def write_exact(run: Run, path: Path) -> Path:
    """Adapter and new words in one file of our own form, float32."""
    assert run.words is not None
    found = encode(run, Kohya()) if len(run.adapters) else Encoded({})
    with run.showing():
        tensors, metadata = token_embeddings.encode(run.words.vocabulary)
    metadata = describe(facts_of(run)) | metadata | found.metadata
    return write_file(path, {**found.tensors, **tensors}, metadata, torch.float32)


def write_embeddings(run: Run, folder: Path) -> list[Path]:
    """A file for each new word, named after it, as user interfaces read them."""
    assert run.words is not None
    with run.showing():
        found = token_embeddings.plain(token_embeddings.values_of(run.words.vocabulary))
    folder.mkdir(exist_ok=True)
    return [
        write_word(run, folder / f"{token_embeddings.file_name(w)}.safetensors", embeddings.encode(v), "fp32")
        for w, v in found.items()
    ]


def write_word(run: Run, path: Path, tensors: Mapping[str, Tensor], dtype: str) -> Path:
    """Write the tensors of one word; into a pickle, if that is what the path's suffix says."""
    if path.suffix != ".safetensors":
        return write_pickle(path, tensors, DTYPES[dtype])
    metadata = {"modelspec.title": run.config.file_name}
    if run.config.export.metadata == "full":
        metadata["ss_output_name"] = run.config.file_name
    return write_file(path, tensors, metadata, DTYPES[dtype])


def facts_of(run: Run) -> Facts:
    """What the file tells about the run."""
    config, family, adapter = run.config, run.family, run.config.adapter
    resolution = config.data.resolution
    return Facts(
        name=config.file_name,
        family=family.kind,
        prediction=family.prediction,
        kind=str(getattr(adapter, "kind", "")),
        rank=getattr(adapter, "rank", None),
        alpha=getattr(adapter, "alpha", None) or getattr(adapter, "rank", None),
        base_name=Path(config.base).name,
        base_hash=family.fingerprint("unet").split("-")[0],
        resolution=(resolution, resolution) if isinstance(resolution, int) else resolution,
        trigger=config.trigger,
        tags=tags_of(run),
        config=to_toml(public(config.model_dump(mode="python") | places_in(config))),
        comment=config.comment,
        spec={str(name): value for name, value in config.metadata.items()},
        settings=settings_of(run) | vae_facts(config.vae),
        minimal=config.export.metadata == "minimal",
    )


def places_in(config: TrainConfig) -> dict[str, Any]:
    """Settings that may be paths though they are texts, as paths."""
    vae = Path(config.vae) if config.vae else ""
    return {"base": Path(config.base), "vae": vae, "merge": [Path(written) for written in config.merge]}


def public(value: Any) -> Any:
    """Settings without where things lie on the user's machine: of an absolute path, its name remains."""
    if isinstance(value, dict):
        return {key: public(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [public(inner) for inner in value]
    return value.name if isinstance(value, Path) and value.is_absolute() else value


def tags_of(run: Run) -> dict[str, dict[str, int]]:
    """Tag counts of the captions, by folder."""
    captions: dict[str, list[str]] = {}
    for record in run.dataset.records:
        captions.setdefault(record.path.parent.name, []).extend(record.captions[:1])
    return {folder: tag_counts(texts) for folder, texts in captions.items()}


def settings_of(run: Run) -> dict[str, Any]:
    """Further `ss_*` values: how it was trained."""
    config = run.config
    rates = {group["name"]: group["base_lr"] for group in run.optimizer.param_groups}
    return {
        "seed": config.seed,
        "steps": run.state.step,
        "max_train_steps": run.length.steps,
        "epoch": run.state.step // run.length.steps_per_epoch,
        "num_epochs": -(-run.length.steps // run.length.steps_per_epoch),
        "num_train_images": len(run.dataset.records),
        "num_batches_per_epoch": run.length.steps_per_epoch * config.accumulation,
        "batch_size_per_device": config.data.batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_checkpointing": config.gradient_checkpointing,
        "learning_rate": config.optimizer.lr,
        "unet_lr": rates.get("unet"),
        "text_encoder_lr": rates.get("te", rates.get("te1")),
        "optimizer": getattr(config.optimizer, "kind", ""),
        "max_grad_norm": config.optimizer.clip,
        "lr_scheduler": getattr(config.lr_schedule, "kind", ""),
        "lr_warmup_steps": config.lr_schedule.warmup,
        "mixed_precision": {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[str(run.family.dtype)[6:]],
        "clip_skip": config.text.clip_skip if config.text.clip_skip > 1 else None,
        "max_token_length": config.text.max_tokens if config.text.max_tokens > 75 else None,
        "zero_terminal_snr": config.zero_terminal_snr,
        "training_started_at": run.started,
    }


def vae_facts(name: str) -> dict[str, str]:
    """A replaced VAE in kohya's words: its name and, of a file, SHA-256 of all and of 64 KiB at 1 MiB."""
    path = Path(name).expanduser()
    if not name or not path.exists():
        return {"vae_name": name} if name else {}
    if path.is_dir():
        return {"vae_name": path.name, "vae_hash": "IsADirectory", "new_vae_hash": "IsADirectory"}
    with path.open("rb") as file:
        file.seek(0x100000)
        short = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    return {"vae_name": path.name, "vae_hash": short, "new_vae_hash": file_hash(path)}
