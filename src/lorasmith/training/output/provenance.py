"""What a LoRA file tells about how it was made, for `reproduce`: versions, device, and hashes of base and images.

`lorasmith.run` and `lorasmith.data` are JSON and hold no names, so they are public.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lorasmith.core.devices import device_name
from lorasmith.core.dtypes import DTYPES, dtype_name
from lorasmith.data.records import ImageRecord
from lorasmith.training.output.summary import versions

if TYPE_CHECKING:
    from lorasmith.training.run import Run

RUN_KEY, DATA_KEY = "lorasmith.run", "lorasmith.data"
DIGITS = 16
"""Hexadecimal digits of a hash that are written: enough to tell any number of images apart."""
PRECISIONS = frozenset(dtype_name(dtype) for dtype in DTYPES.values())
MOST_IMAGES = 2000
"""Of more images than these, only the hash of all is written: a list would make the file's header slow to read."""


def provenance(run: Run, file: Mapping[str, Any]) -> dict[str, str]:
    """The two metadata fields. `file`: how the tensors are written (`dtype`, `format`)."""
    family = run.family
    facts = {
        "step": run.state.step,
        "steps": run.length.steps,
        "versions": versions(),
        "device": run.device.type,
        "device_name": device_name(run.device),
        "threads": torch.get_num_threads(),
        "precision": dtype_name(family.dtype),
        "ranks": run.ranks.count,
        "cuda_graph": run.cuda_graphs is not None,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "resumed": run.resumed,
        "base": {part: weights_hash(text) for part, text in run.base_fingerprints.items()},
        "file": dict(file),
    }
    return {RUN_KEY: json.dumps(facts), DATA_KEY: json.dumps(data_facts(run))}


def weights_hash(fingerprint: str) -> str:
    """The hash of the weights of a part, all text encoders and merged files included, whatever its precision."""
    weights = [text for text in fingerprint.split("-") if text not in PRECISIONS]
    return hashlib.sha256("-".join(weights).encode()).hexdigest()[:DIGITS]


def data_facts(run: Run) -> dict[str, Any]:
    """The hash of everything about the data, and the hashes of the single images."""
    dataset = run.dataset
    facts: dict[str, Any] = {"all": dataset.fingerprint()[:DIGITS], "images": len(dataset.records)}
    if len(dataset.records) + len(dataset.validation) <= MOST_IMAGES:
        facts["trained"] = image_hashes(dataset.records)
        facts["held_out"] = image_hashes(dataset.validation)
    return facts


def image_hashes(records: Sequence[ImageRecord]) -> list[list[str]]:
    """For each image the hash of its file, and that of all that training uses of it: captions, mask, repeats ..."""
    return [[record.digest[:DIGITS], content_hash(record)] for record in records]


def content_hash(record: ImageRecord) -> str:
    """The hash of an image with captions, mask and settings. Captions cannot be guessed from it without the image."""
    text = json.dumps(record.training_content(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
