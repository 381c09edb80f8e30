"""What SD3 and Flux have in common: a transformer on the straight path, CLIP and T5 texts, latents of 16 channels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorasmith.concepts import Vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.core.free_memory import free_memory
from lorasmith.diffusion.prediction import Velocity
from lorasmith.diffusion.rectified_flow import PATCH, RectifiedFlow, ResolutionShift
from lorasmith.families.base import Conditioning
from lorasmith.families.file_names import FileNames, file_names_of, variant_of
from lorasmith.families.fingerprint import part_hash
from lorasmith.families.place import Place
from lorasmith.families.reader import fill
from lorasmith.families.stable_diffusion import emphasis
from lorasmith.families.stable_diffusion.clip_family import ClipFamily, check_clip_skip, layers_of
from lorasmith.families.stable_diffusion.conditioning import CONTEXT, POOLED
from lorasmith.families.stable_diffusion.source import part_title
from lorasmith.families.streaming import BlockStream, stream_calls
from lorasmith.families.transformer_models import t5
from lorasmith.families.transformer_models.source import DENOISER, LATENT_CHANNELS, T5, TransformerSource

ROOM = 0.85
"""The share of the free memory that weights may take when they are loaded."""


class TransformerFamily(ClipFamily):
    """A base model. The transformer is loaded at once, the other parts when they are first used."""

    denoiser_component: ClassVar[str] = DENOISER
    base: TransformerSource
    block_lists: ClassVar[tuple[str, ...]]
    """The lists of the transformer's blocks, in the order in which they run."""
    t5_tokens: int
    """The length that texts are padded to for T5."""

    def __init__(self, source: TransformerSource, dtype: torch.dtype | None, device: torch.device | str) -> None:
        """`dtype` None: bfloat16 for a transformer of full size, else float32."""
        super().__init__(source, dtype or source.default_dtype, device)
        self.path = read_path(source)
        self.prediction = Velocity()
        config = source.config("vae")
        self.latent_scale = float(config.get("scaling_factor", 1.0))
        self.latent_shift = float(config.get("shift_factor") or 0.0)
        self.latent_channels = int(config.get("latent_channels", LATENT_CHANNELS))  # pyright: ignore[reportAttributeAccessIssue]
        fits = has_room(self.device, source.parameters * self.dtype.itemsize)
        self._denoiser = load_denoiser(source, self.dtype, self.device if fits else torch.device("cpu"))
        self._layers[DENOISER] = layers_of(self._denoiser, DENOISER)
        self.variant = variant_of(source)
        if source.t5_tokens is not None:
            self.t5_tokens = source.t5_tokens
        self._is_streamed = False
        if not fits:
            self.stream_weights()
        self._t5: nn.Module | None = None
        self._t5_tokenizer: Any = None

    # ---- the network -------------------------------------------------------------------------------------------------

    @property
    def denoiser(self) -> nn.Module:
        return self._denoiser

    def checkpoint_gradients(self, on: bool) -> None:
        model: Any = self._denoiser
        model.enable_gradient_checkpointing() if on else model.disable_gradient_checkpointing()

    @property
    def is_streamed(self) -> bool:
        return self._is_streamed

    def stream_weights(self) -> None:
        if self._is_streamed:
            return
        self._is_streamed = True
        blocks = [block for name in self.block_lists for block in self._denoiser.get_submodule(name).children()]
        stream = BlockStream(blocks, self.device)
        for block in blocks:
            stream_calls(stream, block)
        # where the device had no room for all weights, those outside of the blocks have waited on the host, too
        for name, part in self._denoiser.named_children():
            if name not in self.block_lists:
                part.to(self.device)

    def check_sides(self, x: Tensor) -> None:
        """Raise LorasmithError for latents that cannot be cut into tokens of 2 x 2."""
        if x.shape[-2] % PATCH or x.shape[-1] % PATCH:
            side = PATCH * self.downscale
            raise LorasmithError(f"{self.kind} models take images whose sides are multiples of {side} pixels")

    def cross_attention_layers(self) -> tuple[str, ...]:
        """None: text and image attend to each other in one attention."""
        return ()

    # ---- the text side -----------------------------------------------------------------------------------------------

    @abstractmethod
    def encode_clip(self, ids: Tensor, clip_skip: int) -> tuple[Tensor | None, Tensor]:
        """CLIP's token states (B, 77, width), or None if the model does not use them, and its pooled text (B, width).

        `ids`: (B, 1, 77).
        """

    def encode_t5(self, texts: Sequence[str]) -> Tensor:
        """T5's states (B, t5_tokens, context width); zeros without T5, which SD3 was trained to allow."""
        if not self.base.needs_t5 and not self.base.has_t5:
            shape = (len(texts), self.t5_tokens, self.base.context_width)
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        if self._t5 is None:
            self._t5 = t5.load_t5(self.base, self.dtype, self.device)
        if self._t5_tokenizer is None:
            self._t5_tokenizer = t5.load_tokenizer(self.base)
        return t5.encode(self._t5, self._t5_tokenizer, texts, self.t5_tokens, self.device).to(self.dtype)

    def set_t5_tokens(self, count: int) -> None:
        self.t5_tokens = count

    def count_windows(self, texts: Sequence[str]) -> int:
        """1: these models take one window of CLIP and a fixed number of T5 tokens."""
        return 1

    def encode_text(
        self, captions: Sequence[str], *, max_tokens: int | None = 75, clip_skip: int = 1, weighted: bool = False
    ) -> Conditioning:
        """Captions to a conditioning; gradients flow through CLIP. CLIP reads the first 75 tokens, T5 `t5_tokens`.

        Emphasis has no meaning for these models: with `weighted`, brackets and weights are taken out of the texts.
        """
        check_clip_skip(clip_skip)
        if weighted:
            captions = [without_emphasis(caption) for caption in captions]
        states, pooled = self.encode_clip(self.tokenize(captions), clip_skip)
        context = self.encode_t5(captions)
        if states is not None:
            padded = torch.nn.functional.pad(states, (0, context.shape[-1] - states.shape[-1]))
            context = torch.cat([padded, context], 1)
        return Conditioning({CONTEXT: context, POOLED: pooled})

    def encode_ids(self, ids: Tensor, *, clip_skip: int = 1, weights: Tensor | None = None) -> Conditioning:
        raise LorasmithError(f"{self.kind}: T5 reads texts, so token ids of CLIP alone are no conditioning")

    def learn(self, vocabulary: Vocabulary | None) -> None:
        if vocabulary is not None and vocabulary.layers > 1:
            self.require("layer-wise tokens", "concepts.layerwise")
        super().learn(vocabulary)

    # ---- the layers --------------------------------------------------------------------------------------------------

    @cached_property
    def file_names(self) -> FileNames:
        """The names of the layers in LoRA files."""
        names = [spec.name for spec in self.base.layers()]
        return file_names_of(self.kind).names(self.kind, names, self.base)

    def kohya_name(self, layer: str) -> str:
        return self.file_names.kohya_name(layer)

    def from_kohya(self, name: str) -> str | None:
        return self.file_names.from_kohya(name)

    def kohya_part(self, layer: str) -> Place | None:
        return self.file_names.kohya_part(layer)

    def kohya_parts(self, name: str) -> Mapping[str, Place]:
        return self.file_names.kohya_parts(name)

    def peft_name(self, layer: str) -> str:
        return self.file_names.peft_name(layer)

    # ---- parts and their changes -------------------------------------------------------------------------------------

    def fingerprint(self, part: str) -> str:
        fingerprint = super().fingerprint(part)
        if part != "text":
            return fingerprint
        return f"{fingerprint}-{part_hash(self.base, T5) if self.base.has_t5 else 'no-t5'}-{self.t5_tokens}"

    def release(self, part: str) -> None:
        if part == "text":
            self._t5 = None
        super().release(part)


