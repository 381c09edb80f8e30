"""A file of ours on a stock diffusers pipeline, exactly: every adapter kind, new words, words for each layer.

pipe = StableDiffusionPipeline.from_pretrained(...)
handle = lorasmith.integrations.diffusers.load(pipe, "garp.exact.safetensors")
pipe("a photo of <garp>").images[0]
handle.unload()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters.base import kind_of
from lorasmith.adapters.layer import spec_of
from lorasmith.concepts import Vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.families.stable_diffusion import layer_names, text
from lorasmith.families.stable_diffusion.unet_config import UNetConfig
from lorasmith.formats import kohya
from lorasmith.formats.read import LoraFile
from lorasmith.formats.read import load as read
from lorasmith.formats.token_embeddings import Words, beside

PARTS = {"unet": "unet", "te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}


class Handle:
    """What `load` did to a pipeline. `unload` takes it off again; the last loaded goes first."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.layers: list[str] = []
        self.words: list[str] = []
        self._undo: list[Callable[[], object]] = []

    def unload(self) -> None:
        """The pipeline as it was."""
        while self._undo:
            self._undo.pop()()


@torch.no_grad()
def load(pipe: Any, file: str | Path, *, strength: float = 1.0, text_strength: float | None = None) -> Handle:
    """Merge a LoRA file's changes into the pipeline's weights and let its prompts have the file's new words.

    `strength` is the UNet's, `text_strength` the text encoders' (default: the same). New words need a pipeline of
    Stable Diffusion 1.x or 2.x. Raises LorasmithError if the file does not fit; the pipeline is then as it was.
    """
    path, handle = Path(file), Handle(pipe)
    found = read(path)
    try:
        _merge(handle, found, {"unet": strength, "text": strength if text_strength is None else text_strength})
        if words := beside(found):
            _learn(handle, words)
    except Exception:
        handle.unload()
        raise
    return handle


def _merge(handle: Handle, file: LoraFile, strengths: Mapping[str, float]) -> None:
    if not file.tensors:
        return
    places = dict(_places(handle.pipe))
    kind = "sdxl" if getattr(handle.pipe, "text_encoder_2", None) is not None else "sd1"
    config = UNetConfig.from_diffusers(dict(handle.pipe.unet.config))
    layers, strangers = kohya.decode(file.tensors, lambda name: layer_names.from_kohya(kind, name, places, config))
    if strangers or not layers:
        raise LorasmithError(f"{file.path}: {(strangers or ['nothing in it'])[0]} belongs to no layer of this pipeline")
    for name, tensors in layers.items():
        module, adapter_kind = places[name], kind_of(tensors)
        spec = spec_of(name, module)
        if adapter_kind is None or spec is None:
            raise LorasmithError(
                f"{file.path}: {name} has tensors of no known adapter kind: {', '.join(sorted(tensors))}"
            )
        factor = strengths["unet" if name.startswith("unet.") else "text"]
        base = module.get_parameter("weight")
        try:
            adapter = adapter_kind().restore(spec, base.float().cpu(), tensors)
            _add(handle, base, adapter.delta(base.float().cpu()) * factor)
        except (RuntimeError, KeyError, IndexError, ValueError):
            raise LorasmithError(f"{file.path}: {name} does not fit this pipeline ({spec.shape})") from None
        if (bias := adapter.bias_delta()) is not None and module.bias is not None:
            _add(handle, module.get_parameter("bias"), bias * factor)
        handle.layers.append(name)


def _places(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    """Our layer names with the pipeline's modules."""
    double = getattr(pipe, "text_encoder_2", None) is not None
    parts = {"unet": pipe.unet, "te1" if double else "te": pipe.text_encoder}
    if double:
        parts["te2"] = pipe.text_encoder_2
    for part, model in parts.items():
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm):
                yield f"{part}.{path if part == 'unet' else text.classic_name(path)}", module


def _add(handle: Handle, weight: Tensor, change: Tensor) -> None:
    kept = weight.detach().clone()
    weight.add_(change.to(weight.device).reshape(weight.shape).to(weight.dtype))
    handle._undo.append(lambda: weight.data.copy_(kept))


