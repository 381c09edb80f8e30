"""Latents and texts are encoded once, before the adapters are attached; then what encoded them is freed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from lorasmith.core.devices import free_unused
from lorasmith.core.out_of_memory import is_out_of_memory
from lorasmith.core.progress import Progress
from lorasmith.data.dataset import Dataset, TextSettings
from lorasmith.families.base import Family
from lorasmith.training.config import TextConfig, TrainConfig
from lorasmith.training.step.distributed import Ranks


def fill_caches(config: TrainConfig, dataset: Dataset, family: Family, progress: Progress, ranks: Ranks) -> None:
    """Encode latents, and texts if nothing about them changes, once; then free the models that encoded them.

    Each rank encodes a part of the images and reads the others' from the disk.
    """
    # Cached texts would be outdated after a step that trains a text encoder, and a cache entry does not depend on new
    # tokens.
    texts_change = "text" in config.trained_groups() or bool(config.concepts)
    settings = None if texts_change else text_settings(config.text)
    encode = partial(dataset.prepare, family, text=settings, progress=progress, ranks=ranks)
    # Ranks fill the caches together, so one of them cannot begin again.
    if ranks.count > 1:
        encode()
    elif is_short_of_memory(encode, family.device):
        progress.say("memory does not suffice to encode beside the denoiser, which waits on the host meanwhile")
        with on_host(family):
            encode()

    if dataset.latents_cached:
        family.release("vae")
    if dataset.text_cached:
        family.release("text")


def text_settings(text: TextConfig) -> TextSettings:
    """The settings that are given to the encoder with each caption."""
    return TextSettings(max_tokens=text.max_tokens, clip_skip=text.clip_skip, weighted=text.weighted)


def is_short_of_memory(work: Callable[[], object], device: torch.device) -> bool:
    """Do `work`; returns whether a GPU had not enough memory for it. On a CPU that is raised: there is no other place
    for the weights."""
    try:
        work()
    except Exception as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
        return True
    return False


@contextmanager
def on_host(family: Family) -> Iterator[None]:
    """The denoiser is in the memory of the host inside the block, and what torch holds for reuse is free."""
    family.denoiser.to("cpu")
    free_unused()
    try:
        yield
    finally:
        family.denoiser.to(family.device)