def has_room(device: torch.device, size: int) -> bool:
    """Whether a GPU has room for `size` bytes of weights, and for a step beside them. A CPU has no other place."""
    return device.type == "cpu" or size < ROOM * free_memory(device)


def without_emphasis(text: str) -> str:
    """A prompt without its brackets and weights."""
    return "".join(" " if piece == emphasis.BREAK else piece[0] for piece in emphasis.parse(text))


def load_denoiser(source: TransformerSource, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The frozen transformer, with weights read straight into `dtype` on `device`.

    Raises LorasmithError if any weight is missing or unknown.
    """
    model, refs = source.empty_part(DENOISER)
    fill(model, refs, dtype, device, part_title(DENOISER), source.where(DENOISER))
    return model.requires_grad_(False).eval()


def read_path(source: TransformerSource) -> RectifiedFlow:
    """The path with the shift of the model's scheduler config."""
    config = source.config("scheduler")
    if not config.get("use_dynamic_shifting"):
        return RectifiedFlow(fixed_shift=float(config.get("shift", 1.0)))
    rule = ResolutionShift(
        float(config.get("base_shift", 0.5)),
        float(config.get("max_shift", 1.15)),
        int(config.get("base_image_seq_len", 256)),
        int(config.get("max_image_seq_len", 4096)),
    )
    return RectifiedFlow(resolution_shift=rule)
