"""What a scorer saw in pictures, remembered beside them: by the content of the picture and by what the scorer is."""

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
from lorasmith.evaluation.base import Eyes, Scorer, Seen
from lorasmith.evaluation.pictures import opened

AT_ONCE = 64
"""Pictures that are open at a time."""


class ScoreCache:
    """Vectors of pictures, in a file of the scorer's own in `folder`. A file that cannot be read is made anew."""

    def __init__(self, folder: Path, scorer: Scorer, eyes: Eyes) -> None:
        name = hashlib.sha256(scorer.identity().encode()).hexdigest()[:16]
        self.eyes, self.file = eyes, folder / f"{name}.safetensors"
        try:
            self._known: dict[str, Tensor] = load_file(self.file)
        except (OSError, SafetensorError):
            self._known = {}

    def look(self, paths: Sequence[Path], what: str, progress: Progress) -> Seen:
        """All pictures as vectors; only those are looked at whose content is new."""
        names = [sha256_of(path) for path in paths]
        known = {name for name in names if f"{name}.image" in self._known and f"{name}.text" in self._known}
        new = list({name: path for name, path in zip(names, paths, strict=True) if name not in known}.items())
        with progress.track(what, len(new)) as advance:
            for start in range(0, len(new), AT_ONCE):
                part = new[start : start + AT_ONCE]
                seen = self.eyes.pictures([opened(path) for _, path in part])
                for index, (name, _) in enumerate(part):
                    self._known |= {
                        f"{name}.image": seen.image[index].clone(),
                        f"{name}.text": seen.text[index].clone(),
                    }
                advance(len(part), "")
        if new:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_with(self.file, lambda path: save_file(self._known, path))
        image, text = ([self._known[f"{name}.{kind}"] for name in names] for kind in ("image", "text"))
        return Seen(torch.stack(image), torch.stack(text))
