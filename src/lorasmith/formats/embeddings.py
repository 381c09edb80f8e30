"""Files of new words (textual inversion): one tensor (vectors, width) per text encoder.

SD 1.x and 2.x: `{"emb_params": ...}`, which A1111, Forge, ComfyUI and InvokeAI read (diffusers too, given the token).
SDXL: `{"clip_l": ..., "clip_g": ...}`. The word is the file's name. Beside them a LoRA may carry its words along as
`bundle_emb.<word>.<part>`: only A1111 uses those, and diffusers then refuses the whole file, so that is an extra file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats import xti
from lorasmith.formats.read import read_tensors

PARTS = {"te": "clip_l", "te1": "clip_l", "te2": "clip_g"}
"""The text encoder's name in files, by component."""


def encode(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file of one word. `vectors`: component (`te`; or `te1` and `te2`) to (count, width)."""
    found = {part: _matrix(v, part) for part, v in vectors.items()}
    if set(found) == {"te"}:
        return {"emb_params": found["te"]}
    if set(found) == {"te1", "te2"}:
        return {PARTS[part]: v for part, v in found.items()}
    raise LorasmithError(
        f"a word needs vectors for te (SD 1.x, 2.x) or for te1 and te2 (SDXL); there are {', '.join(found) or 'none'}"
    )


def bundle(words: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """`bundle_emb` tensors to add to a LoRA file, of words and their vectors by component.

    Raises LorasmithError for a word with a dot, which A1111 would cut off there.
    """
    found: dict[str, Tensor] = {}
    for word, vectors in words.items():
        if "." in word:
            raise LorasmithError(f'the word "{word}" has a dot, where A1111 would cut it off; choose another')
        for name, tensor in encode(vectors).items():
            found[f"bundle_emb.{word}.{'string_to_param.*' if name == 'emb_params' else name}"] = tensor
    return found


def decode(tensors: Mapping[str, Tensor], source: str = "the file") -> dict[str, Tensor]:
    """Vectors (count, width) by component, of a file of one word in any of the usual layouts; of sd-scripts' XTI,
    which has vectors for each layer, (count, layers, width)."""
    if xti.recognises(tensors):
        return {"te": xti.decode(tensors)}
    if "clip_g" in tensors:
        parts = {"te1": tensors.get("clip_l"), "te2": tensors["clip_g"]}
        return {part: _matrix(t, part) for part, t in parts.items() if t is not None}
    kept = {name: t for name, t in tensors.items() if not name.endswith("_out")}
    if len(kept) != 1:
        raise LorasmithError(f"{source}: not one new word; it holds {', '.join(sorted(tensors)) or 'nothing'}")
    name, tensor = next(iter(kept.items()))
    return {"te": _matrix(tensor, name)}


def load(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Word (the file's name, or the one inside) and vectors of a `.safetensors` file or of A1111's `.pt`.

    A `.pt` is opened so that it can hold tensors and plain values only.
    """
    if path.suffix.lower() == ".safetensors":
        tensors, _ = read_tensors(path)
        return path.stem, decode(tensors, str(path))
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        tensors = found.get("string_to_param", found)
        word = str(found.get("name") or path.stem)
        return word, decode({k: v.detach() for k, v in tensors.items() if isinstance(v, Tensor)}, str(path))
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise LorasmithError(f"{path}: not a readable file of a new word ({error})") from None
    except Exception as error:  # what the unpickler says of forbidden things is of no exported class
        raise LorasmithError(f"{path}: holds more than tensors, so it is not opened ({type(error).__name__})") from None


def _matrix(tensor: Tensor, name: str) -> Tensor:
    if tensor.dim() not in (1, 2):
        raise LorasmithError(f"{name}: a word's vectors have shape (count, width), not {tuple(tensor.shape)}")
    return tensor.detach().float().cpu().reshape(-1, tensor.shape[-1]).contiguous()
