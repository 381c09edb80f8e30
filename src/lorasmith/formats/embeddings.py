"""Embedding files of new tokens (textual inversion): one tensor (vectors, width) per text encoder.

SD 1.x and 2.x: `{"emb_params": ...}`, which A1111, Forge, ComfyUI and InvokeAI read (diffusers too, given the token).
SDXL: `{"clip_l": ..., "clip_g": ...}`. The token is the file's name. A LoRA may also contain its tokens as
`bundle_emb.<token>.<part>`: only A1111 uses those, and diffusers then refuses the whole file, so that is an extra file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError
from lorasmith.formats import xti
from lorasmith.formats.read_tensors import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

FILE_NAMES = {"te": "clip_l", "te1": "clip_l", "te2": "clip_g"}
"""The text encoder's name in files, by component."""
BUNDLE_PREFIX = "bundle_emb."


def encode(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file of one token. `vectors`: component (`te`; `te1` and `te2`; Flux: `te1`) to (count, width)."""
    # one text encoder has A1111's layout, two have that of SDXL
    matrices = {component: _as_matrix(tensor, component) for component, tensor in vectors.items()}
    if set(matrices) == {"te"}:
        return {"emb_params": matrices["te"]}
    if set(matrices) in ({"te1", "te2"}, {"te1"}):
        return {FILE_NAMES[component]: matrix for component, matrix in matrices.items()}
    raise LorasmithError(
        "a new token needs vectors for te (SD 1.x, 2.x) or for te1 and te2 (SDXL, SD3; Flux: te1); "
        f"it has vectors for {', '.join(matrices) or 'none'}"
    )


def encode_bundle(tokens: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """`bundle_emb` tensors to add to a LoRA file. `tokens`: vectors by token and component.

    Raises LorasmithError for a token with a dot, where A1111 would cut it off.
    """
    tensors: dict[str, Tensor] = {}
    for token, vectors in tokens.items():
        if "." in token:
            raise LorasmithError(f'the new token "{token}" has a dot, where A1111 would cut it off; choose another')
        for name, tensor in encode(vectors).items():
            part = "string_to_param.*" if name == "emb_params" else name
            tensors[f"{BUNDLE_PREFIX}{token}.{part}"] = tensor
    return tensors


def decode(tensors: Mapping[str, Tensor], source: str = "the file") -> dict[str, Tensor]:
    """Vectors (count, width) by component of a file of one token, in any of the usual layouts. A file of sd-scripts'
    XTI has vectors for each layer, (count, layers, width)."""
    if xti.is_xti(tensors):
        return {"te": xti.decode(tensors)}
    if "clip_g" in tensors:
        vectors: dict[str, Tensor] = {}
        if "clip_l" in tensors:
            vectors["te1"] = _as_matrix(tensors["clip_l"], "te1")
        vectors["te2"] = _as_matrix(tensors["clip_g"], "te2")
        return vectors
    # OneTrainer stores output embeddings beside the input embeddings, as `..._out`
    inputs = {name: tensor for name, tensor in tensors.items() if not name.endswith("_out")}
    if len(inputs) != 1:
        raise LorasmithError(
            f"{source}: not a file of one new token; it holds {', '.join(sorted(tensors)) or 'nothing'}"
        )
    name, tensor = next(iter(inputs.items()))
    return {"te": _as_matrix(tensor, name)}


def load(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Token (the file's name, or the one inside) and vectors of a `.safetensors` file or of A1111's `.pt`.

    A `.pt` is opened such that it can hold tensors and plain values only. Raises LorasmithError if it cannot be read.
    """
    if path.suffix.lower() == ".safetensors":
        tensors, _ = read_tensors(path)
        return path.stem, decode(tensors, str(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        token = str(content.get("name") or path.stem)
        # A1111 nests the vectors in a dict of named embeddings
        values = content.get("string_to_param", content)
        tensors = {name: value.detach() for name, value in values.items() if isinstance(value, torch.Tensor)}
        return token, decode(tensors, str(path))
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise LorasmithError(f"{path}: not a readable embedding file ({error})") from None
    except LorasmithError:
        raise
    except Exception as error:  # the unpickler's exception for forbidden content is not exported
        raise LorasmithError(f"{path}: holds more than tensors, so it is not opened ({type(error).__name__})") from None


def _as_matrix(tensor: Tensor, name: str) -> Tensor:
    """A token's vectors as (count, width), float32, on the CPU."""
    if tensor.dim() not in (1, 2) or not tensor.numel():
        raise LorasmithError(f"{name}: a token's vectors must have shape (count, width), not {tuple(tensor.shape)}")
    return tensor.detach().float().cpu().reshape(-1, tensor.shape[-1]).contiguous()
