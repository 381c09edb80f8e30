"""Write the LoRA of a run to a file, with metadata that describe the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lorasmith.conditions.file import conditions_file, metadata_of
from lorasmith.core.config import to_toml
from lorasmith.core.dtypes import DTYPES
from lorasmith.formats import embeddings, token_embeddings
from lorasmith.formats.base import Encoded, Format
from lorasmith.formats.kohya import Kohya
from lorasmith.formats.metadata import Facts, describe, tag_counts
from lorasmith.formats.privacy import filter_metadata, without_folders
from lorasmith.formats.write import write as write_file
from lorasmith.formats.write import write_pickle
from lorasmith.training.output.kohya_metadata import kohya_settings
from lorasmith.training.output.provenance import provenance

if TYPE_CHECKING:
    from lorasmith.training.config import TrainConfig
    from lorasmith.training.run import Run


def encode(run: Run, form: Format) -> Encoded:
    """The adapter in its current state (averaged, if the run averages its weights), as the tensors of a file.

    Raises LorasmithError, naming the tensors, if the format cannot represent them.
    """
    with run.as_exported():
        return form.encode_adapters(run.adapters.adapters, run.family, run.adapters.weight_of)


def encode_token_embeddings(run: Run, form: Format) -> dict[str, Tensor]:
    """The embeddings of new tokens in their current state, as tensors of the LoRA file. Empty if there are no new
    tokens, or if the format has no tensors for them. Raises LorasmithError if the format cannot represent one."""
    if run.token_trainer is None:
        return {}
    with run.as_exported():
        return form.encode_layerwise_tokens(token_embeddings.vocabulary_embeddings(run.token_trainer.vocabulary))


def write(run: Run, path: Path, form: Format, dtype: str, extra: Mapping[str, str] | None = None) -> Path:
    """Write the adapter in its current state. If the suffix of the path is not `.safetensors`, the file is a pickle of
    the tensors alone. `extra`: further metadata."""
    encoded = encode(run, form)
    token_tensors = encode_token_embeddings(run, form)
    tensors = {**encoded.tensors, **token_tensors}
    if form.suffix != ".safetensors":
        return form.write(path, tensors, {}, DTYPES[dtype])
    if path.suffix != ".safetensors":
        return write_pickle(path, tensors, DTYPES[dtype])

    made_with = {"dtype": dtype, "format": form.model_dump(mode="json")}
    metadata = describe(facts_of(run)) | encoded.metadata | provenance(run, made_with) | dict(extra or {})
    if run.token_trainer is not None:
        vocabulary = run.token_trainer.vocabulary
        if token_tensors:
            # user interfaces call the tokens by the names of their tensors, so the trigger phrase has these names
            metadata |= token_embeddings.trigger_metadata(metadata, token_embeddings.vocabulary_embeddings(vocabulary))
        else:
            metadata |= token_embeddings.token_metadata(vocabulary)
    return write_file(path, tensors, filtered(run, metadata), DTYPES[dtype])


def write_exact(run: Run, path: Path, extra: Mapping[str, str] | None = None) -> Path:
    """Write adapter and new tokens into one file in our own layout, float32. `extra`: further metadata."""
    assert run.token_trainer is not None
    encoded = encode(run, Kohya()) if len(run.adapters) else Encoded({})
    with run.as_exported():
        token_tensors, token_metadata = token_embeddings.encode(run.token_trainer.vocabulary)
    tensors = {**encoded.tensors, **token_tensors}
    metadata = describe(facts_of(run)) | token_metadata | encoded.metadata | provenance(run, {"exact": True})
    metadata |= dict(extra or {})
    return write_file(path, tensors, filtered(run, metadata), torch.float32)


def write_conditions(run: Run, lora: Path) -> Path:
    """Write the encoders of the conditions, float32, beside the LoRA file `lora`."""
    with run.as_exported():
        tensors = {name: tensor.detach().cpu() for name, tensor in run.conditions.state_dict().items()}
    metadata = metadata_of(run.conditions, run.config.plugins)
    return write_file(conditions_file(lora), tensors, filtered(run, metadata), torch.float32)


def write_token_embeddings(run: Run, folder: Path) -> list[Path]:
    """Write one file for each new token, as user interfaces read them. The file is named after the token."""
    assert run.token_trainer is not None
    with run.as_exported():
        values = token_embeddings.mean_over_layers(token_embeddings.vocabulary_embeddings(run.token_trainer.vocabulary))
    folder.mkdir(exist_ok=True)
    paths = []
    for token, vectors in values.items():
        path = folder / f"{token_embeddings.file_name(token)}.safetensors"
        paths.append(write_token_embedding(run, path, embeddings.encode(vectors), "fp32"))
    return paths


def write_token_embedding(run: Run, path: Path, tensors: Mapping[str, Tensor], dtype: str) -> Path:
    """Write the tensors of one new token. If the suffix of the path is not `.safetensors`, the file is a pickle."""
    if path.suffix != ".safetensors":
        return write_pickle(path, tensors, DTYPES[dtype])
    metadata = {"modelspec.title": run.name, "ss_output_name": run.name}
    return write_file(path, tensors, filtered(run, metadata), DTYPES[dtype])


def filtered(run: Run, metadata: Mapping[str, str]) -> dict[str, str]:
    """What `export.metadata` lets into a file."""
    return filter_metadata(metadata, run.config.export.metadata)


def facts_of(run: Run) -> Facts:
    """What the metadata of an exported file state about the run."""
    config = run.config
    family = run.family
    # not every kind of adapter has a rank
    rank = getattr(config.adapter, "rank", None)
    return Facts(
        name=config.file_name,
        family=family.kind,
        prediction=family.prediction.name,
        kind=str(getattr(config.adapter, "kind", "")),
        variant=family.variant,
        rank=rank,
        alpha=getattr(config.adapter, "alpha", None) or rank,
        base_name=Path(config.base).name,
        base_hash=run.base_fingerprints[family.denoiser_component].split("-")[0],
        resolution=config.data.size,
        trigger=config.trigger,
        tags=count_tags(run),
        config=shareable_config(config),
        comment=config.comment,
        spec={str(name): value for name, value in config.metadata.items()},
        settings=kohya_settings(run),
        plugins=config.plugins,
    )


def shareable_config(config: TrainConfig) -> str:
    """The config as TOML, without the folders of the user's machine, since exported files are published."""
    settings = settings_without_folders(config)
    # a relative folder looks like a hub id, so only here it is known to be one
    if config.export.metadata != "full":
        for key in ("base", "vae"):
            if settings[key] and Path(settings[key]).exists():
                settings[key] = Path(settings[key]).name
        settings["base_parts"] = [Path(part).name for part in settings["base_parts"]]
    return to_toml(settings)


def config_without_folders(run: Run) -> dict[str, Any]:
    """The settings of a run without the folders of the user's machine."""
    return settings_without_folders(run.config)


def settings_without_folders(config: TrainConfig) -> dict[str, Any]:
    """The settings as plain data; an absolute path is replaced by its last part."""
    return without_folders(config.model_dump(mode="python"))


def count_tags(run: Run) -> dict[str, dict[str, int]]:
    """How often each tag occurs in the captions, by image folder."""
    captions: dict[str, list[str]] = {}
    for record in run.dataset.records:
        # of an image with several captions, only the first counts
        captions.setdefault(record.path.parent.name, []).extend(record.captions[:1])
    return {folder: tag_counts(texts) for folder, texts in captions.items()}
