"""What A1111, Forge, ComfyUI, InvokeAI and diffusers make of a LoRA file, and why.

Each rule says for whom a file's trait has which effect. The behaviour was measured with the readers' own code: A1111
1.10, Forge of June 2025, ComfyUI of October 2025, InvokeAI of August 2026, diffusers 0.42.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lorasmith.formats.survey import Survey, component

A1111, FORGE, COMFY, INVOKE, DIFFUSERS = READERS = ("A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers")
Effect = Literal["yes", "partly", "wrong", "no"]
"""Loads with training's weights; some layers are left out; other weights than training's; not loaded at all."""
ORDER: tuple[Effect, ...] = ("yes", "partly", "wrong", "no")


@dataclass(frozen=True)
class Rule:
    """Files of which `when` holds have `effect` for `readers`, because of `why`."""

    readers: tuple[str, ...]
    effect: Effect
    why: str
    when: Callable[[Survey], bool]


def verdicts(survey: Survey) -> dict[str, dict[str, Any]]:
    """Reader to `loads` (the worst effect) and `remarks`."""
    found: dict[str, dict[str, Any]] = {reader: {"loads": "yes", "remarks": []} for reader in READERS}
    for rule in RULES:
        if rule.when(survey):
            for reader in rule.readers:
                answer = found[reader]
                answer["loads"] = max(answer["loads"], rule.effect, key=ORDER.index)
                answer["remarks"].append(rule.why)
    return found


def has(*kinds: str) -> Callable[[Survey], bool]:
    return lambda s: any(kind in s.kinds for kind in kinds)


def has_tensor(name: str) -> Callable[[Survey], bool]:
    return lambda s: any(name in tensors for tensors in s.layers.values())


def spelled(*spellings: str) -> Callable[[Survey], bool]:
    return lambda s: s.file.spelling in spellings


def both(*conditions: Callable[[Survey], bool]) -> Callable[[Survey], bool]:
    return lambda s: all(condition(s) for condition in conditions)


def lacks(condition: Callable[[Survey], bool]) -> Callable[[Survey], bool]:
    return lambda s: not condition(s)


def dora(axis: str, *, text: bool | None = None) -> Callable[[Survey], bool]:
    """DoRA along this axis, in the text encoders, outside them or anywhere."""

    def found(survey: Survey) -> bool:
        for flat, tensors in survey.layers.items():
            scale = tensors.get("dora_scale")
            if scale is None or (text is not None and component(flat).startswith("te") != text):
                continue
            if ("input" if scale.dim() > 1 and scale.shape[0] == 1 else "output") == axis:
                return True
        return False

    return found


def positive(name: str, kind: str) -> Callable[[Survey], bool]:
    """A value above zero in a layer of a kind."""
    return lambda s: any(s.kind_by_layer[f] == kind and float(w.get(name, 0)) > 0 for f, w in s.layers.items())


def dora_over_products(s: Survey) -> bool:
    products = {"hada_w1_a", "lokr_w1", "lokr_w1_a"}
    return any("dora_scale" in tensors and bool(products & tensors.keys()) for tensors in s.layers.values())


def alphas_differ(s: Survey) -> bool:
    return any(len(found) > 1 for found in s.alphas.values())


def named(*parts: str) -> Callable[[Survey], bool]:
    """Layers with one of these in their names."""
    return lambda s: any(part in flat for flat in s.layers for part in parts)


def family(*names: str) -> Callable[[Survey], bool]:
    return lambda s: s.family in names


def base_unseen(s: Survey) -> bool:
    """InvokeAI tells the base by cross-attention or text encoder widths; SDXL also by its deep transformers."""
    if any("attn2_to_k" in f or "attn2_to_v" in f for f in s.layers) or set(s.components) - {"unet"}:
        return False
    return s.family != "sdxl" or not any(f"transformer_blocks_{i}_" in f for f in s.layers for i in range(2, 10))


def low_rank_kron(s: Survey) -> bool:
    return s.family in ("sd1", "sd2") and set(s.kinds) == {"lokr"} and any("lokr_w2_b" in w for w in s.layers.values())


def no_out_proj(s: Survey) -> bool:
    return bool(s.partial_attention) and not any("out_proj" in f for f in s.layers)


def split_openclip(s: Survey) -> bool:
    stems = s.partial_attention
    return any(stem.startswith("lora_te2_") or s.family == "sd2" for stem in stems)


def unmatched_by_forge(s: Survey) -> bool:
    norms = sum(len(w) for f, w in s.layers.items() if s.kind_by_layer[f] == "norm" and component(f) != "unet")
    return norms + sum(len(parts) for parts in s.file.embeddings.values()) > 12


def ia3_conv_outputs(s: Survey) -> bool:
    found = (w for f, w in s.layers.items() if s.kind_by_layer[f] == "ia3")
    return any(w["weight"].dim() == 4 and not bool(w["on_input"]) for w in found)


def boft_without_alpha(s: Survey) -> bool:
    return any(s.kind_by_layer[f] == "boft" and "alpha" not in w for f, w in s.layers.items())


def lone(part: str, partner: str) -> Callable[[Survey], bool]:
    return lambda s: any(part in w and partner not in w for w in s.layers.values())


def no_text_model(s: Survey) -> bool:
    return any("_te" in f and "_encoder_layers_" in f and "text_model" not in f for f in s.layers)


FLAT = spelled("kohya")
UIS = (A1111, FORGE, COMFY, INVOKE)


def _rules() -> Iterator[Rule]:
    yield from _naming()
    yield from _kinds()
    yield from _parts()


def _naming() -> Iterator[Rule]:
    own = spelled("peft", "diffusers", "diffusers before 0.22")
    yield Rule((A1111, INVOKE), "no", "the names are diffusers', of which it knows none", own)
    yield Rule((FORGE,), "no", "the names are diffusers'; it refuses a file with more than 12 unknown tensors", own)
    yield Rule((COMFY,), "partly", "of diffusers' names it finds no attention layers", own)
    simple = spelled("SimpleTuner")
    yield Rule((A1111, INVOKE, DIFFUSERS), "no", "it does not know names that start with lycoris_", simple)
    original = spelled("original layout")
    yield Rule((A1111, INVOKE, DIFFUSERS), "no", "it does not know names of the original layout with dots", original)
    sgm = both(FLAT, lambda s: s.sgm_names, family("sd1", "sd2"))
    yield Rule((INVOKE, DIFFUSERS), "no", "for SD 1.x and 2.x it knows diffusers' names of UNet layers only", sgm)
    xl = both(FLAT, family("sdxl"), lambda s: not s.sgm_names)
    yield Rule((A1111,), "partly", "of SDXL layers under diffusers' names it misses add_embedding and one upsampler",
               both(xl, named("add_embedding", "up_blocks_0_upsamplers")))  # fmt: skip
    yield Rule((DIFFUSERS,), "partly", "add_embedding is dropped with a warning", both(xl, named("add_embedding")))
    yield Rule(UIS, "partly", "text encoder names lack text_model, so those layers are not found", no_text_model)
    te1 = both(FLAT, family("sd1", "sd2"), lambda s: "te1" in s.components)
    yield Rule((INVOKE,), "partly", "it looks for SD 1.x text layers under lora_te_, not lora_te1_", te1)
    yield Rule((INVOKE,), "no", "it cannot tell the base model: no cross-attention and no text layer", base_unseen)


def _kinds() -> Iterator[Rule]:
    unknown = lambda s: "unknown" in s.kinds or bool(s.strangers)  # noqa: E731
    yield Rule(READERS, "no", "some layers have tensors of no kind that is known", unknown)
    yield Rule((DIFFUSERS,), "no", "it reads plain LoRA only and refuses the whole file",
               has("loha", "lokr", "oft", "boft", "ia3", "full", "norm", "glora"))  # fmt: skip
    yield Rule((DIFFUSERS,), "no", "it does not know the middle factor of Tucker LoRA", has_tensor("lora_mid.weight"))
    yield Rule((DIFFUSERS,), "wrong", "alphas differ; it takes the commonest for every layer of a component",
               both(FLAT, alphas_differ))  # fmt: skip
    yield Rule(UIS, "wrong", "the DoRA runs along outputs, which no user interface computes rightly", dora("output"))
    yield Rule(
        (DIFFUSERS,), "wrong", "it drops dora_scale and loads a plain LoRA", both(FLAT, has_tensor("dora_scale"))
    )
    yield Rule((DIFFUSERS,), "wrong", "its text encoders lose DoRA magnitudes",
               both(lacks(FLAT), dora("output", text=True)))  # fmt: skip
    yield Rule((INVOKE,), "no", "it takes dora_scale beside plain LoRA only", dora_over_products)
    yield Rule((DIFFUSERS,), "no", "it reads plain LoRA only and refuses the whole file", dora_over_products)
    middle = lambda s: any("lora_mid.weight" in w and "dora_scale" in w for w in s.layers.values())  # noqa: E731
    yield Rule((INVOKE,), "wrong", "it does not apply DoRA with Tucker factors", middle)
    yield Rule((FORGE,), "no", "it fails at LoKr with Tucker factors", has_tensor("lokr_t2"))
    yield Rule((COMFY,), "partly", "it skips LoKr layers with Tucker factors", has_tensor("lokr_t2"))
    yield Rule((INVOKE,), "no", "it cannot tell the base model of LoKr files with low-rank factors", low_rank_kron)
    yield Rule((FORGE, INVOKE), "no", "it does not know OFT and BOFT", has("oft", "boft"))
    bounded = lambda s: positive("alpha", "oft")(s) or positive("alpha", "boft")(s)  # noqa: E731
    yield Rule((COMFY,), "wrong", "it reads the bound of the rotation (alpha) differently", bounded)
    yield Rule((COMFY,), "wrong", "it ignores OFT's rescale", both(has("oft"), has_tensor("rescale")))
    yield Rule((COMFY,), "yes", "right at strength 1 only: it applies OFT's strength twice", has("oft", "boft"))
    yield Rule((COMFY,), "no", "it fails at BOFT without alpha", boft_without_alpha)
    yield Rule((FORGE, COMFY), "no", "it does not know IA3", has("ia3"))
    yield Rule((A1111, INVOKE), "no", "it fails at IA3 on the outputs of convolutions", ia3_conv_outputs)
    old = "it still expects GLoRA's old layout and skips those layers"
    yield Rule((A1111,), "partly", old, has("glora"))
    yield Rule((A1111,), "no", "there is nothing else in it", lambda s: set(s.kinds) == {"glora"})
    yield Rule((INVOKE,), "no", "it does not know GLoRA", has("glora"))


def _parts() -> Iterator[Rule]:
    text_norms = lambda s: any(k == "norm" and component(f) != "unet" for f, k in s.kind_by_layer.items())  # noqa: E731
    yield Rule((COMFY,), "partly", "it finds no norms of text encoders", text_norms)
    yield Rule((FORGE,), "no", "it refuses a file with more than 12 tensors that it does not know", unmatched_by_forge)
    yield Rule((A1111,), "partly", "it does not find conv_norm_out", both(has("norm"), named("conv_norm_out")))
    yield Rule((A1111,), "no", "it fails at w_norm without b_norm", lone("w_norm", "b_norm"))
    yield Rule((A1111,), "no", "it fails at diff_b without diff", lone("diff_b", "diff"))
    yield Rule((DIFFUSERS,), "no", "text encoder attention without any out_proj is refused", no_out_proj)
    yield Rule((A1111,), "partly", "of OpenCLIP attention it takes q, k, v and out together, or none", split_openclip)
    yield Rule((FORGE, COMFY, INVOKE), "partly", "it leaves out the bundled words; give it their embeddings as files",
               lambda s: bool(s.file.embeddings))  # fmt: skip
    yield Rule((DIFFUSERS,), "no", "bundled new words make it refuse the whole file", lambda s: bool(s.file.embeddings))
    yield Rule((A1111,), "no", "it fails at bundled words of SD 1.x with clip_l_out",
               lambda s: any({"clip_l", "clip_l_out"} <= p.keys() and "clip_g" not in p
                             for p in s.file.embeddings.values()))  # fmt: skip
    yield Rule((DIFFUSERS,), "no", "alphas beside lora_adapter_metadata are refused",
               both(FLAT, has_tensor("alpha"), lambda s: "lora_adapter_metadata" in s.file.metadata))  # fmt: skip


RULES = tuple(_rules())
