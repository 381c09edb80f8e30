"""A cache of the vectors of pictures, in files: by the content of the picture and the identity of the scorer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.core.progress import Progress
from lorasmith.core.store import sha256_of, write_with
from lorasmith.evaluation.base import FeatureExtractor, Features, Scorer
from lorasmith.evaluation.pictures import open_picture

CHUNK_SIZE = 64
"""Pictures that are in memory at a time."""


class FeatureCache:
    """The vectors of pictures, in one file for each scorer. A file that cannot be read is written anew."""

    def __init__(self, folder: Path, scorer: Scorer, extractor: FeatureExtractor) -> None:
        # Another scorer, or other settings of it, has its own file.
        key = hashlib.sha256(scorer.identity().encode()).hexdigest()[:16]
        self.extractor = extractor
        self.file = folder / f"{key}.safetensors"
        # `HASH.image` and `HASH.text`, where HASH is the SHA-256 of a picture's file
        self._tensors: dict[str, Tensor]
        try:
            self._tensors = load_file(self.file)
        except (OSError, SafetensorError):
            self._tensors = {}

    def features(self, paths: Sequence[Path], description: str, progress: Progress) -> Features:
        """The vectors of pictures, in their order. The scorer sees only pictures whose content is not in the cache.

        `description`: of the task, for `progress`.
        """
        # The hash of the content is the key, so that a replaced picture with the same name is measured anew.
        hashes = [sha256_of(path) for path in paths]
        missing: dict[str, Path] = {}
        for content, path in zip(hashes, paths, strict=True):
            if f"{content}.image" not in self._tensors or f"{content}.text" not in self._tensors:
                missing[content] = path
        if missing:
            self._extract(missing, description, progress)
        image = torch.stack([self._tensors[f"{content}.image"] for content in hashes])
        text = torch.stack([self._tensors[f"{content}.text"] for content in hashes])
        return Features(image, text)

    def _extract(self, missing: dict[str, Path], description: str, progress: Progress) -> None:
        """Add the vectors of pictures, given by their hashes, and write the file."""
        hashes = list(missing)
        with progress.track(description, len(hashes)) as advance:
            for start in range(0, len(hashes), CHUNK_SIZE):
                chunk = hashes[start : start + CHUNK_SIZE]
                features = self.extractor.pictures([open_picture(missing[content]) for content in chunk])
                for index, content in enumerate(chunk):
                    self._tensors[f"{content}.image"] = features.image[index].clone()
                    self._tensors[f"{content}.text"] = features.text[index].clone()
                advance(len(chunk), "")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_with(self.file, lambda path: save_file(self._tensors, path))
