"""Our files in a stock diffusers pipeline: the UNet and the text encoders answer as with our adapters attached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import AdapterConfig
from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.layer_rule import LayerRule
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lokr import LoKr
from lorasmith.adapters.lora import LoRA
from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.formats import kohya
from lorasmith.formats.base import Encoded, Format
from lorasmith.formats.kohya import Kohya, Portable
from lorasmith.formats.peft import Peft
from lorasmith.formats.write import write
from lorasmith.sampling.loras import load_lora

torch.set_num_threads(1)


def trained(family: Family, config: AdapterConfig) -> AdapterSet:
    """Adapters with random factors, attached."""
    layers = family.named_layers(("unet", *family.text_components))
    adapters = AdapterSet.create(config, layers, family.layer_presets, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in adapters.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    adapters.attach().eval()
    return adapters


def inputs(family: Family) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 4, 16, 16, generator=generator), torch.tensor([10, 700]), family.tokenize(["a b", "c, d e"])


@torch.no_grad()
def ours(family: Family) -> list[Tensor]:
    x, t, ids = inputs(family)
    conditioning = family.encode_ids(ids)
    if family.kind == "sdxl":
        conditioning = family.add_sizes(conditioning, *[torch.tensor([[128, 128]] * 2)] * 3)
    return [conditioning["context"], family.predict(x, t, conditioning)]


@torch.no_grad()
def theirs(family: Family, pipeline: Any) -> list[Tensor]:
    """The same from the pipeline's own parts."""
    x, t, ids = inputs(family)
    if family.kind != "sdxl":
        context = pipeline.text_encoder(family._padded_ids(ids, "te")).last_hidden_state  # type: ignore[attr-defined]
        return [context, pipeline.unet(x, t, context).sample]
    first = pipeline.text_encoder(family._padded_ids(ids, "te1"), output_hidden_states=True)  # type: ignore[attr-defined]
    second = pipeline.text_encoder_2(family._padded_ids(ids, "te2"), output_hidden_states=True)  # type: ignore[attr-defined]
    context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    sizes = torch.tensor([[128.0, 128, 128, 128, 128, 128]] * 2)
    added = {"text_embeds": second.text_embeds, "time_ids": sizes}
    return [context, pipeline.unet(x, t, context, added_cond_kwargs=added).sample]


def pipeline_of(folder: Path, kind: str) -> Any:
    import diffusers
    import transformers

    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        "text_encoder": transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "unet": diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        "scheduler": diffusers.DDIMScheduler.from_pretrained(folder / "scheduler"),
    }
    if kind != "sdxl":
        return diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    parts["text_encoder_2"] = transformers.CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
    parts["tokenizer_2"] = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
    return diffusers.StableDiffusionXLPipeline(**parts)


FORMS: list[tuple[str, AdapterConfig, Format]] = [
    ("attention", LoRA(rank=3, alpha=1.5), Kohya()),
    (
        "mixed alphas",
        LoRA(rank=4, overrides=(LayerRule(layers="*.to_q", rank=2, alpha=7), LayerRule(layers="te*", alpha=2))),
        Kohya(),
    ),
    ("convolutions", LoRA(rank=3, conv_rank=2, conv_alpha=1, layers="full", rank_stabilised=True), Kohya()),
    ("pissa", LoRA(rank=2, alpha=3, init="pissa"), Portable()),
    ("tucker", LoRA(rank=3, layers="full", tucker=True), Portable()),
    ("loha", LoHa(rank=2, alpha=1, layers="full", tucker=True), Portable()),
    ("lokr", LoKr(rank=2, alpha=1, factor=4, layers="full"), Portable()),
    ("one projection", LoRA(rank=2, layers=("te*.q_proj", "unet.*.to_k")), Kohya()),
    ("peft", LoRA(rank=3, alpha=1.5, layers="full", conv_rank=2), Peft()),
    ("peft loha", LoHa(rank=2, alpha=1), Peft()),
    ("peft dora", DoRA(rank=3, axis="output", layers=("unet.*.attentions.*",)), Peft()),
]


def saved(family: Family, adapters: AdapterSet, form: Format, path: Path) -> Path:
    encoded: Encoded = form.encode_adapters(adapters.adapters, family)
    return write(path, encoded.tensors, encoded.metadata, torch.float32)


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in ("mixed alphas", "convolutions", "lokr", "peft") else [pytest.mark.slow]


@pytest.mark.slow_except("sd1-mixed*")
@pytest.mark.parametrize(("config", "form"), [pytest.param(c, f, id=n, marks=marks(n)) for n, c, f in FORMS])
@pytest.mark.parametrize("kind", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_the_pipeline_answers_as_our_adapters(
    kind: str, config: AdapterConfig, form: Format, tiny_bases: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_bases(kind)
    family = load(str(folder), dtype=torch.float32)
    before = ours(family)
    adapters = trained(family, config)
    expected = ours(family)
    path = saved(family, adapters, form, tmp_path / "x.safetensors")
    pipeline = pipeline_of(folder, kind)
    pipeline.load_lora_weights(str(path))
    found = theirs(family, pipeline)
    changed = [float((a - b).norm() / b.norm()) for a, b in zip(expected, before, strict=True)]
    assert changed[1] > 1e-3
    for a, b, base in zip(found, expected, before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(base.abs().max()) + 1e-6)

    adapters.detach()
    again = load_lora(family, path)
    for a, b in zip(ours(family), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    again.detach()


def test_old_entry_point_writes_the_same(tiny_bases: Callable[[str], Path]) -> None:
    family = load(str(tiny_bases("sd1")), dtype=torch.float32)
    adapters = trained(family, LoRA(rank=2))
    simple = kohya.encode(adapters.adapters, family.kohya_name)
    assert simple.keys() == Kohya().encode_adapters(adapters.adapters, family).tensors.keys()


def test_what_has_no_portable_form_is_refused(tiny_bases: Callable[[str], Path]) -> None:
    family = load(str(tiny_bases("sd1")), dtype=torch.float32)
    adapters = trained(family, DoRA(rank=2))
    for form in (Portable(), Peft()):
        with pytest.raises(LorasmithError, match=r"cannot hold \d+ of the changes.*for example that of unet\."):
            form.encode_adapters(adapters.adapters, family)