def _learn(handle: Handle, words: Words) -> None:
    pipe = handle.pipe
    if getattr(pipe, "text_encoder_2", None) is not None:
        raise LorasmithError("new words are for pipelines with one text encoder; SDXL's are not supported here yet")
    own = text.embedding_table(pipe.text_encoder)
    crossed = _in_order(pipe.unet)
    vocabulary = Vocabulary(list(words), list(words.values()), len(own), len(crossed)).requires_grad_(False)
    width = next(iter(words.values()))["te"].shape[-1]
    if width != own.shape[1]:
        raise LorasmithError(f"the new words have width {width}; this pipeline's text encoder has {own.shape[1]}")
    vocabulary.to(pipe.text_encoder.device)
    text.learn(pipe.text_encoder, vocabulary, "te")
    handle._undo.append(lambda: text.learn(pipe.text_encoder, None, "te"))
    stock = pipe.encode_prompt
    pipe.encode_prompt = Encoder(pipe, vocabulary)
    handle._undo.append(lambda: setattr(pipe, "encode_prompt", stock))
    if vocabulary.layers > 1:
        for index, module in enumerate(crossed):
            kept = module.processor
            module.set_processor(OneOf(kept, index))
            handle._undo.append(lambda m=module, p=kept: m.set_processor(p))
    handle.words = list(words)


def _in_order(unet: nn.Module) -> list[Any]:
    """The cross-attention layers in the order in which they run."""
    named = {n: m for n, m in unet.named_modules() if n.endswith("attn2")}
    tops = ("down_blocks", "mid_block", "up_blocks")
    return [named[n] for top in tops for n in named if n.startswith(top)]


class OneOf:
    """An attention processor that takes its layer's own entry of a context (B, layers, tokens, width)."""

    def __init__(self, inner: Any, index: int) -> None:
        self.inner, self.index = inner, index

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None and encoder_hidden_states.dim() == 4:
            encoder_hidden_states = encoder_hidden_states[:, self.index]
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


class Encoder:
    """The pipeline's `encode_prompt`, for prompts with new words."""

    def __init__(self, pipe: Any, vocabulary: Vocabulary) -> None:
        self.pipe, self.vocabulary = pipe, vocabulary

    def __call__(
        self,
        prompt: str | list[str] | None,
        device: Any = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, tokens, width), or (B, layers, tokens, width), of the prompts and of the negative ones.

        `more`: the stock method's `prompt_embeds`, `negative_prompt_embeds` and `clip_skip`.
        """
        prompt_embeds: Tensor | None = more.get("prompt_embeds")
        negative_prompt_embeds: Tensor | None = more.get("negative_prompt_embeds")
        clip_skip: int | None = more.get("clip_skip")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        if prompt_embeds is None:
            prompt_embeds = self.encode(prompts, clip_skip).repeat_interleave(num_images_per_prompt, 0)
        if not do_classifier_free_guidance:
            return prompt_embeds, negative_prompt_embeds
        if negative_prompt_embeds is None:
            given = negative_prompt or ""
            negative = [given] * max(1, len(prompts)) if isinstance(given, str) else list(given)
            negative_prompt_embeds = self.encode(negative, clip_skip).repeat_interleave(num_images_per_prompt, 0)
        return prompt_embeds, negative_prompt_embeds

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], clip_skip: int | None) -> Tensor:
        """Prompts of one window each."""
        model, new = self.pipe.text_encoder, self.vocabulary
        tokens = [text.tokens(self.pipe.tokenizer, prompt, new) for prompt in prompts]
        ids = text.windows(self.pipe.tokenizer, tokens, 75)[:, 0].to(model.device)
        each = new.ids_per_layer(ids).flatten(0, 1) if new.layers > 1 else ids
        pad = self.pipe.tokenizer.pad_token_id
        each = text.refill(each, self.pipe.tokenizer.eos_token_id, pad)
        hidden, _ = text.states(model, each, (clip_skip or 0) + 1)
        context = text.final_norm(model)(hidden)
        return context.unflatten(0, (-1, new.layers)) if new.layers > 1 else context
