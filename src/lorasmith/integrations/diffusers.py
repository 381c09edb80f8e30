"""A Lorasmith file on a stock diffusers pipeline, exactly: every adapter kind, new tokens, and layer-wise tokens.

pipe = StableDiffusionPipeline.from_pretrained(...)
handle = lorasmith.integrations.diffusers.load(pipe, "garp.exact.safetensors")
pipe("a photo of <garp>").images[0]
handle.unload()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters.base import AdapterConfig, LayerSpec, kind_of
from lorasmith.adapters.layer import spec_of
from lorasmith.concepts import Vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.families.stable_diffusion import layer_names, text
from lorasmith.families.stable_diffusion.unet_config import UNetConfig
from lorasmith.formats import kohya
from lorasmith.formats import read as lora_reader
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.token_embeddings import TokenEmbeddings


class Handle:
    """The changes that `load` made to a pipeline. If several files are loaded, the last one must be unloaded first."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.layers: list[str] = []
        """Names of the changed layers."""
        self.words: list[str] = []
        """The new tokens."""
        self._undo: list[Callable[[], object]] = []

    def unload(self) -> None:
        """Restore the pipeline to its state before `load`."""
        while self._undo:
            self._undo.pop()()


@torch.no_grad()
def load(pipe: Any, file: str | Path, *, strength: float = 1.0, text_strength: float | None = None) -> Handle:
    """Merge a LoRA file's changes into the pipeline's weights, and let its prompts contain the file's new tokens.

    `strength` is the UNet's, `text_strength` the text encoders' (default: the same). New tokens need a pipeline of
    Stable Diffusion 1.x or 2.x. Raises LorasmithError if the file does not fit; the pipeline is then unchanged.
    """
    handle = Handle(pipe)
    lora_file = lora_reader.load(Path(file))
    try:
        if lora_file.tensors:
            _merge_layers(handle, lora_file, strength, strength if text_strength is None else text_strength)
        tokens = lora_reader.load_token_embeddings(lora_file)
        if tokens:
            _add_tokens(handle, tokens)
    except Exception:
        handle.unload()
        raise
    return handle


# --- layers


def _merge_layers(handle: Handle, file: LoraFile, unet_strength: float, text_strength: float) -> None:
    """Add each layer's change to the pipeline's weights."""
    modules = _named_modules(handle.pipe)
    kind = "sdxl" if _has_two_text_encoders(handle.pipe) else "sd1"
    config = UNetConfig.from_diffusers(dict(handle.pipe.unet.config))
    layers, unknown_keys = kohya.decode(file.tensors, lambda name: layer_names.from_kohya(kind, name, modules, config))
    if unknown_keys or not layers:
        first = unknown_keys[0] if unknown_keys else "nothing in it"
        raise LorasmithError(f"{file.path}: {first} belongs to no layer of this pipeline")
    kinds = {name: _checked_kind(file, name, modules[name], tensors) for name, tensors in layers.items()}
    for name, tensors in layers.items():
        module = modules[name]
        adapter_kind, spec = kinds[name]
        strength = unet_strength if name.startswith("unet.") else text_strength
        weight = module.get_parameter("weight")
        # adapters compute in float32 on the CPU; only the change goes to the pipeline's device and dtype
        base = weight.float().cpu()
        adapter = adapter_kind().restore(spec, base, tensors)
        _add_change(handle, weight, adapter.delta(base) * strength)
        bias_change = adapter.bias_delta()
        if bias_change is not None and module.bias is not None:
            _add_change(handle, module.get_parameter("bias"), bias_change * strength)
        handle.layers.append(name)


def _checked_kind(
    file: LoraFile, name: str, module: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[type[AdapterConfig], LayerSpec]:
    """The kind of a layer's tensors and the layer that they change. Compares shapes only, before any weight is changed.

    Raises LorasmithError if they are of no known kind, or do not fit the pipeline.
    """
    adapter_kind, spec = kind_of(tensors), spec_of(name, module)
    if adapter_kind is None or spec is None:
        raise LorasmithError(f"{file.path}: {name} has tensors of no known adapter kind: {', '.join(sorted(tensors))}")
    if not adapter_kind.fits(spec, tensors):
        raise LorasmithError(f"{file.path}: {name} does not fit this pipeline ({spec.shape})")
    return adapter_kind, spec


def _has_two_text_encoders(pipe: Any) -> bool:
    return getattr(pipe, "text_encoder_2", None) is not None


def _named_modules(pipe: Any) -> dict[str, nn.Module]:
    """The pipeline's modules that can have a change, by Lorasmith's layer names."""
    components = {"unet": pipe.unet}
    if _has_two_text_encoders(pipe):
        components |= {"te1": pipe.text_encoder, "te2": pipe.text_encoder_2}
    else:
        components["te"] = pipe.text_encoder
    modules: dict[str, nn.Module] = {}
    for component, model in components.items():
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm):
                classic_path = path if component == "unet" else text.classic_name(path)
                modules[f"{component}.{classic_path}"] = module
    return modules


