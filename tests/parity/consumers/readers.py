"""What A1111, Forge, ComfyUI and InvokeAI make of a file of SD 1.x with kohya's names: re-statements of what their own
code was measured to do, not their code. Each gives the changed weights by flat name, or raises `RefusedError`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import formulas as f
import torch
from torch import Tensor

Weights = dict[str, Tensor]
PRODUCTS = {"lora_up.weight": f.lora, "hada_w1_a": f.loha, "lokr_w1": f.lokr, "lokr_w1_a": f.lokr}


class RefusedError(Exception):
    """The file is not loaded at all."""


class SkippedError(Exception):
    """This layer is left as it is."""


def groups(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        flat, _, leaf = name.partition(".")
        found.setdefault(flat, {})[leaf] = tensor.float()
    return found


def product(words: f.Words, shape: torch.Size) -> Tensor | None:
    return next((rule(words, shape) for word, rule in PRODUCTS.items() if word in words), None)


class Reader(ABC):
    """`base`: weights (and biases as `<flat>.bias`) by flat name."""

    def read(self, tensors: Mapping[str, Tensor], base: Weights) -> Weights:
        layers = groups(tensors)
        self.admit(tensors, base)
        changed = {}
        for flat, words in layers.items():
            if flat not in base or not self.finds(flat, words):
                continue
            try:
                changed[flat] = self.weight(words, base[flat])
            except SkippedError:
                continue
            bias = words.get("diff_b", words.get("b_norm"))
            if bias is not None:
                changed[f"{flat}.bias"] = base[f"{flat}.bias"] + bias
        return changed

    def words(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """New words in the file, by text encoder (`clip_l`, `clip_g`; the only one: empty)."""
        return {}

    def admit(self, tensors: Mapping[str, Tensor], base: Weights) -> None:  # noqa: B027
        """Raise RefusedError for what makes it refuse the file. `tensors`: in the order of the file."""

    def finds(self, flat: str, words: f.Words) -> bool:
        return True

    @abstractmethod
    def weight(self, words: f.Words, base: Tensor) -> Tensor:
        """The changed weight. Raises SkippedError or RefusedError."""


class A1111(Reader):
    def admit(self, tensors: Mapping[str, Tensor], base: Weights) -> None:
        for flat, words in groups(tensors).items():
            lone = (
                words.keys() <= {"alpha"}
                or ("w_norm" in words and "b_norm" not in words)
                or ("diff_b" in words and "diff" not in words)
            )
            if flat in base and lone:
                raise RefusedError("no module type accepts these words")

    def words(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """`bundle_emb.<word>.<rest>`; the word ends at the next dot. What a word has is then taken as an embedding file
        is: `string_to_param` with one entry, SDXL's two encoders, or one tensor of any name."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            first, _, rest = key.partition(".")
            if first == "bundle_emb":
                word, _, leaf = rest.partition(".")
                found.setdefault(word, {})[leaf] = tensor
        return {word: self.embedding(parts) for word, parts in found.items()}

    def embedding(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inner = {name: t for name, t in parts.items() if name.startswith("string_to_param")}
        if not inner and {"clip_l", "clip_g"} <= parts.keys():
            return {name: parts[name] for name in ("clip_l", "clip_g")}
        single = inner or dict(parts)
        if len(single) != 1:
            raise RefusedError("embedding file has multiple terms in it")
        tensor = next(iter(single.values()))
        return {"": tensor if tensor.dim() > 1 else tensor[None]}

    def finds(self, flat: str, words: f.Words) -> bool:
        return flat not in ("lora_unet_conv_norm_out", "lora_te_text_model_final_layer_norm")

    def weight(self, words: f.Words, base: Tensor) -> Tensor:
        change = product(words, base.shape)
        if change is not None:
            whole = base + change
            return f.by_inputs(whole, words["dora_scale"]) if "dora_scale" in words else whole
        if "on_input" in words:
            if base.dim() == 4 and not bool(words["on_input"]):
                raise RefusedError("shapes of IA3")
            return base + f.ia3(words, base)
        if "diff" in words or "w_norm" in words:
            return base + words.get("diff", words.get("w_norm", base)).reshape(base.shape)
        if "a1.weight" in words:
            raise SkippedError("the layout of GLoRA that it knows is older")
        alpha = float(words.get("alpha", torch.zeros(())))
        turn = f.oft if words["oft_blocks"].dim() == 3 else f.boft
        return turn(words, base, bound=alpha * base.shape[0])


PEFT = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
"""Not `lora_magnitude_vector`: ComfyUI and Forge do not know DoRA under these names."""


class Comfy(Reader):
    def read(self, tensors: Mapping[str, Tensor], base: Weights) -> Weights:
        return super().read({self.known(name): t for name, t in tensors.items()}, base)

    def known(self, name: str) -> str:
        """Of diffusers' names it knows the UNet's outside attention, and text encoders' blocks; they have no alpha."""
        leaf = next((word for word in PEFT if name.endswith(f".{word}")), None)
        if leaf is None or ".to_" in name or ".text_projection." in name:
            return name
        path = name.removesuffix(f".{leaf}").replace("text_encoder.", "te.", 1)
        return f"lora_{path.replace('.', '_')}.{PEFT[leaf]}"

    def finds(self, flat: str, words: f.Words) -> bool:
        return not (flat.startswith("lora_te") and ("w_norm" in words or "norm" in flat)) and "on_input" not in words

    def weight(self, words: f.Words, base: Tensor) -> Tensor:
        if "lokr_t2" in words:
            raise SkippedError("a view of a tensor that has none")
        change = product(words, base.shape)
        if change is None and "a1.weight" in words:
            change = f.glora(words, base)
        if change is not None:
            return self.decomposed(base, base + change, words)
        if "oft_blocks" in words:
            return self.rotated(words, base)
        return base + words.get("diff", words.get("w_norm", base))

    def decomposed(self, base: Tensor, whole: Tensor, words: f.Words) -> Tensor:
        magnitude = words.get("dora_scale")
        if magnitude is None:
            return whole
        if (
            magnitude.shape[0] == base.shape[0]
        ):  # along outputs, by the norm of the base; one-dimensional ones broadcast
            norm = base.flatten(1).norm(dim=1).reshape(-1, *[1] * (base.dim() - 1))
            try:
                return (whole / norm * magnitude).reshape(base.shape)
            except RuntimeError:
                raise SkippedError("shapes of dora_scale") from None
        return f.by_inputs(whole, magnitude)

    def rotated(self, words: f.Words, base: Tensor) -> Tensor:
        if words["oft_blocks"].dim() == 3:
            return f.oft(words, base, bound=float(words.get("alpha", torch.zeros(()))), rescale=False)
        if "alpha" not in words:
            raise SkippedError("a bound that is None")
        return f.boft(words, base, bound=float(words["alpha"]))


class Forge(Comfy):
    def admit(self, tensors: Mapping[str, Tensor], base: Weights) -> None:
        layers = groups(tensors)
        unknown = sum(len(w) for flat, w in layers.items() if flat not in base or not self.finds(flat, w))
        if unknown > 12:
            raise RefusedError("more than 12 unknown tensors")
        if any("lokr_t2" in words for words in layers.values()):
            raise RefusedError("torch.kron of a tensor that is not contiguous")

    def finds(self, flat: str, words: f.Words) -> bool:
        return super().finds(flat, words) and "oft_blocks" not in words


class Invoke(Reader):
    def admit(self, tensors: Mapping[str, Tensor], base: Weights) -> None:
        # the widths of the model stand for those of SD 1.x
        context = next(w.shape[1] for flat, w in base.items() if flat.endswith("attn2_to_k"))
        text = next(w.shape[1] for flat, w in base.items() if flat.startswith("lora_te_") and flat.endswith("q_proj"))
        if self.told(tensors) not in (context, text):
            raise RefusedError("not a LoRA of SD 1.x")
        for flat, words in groups(tensors).items():
            if flat == "bundle_emb":
                continue
            known = ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a", "diff", "on_input", "w_norm")
            if "dora_scale" in words and "lora_up.weight" not in words:
                raise RefusedError("KeyError")
            if not any(word in words for word in known):
                raise RefusedError("unsupported lora format")

    def told(self, tensors: Mapping[str, Tensor]) -> int | None:
        """The width by which it knows the base: one key after the other, until one tells."""
        found = None
        for key, tensor in tensors.items():
            layer, _, leaf = key.partition(".")
            if layer.startswith("lora_unet_") and ("_attn2_to_k." in key or "_attn2_to_v." in key):
                found = self.width(layer, leaf, tensor, tensors)
            elif layer.startswith("lora_unet_") and "time_emb_proj.lora_down" in key:
                found = 1280  # the width of all published models, at which it takes SDXL for the base
            elif key.startswith("lora_te_") and "_self_attn_" in key:
                found = self.width(layer, leaf, tensor, tensors)
            if found is not None:
                return found
        return None

    def width(self, layer: str, leaf: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> int | None:
        if leaf in ("lora_down.weight", "hada_w1_b", "hada_w2_b", "diff"):
            return tensor.shape[1]
        if "lokr_" in leaf:
            # of factored ones it looks for a name with a dot too few
            whole = [tensors.get(f"{layer}.lokr_w{i}") for i in "12"]
            return None if whole[0] is None or whole[1] is None else whole[0].shape[1] * whole[1].shape[1]
        return tensor.shape[0] if leaf == "weight" and "lora_unet_" not in layer else None

    def weight(self, words: f.Words, base: Tensor) -> Tensor:
        change = product(words, base.shape)
        if change is not None:
            whole = base + change
            return f.by_inputs(whole, words["dora_scale"]) if "dora_scale" in words else whole
        if "on_input" in words:
            if base.dim() == 4 and not bool(words["on_input"]):
                raise RefusedError("shapes of IA3")
            return base + f.ia3(words, base)
        return base + words.get("diff", words.get("w_norm", base)).reshape(base.shape)


READERS: dict[str, Reader] = {"A1111": A1111(), "Forge": Forge(), "ComfyUI": Comfy(), "InvokeAI": Invoke()}
