"""A transformer in one `.safetensors` with its authors' names, alone or with the other parts of the model.

Parts that the file lacks are taken from the files and folders that the user names, else from files beside it. Which
part a file has is read from its header.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import assets
from lorasmith.families.reader import TensorRef, read_header
from lorasmith.families.stable_diffusion.source import part_title
from lorasmith.families.stable_diffusion.stored_names import current_vae_names, original_vae, text_encoder_names
from lorasmith.families.transformer_models import inferred_configs, part_files
from lorasmith.families.transformer_models.original_names import Place, find_stored
from lorasmith.families.transformer_models.part_files import (
    CLIP,
    StoredPart,
    denoiser_in,
    parts_in,
    parts_of_file,
    parts_of_folder,
)
from lorasmith.families.transformer_models.source import DENOISER, LATENT_CHANNELS, T5, TransformerSource
from lorasmith.families.transformer_models.t5_tokenizer import find_t5_tokenizer, has_tokenizer

_NEIGHBOURS = ("", "../clip", "../text_encoders", "../text_encoder", "../vae", "../VAE")
"""Where programs keep the parts of such models, from the transformer's folder (ComfyUI, Forge)."""


class TransformerFile(TransformerSource):
    """A single file. Each family has its subclass."""

    layout = "single-file"
    latent_scaling: ClassVar[tuple[float, float]]
    """Scale and shift of the latents of the family's VAE."""
    vae_beside: ClassVar[bool]
    """Whether a VAE is looked for beside the file. Files do not tell the VAE of Flux from that of SD3."""

    def __init__(self, name: str, path: Path, named: Sequence[Path] = ()) -> None:
        """`name`: as the user wrote it; `named`: where to look for other parts. They go before those in the file.

        Raises NotRecognisedError if there is no transformer of this family.
        """
        self.name, self.path, self.named = name, path, tuple(named)
        self._tensors, self.metadata = read_header(path)
        self._denoiser = denoiser_in(self._tensors, path)
        self.recognise(self._denoiser.refs)

    @abstractmethod
    def recognise(self, refs: Mapping[str, TensorRef]) -> None:
        """Raise NotRecognisedError unless the tensors are a transformer of this family, and LorasmithError if they are
        one that cannot be used."""

    @abstractmethod
    def denoiser_config(self, refs: Mapping[str, TensorRef]) -> dict[str, Any]:
        """diffusers' config of the transformer."""

    @abstractmethod
    def scheduler_config(self) -> dict[str, Any]:
        """diffusers' config of the scheduler."""

    @abstractmethod
    def place_of(self, path: str) -> Place:
        """Where a layer of the transformer is stored, by its path in diffusers."""

    # ---- finding the parts -------------------------------------------------------------------------------------------

    def with_parts(self, paths: Sequence[Path]) -> TransformerFile:
        """The same file with other places to look for parts. Raises LorasmithError for a place without a part."""
        source = type(self)(self.name, self.path, (*self.named, *paths))
        for path in paths:
            source._check_named(path)
        return source

    def _check_named(self, path: Path) -> None:
        found = self._found_at(path)
        if not has_tokenizer(path) and not any(self._fitting(part, found) for part in self._other_parts):
            contents = ", ".join(sorted(found)) or "none"
            wanted = ", ".join(part_title(part) for part in self._other_parts)
            raise LorasmithError(
                f"base_parts: {path} has no part that {self.kind} takes (found: {contents}). Wanted: {wanted}, as "
                ".safetensors files or a diffusers folder of such a model, or a folder with T5's tokenizer"
            )

    @property
    def _other_parts(self) -> tuple[str, ...]:
        return (*self.text_components, T5, "vae")

    @cached_property
    def _stored(self) -> dict[str, StoredPart]:
        """The parts that are found. Raises LorasmithError if one is there several times."""
        stored = {DENOISER: self._denoiser}
        own = {part: [found] for part, found in parts_in(self._tensors, self.path).items()}
        named: dict[str, list[StoredPart]] = {}
        for path in self.named:
            part_files.add(named, self._found_at(path))
        for part in self._other_parts:
            candidates = self._fitting(part, named) or self._fitting(part, own)
            if not candidates and (part != "vae" or self.vae_beside):
                candidates = self._fitting(part, self._beside)
            if candidates:
                stored[part] = self._only(part, candidates)
        return stored

    def _only(self, part: str, candidates: Sequence[StoredPart]) -> StoredPart:
        """The one that there is. Raises LorasmithError if several files have the part."""
        files = dict.fromkeys(str(found.path) for found in candidates)
        if len(files) > 1:
            raise LorasmithError(
                f"{self.path}: several files have a {part_title(part)} for it: {', '.join(files)}. "
                f"Say which with base_parts, {_ON_COMMAND_LINE}"
            )
        return candidates[0]

    def _found_at(self, path: Path) -> dict[str, list[StoredPart]]:
        """The parts at a place that the user named."""
        if path.is_dir():
            return parts_of_folder(path, self.folders)
        return {part: [found] for part, found in parts_of_file(path).items()}

    @cached_property
    def _beside(self) -> dict[str, list[StoredPart]]:
        """The parts in files beside this one."""
        found: dict[str, list[StoredPart]] = {}
        folders = {(self.path.parent / place).resolve() for place in _NEIGHBOURS}
        for folder in sorted(folder for folder in folders if folder.is_dir()):
            part_files.add(found, parts_of_folder(folder, {}))
        return found

    def _fitting(self, part: str, found: Mapping[str, list[StoredPart]]) -> list[StoredPart]:
        """Those of the parts found that this model takes as its `part`."""
        candidates = found.get(part, [])
        if part == "vae":
            return [stored for stored in candidates if part_files.latent_channels(stored) == LATENT_CHANNELS]
        if part == T5:
            return [stored for stored in candidates if part_files.t5_width(stored) == self.context_width]
        clips = [stored for stored in found.get(CLIP, []) if self._clip_part(part_files.clip_width(stored)) == part]
        return [*candidates, *clips]

    def _clip_part(self, width: int) -> str | None:
        """Which text encoder a CLIP of this width is: together they are as wide as the pooled text."""
        pooled = int(self.config(DENOISER)["pooled_projection_dim"])
        if len(self.text_components) == 1:
            return self.text_components[0] if width == pooled else None
        if width >= pooled:
            return None
        return self.text_components[0 if 2 * width < pooled else 1]

    def _part(self, part: str) -> StoredPart:
        found = self._stored.get(part)
        if found is None:
            title = part_title(part)
            raise LorasmithError(
                f"{self.path}: it has no {title}, and there is no file with one beside it. Name a file or a diffusers "
                f'folder that has it: base_parts = ["{_EXAMPLES[part]}"], {_ON_COMMAND_LINE}'
            )
        return found

    # ---- what is stored ----------------------------------------------------------------------------------------------

    @property
    def has_t5(self) -> bool:
        return T5 in self._stored

    def where(self, part: str) -> str:
        return str(self._part(part).path)

    def raw(self, part: str) -> dict[str, TensorRef]:
        stored = self._denoiser if part == DENOISER else self._part(part)
        return dict(stored.refs)

    def config(self, part: str) -> dict[str, Any]:
        if part == DENOISER:
            return self._denoiser_config
        if part == "scheduler":
            return self.scheduler_config()
        stored = self._part(part)
        if stored.config is not None:
            return dict(stored.config)
        if part == "vae":
            return inferred_configs.vae_config(stored.refs, *self.latent_scaling)
        if part == T5:
            return inferred_configs.t5_config(stored.refs)
        return inferred_configs.clip_config(stored.refs, part)

    @cached_property
    def _denoiser_config(self) -> dict[str, Any]:
        return self.denoiser_config(self._denoiser.refs)

    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        refs = self.raw(part)
        if part == DENOISER:
            return find_stored(refs, names, self.place_of)
        if part == "vae":
            if inferred_configs.is_diffusers_vae(refs):
                return current_vae_names(refs)
            return original_vae(refs, names, len(self.config(part)["block_out_channels"]))
        return text_encoder_names(refs, names) if is_text_encoder(part) else refs

    def tokenizer(self, part: str) -> Path:
        if part != T5:
            return self._tokenizer_beside(part) or assets() / "clip"
        places = [*self.named, self._part(T5).path, self.path.parent]
        return find_t5_tokenizer(places, self.folders[T5][1])

    def pad(self, part: str) -> int | None:
        if self._tokenizer_beside(part) is not None:
            return None
        return inferred_configs.clip_config(self.raw(part), part)["pad_token_id"]

    def _tokenizer_beside(self, part: str) -> Path | None:
        """The tokenizer of a text encoder that lies in a diffusers folder."""
        stored = self._part(part)
        folder = stored.path.parent / self.folders[part][1]
        return folder if stored.config is not None and folder.is_dir() else None


_ON_COMMAND_LINE = "on the command line --base-part FILE (of train: base_parts=FILE)"
_EXAMPLES = {
    "te1": "clip_l.safetensors",
    "te2": "clip_g.safetensors",
    T5: "t5xxl_fp16.safetensors",
    "vae": "ae.safetensors",
}
"""What such files are usually called, for messages."""
