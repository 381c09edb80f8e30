"""The nodes for ComfyUI against our own text encoder and UNet.

ComfyUI is not there: fakes stand for what the nodes use of it, written from its documentation and source. A CLIP whose
tokens are (number or vector, weight), 77 a window; a model with attn2 patches that are called with the block and the
index in it; a loader of LoRA tensors. Where a layer sits in the original layout comes from our reader of checkpoints.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.lora import LoRA
from lorasmith.concepts import Concept
from lorasmith.concepts.initial_embeddings import initial_vocabulary
from lorasmith.families.load import load
from lorasmith.families.stable_diffusion import layer_names, text
from lorasmith.families.stable_diffusion.ldm_names import unet_blocks
from lorasmith.families.stable_diffusion.unet import UNet
from lorasmith.formats import token_embeddings
from lorasmith.formats.kohya import Kohya
from lorasmith.formats.write import write
from lorasmith.integrations.install_comfyui import NODES
from lorasmith.sampling.loras import Loras, LoraUse

PROMPTS = ("a photo of a <x> <y>, on grass", "<x>", "two <y> beside <x> <y> and a dog")


@pytest.fixture(scope="module")
def node() -> Any:
    """The folder, imported as ComfyUI imports it: by its path."""
    spec = importlib.util.spec_from_file_location(
        "comfy_lorasmith", NODES / "__init__.py", submodule_search_locations=[str(NODES)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["comfy_lorasmith"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules["comfy_lorasmith.nodes"]


@pytest.fixture(scope="module")
def family() -> Any:
    return load("tiny-sd", dtype=torch.float32)


@pytest.fixture(scope="module")
def file(family: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of UNet and text encoder; a word of two vectors for each layer, and one shared by all."""
    size = len(next(iter(family.embedding_tables().values())))
    concepts = [
        Concept(words=("<x>",), vectors=2, init=("<rand-0.3>",), layerwise=True),
        Concept(words=("<y>",), init=("dog",)),
    ]
    new = initial_vocabulary(concepts, family.token_embeddings, size, 16, seed=1)
    generator = torch.Generator().manual_seed(0)
    adapters = AdapterSet.create(
        LoRA(rank=2, layers="attention"), family.named_layers(("unet", "te")), family.layer_presets, seed=0
    )
    with torch.no_grad():
        for p in (*adapters.parameters(), *new.parameters()):
            p.add_(torch.randn(p.shape, generator=generator) * 0.05)
    encoded = Kohya().encode_adapters(adapters.adapters, family, adapters.weight_of)
    tensors, metadata = token_embeddings.encode(new)
    folder = tmp_path_factory.mktemp("loras")
    return write(folder / "g.exact.safetensors", {**encoded.tensors, **tensors}, metadata, torch.float32)


class Clip:
    """ComfyUI's CLIP: words are split at spaces, brackets weigh, vectors may stand among the tokens."""

    def __init__(self, family: Any, key: str = "l") -> None:
        self.family, self.key, self.calls = family, key, 0

    def tokenize(self, text: str) -> dict[str, list[list[tuple[Any, float]]]]:
        pairs: list[tuple[Any, float]] = []
        for inner, weight, plain in re.findall(r"\(([^:()]*):([\d.]+)\)|([^()]+)", text):
            for word in (inner or plain).split():
                ids = self.family.tokenizer(word, add_special_tokens=False)["input_ids"]
                pairs += [(i, float(weight or 1)) for i in ids]
        begin, end = self.family.tokenizer.bos_token_id, self.family.tokenizer.eos_token_id
        windows = [pairs[i : i + 75] for i in range(0, max(1, len(pairs)), 75)]
        return {self.key: [[(begin, 1.0), *w, *[(end, 1.0)] * (76 - len(w))] for w in windows]}

    @torch.no_grad()
    def encode_from_tokens(self, tokens: Any, return_pooled: bool = False) -> Any:
        self.calls += 1
        model = self.family.text_encoders["te"]
        parts = []
        for window in tokens[self.key]:
            assert len(window) == 77
            ids = torch.tensor([[0 if torch.is_tensor(t) else t for t, _ in window]])

            def put(module: Any, given: Any, out: Tensor, window: Any = window) -> Tensor:
                rows = [t if torch.is_tensor(t) else out[0, i] for i, (t, _) in enumerate(window)]
                return torch.stack(rows)[None]

            handle = model.get_submodule(embedding(model)).register_forward_hook(put)
            hidden, _ = text.states(model, ids, 1)
            handle.remove()
            weights = torch.tensor([w for _, w in window])
            parts.append(text.final_norm(model)(hidden) * weights[None, :, None])
        found = torch.cat(parts, 1)
        return (found, None) if return_pooled else found