def _add_change(handle: Handle, parameter: Tensor, change: Tensor) -> None:
    before = parameter.detach().clone()
    parameter.add_(change.to(parameter.device).reshape(parameter.shape).to(parameter.dtype))
    handle._undo.append(lambda: parameter.data.copy_(before))


# --- new tokens


def _add_tokens(handle: Handle, tokens: TokenEmbeddings) -> None:
    """Let the pipeline's text encoder, prompts and cross-attentions use new tokens."""
    pipe = handle.pipe
    if _has_two_text_encoders(pipe):
        raise LorasmithError("new tokens need a pipeline with one text encoder; those of SDXL are not supported yet")
    table = text.embedding_table(pipe.text_encoder)
    width = next(iter(tokens.values()))["te"].shape[-1]
    if width != table.shape[1]:
        raise LorasmithError(f"the new tokens have width {width}; this pipeline's text encoder has {table.shape[1]}")
    # the tokens' ids follow those of the pipeline's own vocabulary
    cross_attentions = _cross_attentions(pipe.unet)
    vocabulary = Vocabulary(list(tokens), list(tokens.values()), len(table), len(cross_attentions))
    vocabulary.requires_grad_(False).to(pipe.text_encoder.device)

    text.learn(pipe.text_encoder, vocabulary, "te")
    handle._undo.append(lambda: text.learn(pipe.text_encoder, None, "te"))
    stock_encode_prompt = pipe.encode_prompt
    pipe.encode_prompt = PromptEncoder(pipe, vocabulary)
    handle._undo.append(lambda: setattr(pipe, "encode_prompt", stock_encode_prompt))

    # with layer-wise tokens, each cross-attention reads a context of its own
    if vocabulary.layers > 1:
        for index, attention in enumerate(cross_attentions):
            stock_processor = attention.processor
            attention.set_processor(LayerContextProcessor(stock_processor, index))
            handle._undo.append(lambda a=attention, p=stock_processor: a.set_processor(p))
    handle.words = list(tokens)


def _cross_attentions(unet: nn.Module) -> list[Any]:
    """The cross-attention layers in the order in which they run."""
    attentions = {name: module for name, module in unet.named_modules() if name.endswith("attn2")}
    in_order: list[Any] = []
    for block in ("down_blocks", "mid_block", "up_blocks"):
        in_order += [module for name, module in attentions.items() if name.startswith(block)]
    return in_order


class LayerContextProcessor:
    """An attention processor that passes on one layer's part of a context (B, layers, tokens, width)."""

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


class PromptEncoder:
    """The pipeline's `encode_prompt`, for prompts with new tokens."""

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
        """(B, tokens, width), or (B, layers, tokens, width), of the prompts and of the negative prompts.

        `more`: the stock method's `prompt_embeds`, `negative_prompt_embeds` and `clip_skip`.
        """
        prompt_embeds: Tensor | None = more.get("prompt_embeds")
        negative_prompt_embeds: Tensor | None = more.get("negative_prompt_embeds")
        clip_skip: int | None = more.get("clip_skip")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        # embeddings that the caller gives are used as they are, like in the stock method
        if prompt_embeds is None:
            prompt_embeds = self.encode(prompts, clip_skip).repeat_interleave(num_images_per_prompt, 0)
        if not do_classifier_free_guidance:
            return prompt_embeds, negative_prompt_embeds
        if negative_prompt_embeds is None:
            negative_prompt = negative_prompt or ""
            # one negative prompt is for all prompts
            if isinstance(negative_prompt, str):
                negative_prompt = [negative_prompt] * max(1, len(prompts))
            negative_prompt_embeds = self.encode(negative_prompt, clip_skip)
            negative_prompt_embeds = negative_prompt_embeds.repeat_interleave(num_images_per_prompt, 0)
        return prompt_embeds, negative_prompt_embeds

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], clip_skip: int | None) -> Tensor:
        """The context of prompts of one window each."""
        tokenizer, model, vocabulary = self.pipe.tokenizer, self.pipe.text_encoder, self.vocabulary
        is_layerwise = vocabulary.layers > 1
        tokens = [text.tokens(tokenizer, prompt, vocabulary) for prompt in prompts]
        ids = text.windows(tokenizer, tokens, 75)[:, 0].to(model.device)
        # a prompt is encoded once for each layer
        if is_layerwise:
            ids = vocabulary.ids_per_layer(ids).flatten(0, 1)
        ids = text.refill(ids, tokenizer.eos_token_id, tokenizer.pad_token_id)
        hidden, _ = text.states(model, ids, (clip_skip or 0) + 1)
        context = text.final_norm(model)(hidden)
        return context.unflatten(0, (-1, vocabulary.layers)) if is_layerwise else context