def embedding(model: Any) -> str:
    return next(name for name, _ in model.named_modules() if name.endswith("token_embedding"))


class Model:
    """ComfyUI's model patcher, as far as patches of cross-attention go."""

    def __init__(self, patches: tuple[Any, ...] = (), lora: Any = None) -> None:
        self.patches, self.lora = patches, lora

    def clone(self) -> Model:
        return Model(self.patches, self.lora)

    def set_model_attn2_patch(self, patch: Any) -> None:
        self.patches = (*self.patches, patch)

    def contexts(self, unet: UNet, context: Tensor) -> Tensor:
        """What each cross-attention layer reads, (B, layers, tokens, width), in the order of our UNet."""
        found = []
        for name in unet.cross_attentions:
            block, index = place(unet, name)
            q, k, v = torch.zeros(1, 4, 8), context, context
            options = {"block": block, "block_index": index, "n_heads": 4, "cond_or_uncond": [0]}
            for patch in self.patches:
                q, k, v = patch(q, k, v, options)
            assert torch.equal(k, v)
            found.append(k)
        return torch.stack(found, 1)


def place(unet: UNet, name: str) -> tuple[tuple[str, int], int]:
    """`("input", 4)` and the transformer block in it."""
    path, _, rest = name.partition(".transformer_blocks.")
    kind, *numbers = unet_blocks(unet.config)[path].split(".")
    return (kind.removesuffix("_blocks").removesuffix("_block"), int(numbers[0]) if len(numbers) > 1 else 0), int(
        rest[0]
    )


@pytest.fixture
def comfy(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`folder_paths` and `comfy.sd`."""

    def load_lora(model: Model, clip: Any, lora: Any, strength_model: float, strength_clip: float) -> Any:
        return Model(model.patches, (lora, strength_model, strength_clip)), clip

    folders: Any = types.ModuleType("folder_paths")
    folders.get_full_path = lambda kind, name: str(file.parent / name)
    folders.get_filename_list = lambda kind: [file.name]
    sd: Any = types.ModuleType("comfy.sd")
    sd.load_lora_for_models = load_lora
    package: Any = types.ModuleType("comfy")
    package.sd = sd
    for name, module in (("folder_paths", folders), ("comfy", package), ("comfy.sd", sd)):
        monkeypatch.setitem(sys.modules, name, module)


def keys(family: Any, x: Tensor, context: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Keys and values of each layer, and the prediction."""
    found: dict[str, Tensor] = {}
    handles = []
    for name in family.unet.cross_attentions:
        for leaf in ("to_k", "to_v"):
            layer = family.unet.get_submodule(f"{name}.{leaf}")
            handles.append(layer.register_forward_hook(lambda m, a, out, n=f"{name}.{leaf}": found.__setitem__(n, out)))
    output = family.unet(x, torch.tensor([500]), context)
    for handle in handles:
        handle.remove()
    return found, output


@torch.no_grad()
@pytest.mark.usefixtures("comfy")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_keys_values_and_predictions_are_ours(prompt: str, node: Any, family: Any, file: Path, tmp_path: Path) -> None:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with Loras(family).attached([LoraUse(file, 0.8, 0.5)]):
        wanted, expected = keys(family, x, family.encode_text([prompt])["context"])

    model, _, words = node.LorasmithLora().load(Model(), Clip(family), file.name, 0.8, 0.5)
    lora, *strengths = model.lora
    assert strengths == [0.8, 0.5]
    save_file(lora, tmp_path / "lora.safetensors")  # what the node hands over is a whole LoRA, without words
    with Loras(family).attached([LoraUse(tmp_path / "lora.safetensors", *strengths)]):
        clip = Clip(family)
        [[context, more]] = node.LorasmithText().encode(clip, words, prompt)[0]
        found, output = keys(family, x, model.contexts(family.unet, context))
    assert clip.calls == (16 if "<x>" in prompt else 1)
    assert more["pooled_output"] is None
    if clip.calls == 16:  # a control net has no patch, and reads the mean
        mean = context[:, :-1].unflatten(1, (16, 77)).mean(1)
        torch.testing.assert_close(more["cross_attn_controlnet"], mean)
    assert found.keys() == wanted.keys()
    assert len(found) == 32
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    apart = {n: v for n, v in wanted.items() if n.endswith("to_k")}
    assert len({v.double().sum().item() for v in apart.values()}) == 16


@pytest.mark.usefixtures("comfy")
def test_texts_without_the_words_stay_as_they_are(node: Any, family: Any, file: Path) -> None:
    """Plain ones are never taken for ours, whatever their number of windows, nor joined with ours unseen."""
    model, _, words = node.LorasmithLora().load(Model(), Clip(family), file.name, 1.0, 1.0)
    [[context, _]] = node.LorasmithText().encode(Clip(family), words, "a dog <y> (car:1.5)")[0]
    assert context.shape == (1, 77, 128), "<y> has one vector for all layers"
    plain = torch.randn(1, 16 * 77, 128)
    for given in (context, plain):
        assert torch.equal(model.contexts(family.unet, given), given[:, None].expand(-1, 16, -1, -1))
    joined = torch.randn(1, 16 * 77 + 1 + 77, 128)
    with pytest.raises(ValueError, match="was concatenated with another"):
        model.contexts(family.unet, joined)


@pytest.mark.usefixtures("comfy")
def test_weights_and_long_texts(node: Any, family: Any, file: Path) -> None:
    words = node.LorasmithLora().load(Model(), Clip(family), file.name, 1.0, 1.0)[2]
    clip = Clip(family)
    [[light, _]] = node.LorasmithText().encode(clip, words, "a <x> car")[0]
    [[heavy, _]] = node.LorasmithText().encode(clip, words, "a (<x>:2.0) car")[0]
    ratio = (heavy / light)[0, :77].mean(-1)
    assert ratio[2:4].tolist() == pytest.approx([2, 2])
    assert ratio[[0, 1, 4]].tolist() == pytest.approx([1, 1, 1])
    [[long, _]] = node.LorasmithText().encode(clip, words, "dog " * 80 + "<x>")[0]
    assert long.shape[1] == 16 * 2 * 77 + 1
    model = Model((node.make_patch(16), node.make_patch(16)))  # of two files, one after the other
    own = model.contexts(family.unet, long)
    assert own.shape == (1, 16, 154, 128)
    assert torch.equal(own[0, 3], long[0, 3 * 154 : 4 * 154])


def test_every_layer_of_each_model_has_its_place(node: Any) -> None:
    for kind, layers in (("sd1", 16), ("sd2", 16), ("sdxl", 70)):
        with torch.device("meta"):
            unet = UNet(layer_names.published_unet(kind))
        assert len(unet.cross_attentions) == layers
        context = torch.arange(layers).repeat_interleave(77).float()
        context = torch.cat([context, context[:1]])[None, :, None]
        own = Model((node.make_patch(layers),)).contexts(unet, context)
        assert own[0, :, :, 0].unique(dim=1).flatten().tolist() == list(range(layers)), kind


def test_placeholders(node: Any) -> None:
    words = {"<x>": {"te": torch.zeros(2, 16, 4)}, "garp": {"te": torch.zeros(1, 1, 4)}}
    text, placeholder, order = node.insert_placeholders("a <x>, garp's ~garps garp", words)
    assert placeholder == "^"
    assert text.split() == ["a", "^", "^", ",", "^", "'s", "~garps", "^"]
    assert order == [("<x>", 0), ("<x>", 1), ("garp", 0), ("garp", 0)]
    with pytest.raises(ValueError, match="leave one of them out"):
        node.insert_placeholders("".join(node.PLACEHOLDERS), words)
    assert node.insert_placeholders("~", {})[1] == "^"


def test_mistakes_are_told(node: Any) -> None:
    with pytest.raises(ValueError, match="cross-attention layers"):
        node.layer_count({"a": {"te": torch.zeros(1, 16, 4)}, "b": {"te": torch.zeros(1, 70, 4)}})
    with pytest.raises(ValueError, match="no vectors for the text encoder g"):
        node.vector_for_layer({"te1": torch.zeros(1, 70, 4)}, "g", 0, 0)
    with pytest.raises(ValueError, match="more placeholders"):
        node.replace_placeholders([[(5, 1.0), (7, 1.0)]], 7, [])


def test_it_needs_nothing_but_comfyui_torch_and_safetensors() -> None:
    found = set(re.findall(r"^\s*(?:from|import) ([\w.]+)", (NODES / "nodes.py").read_text(), re.MULTILINE))
    ours = {"torch", "safetensors", "comfy.sd", "folder_paths"}
    assert found <= ours | {"__future__", "json", "re", "collections.abc", "typing"}
