"""Captions in sentences, from a captioning model of transformers such as BLIP, GIT or a vision language model."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from lorasmith.core.errors import LorasmithError
from lorasmith.data.captioners.base import Captioner

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files of which a model that reads pictures has at least one."""


class TransformersCaptioner(Captioner):
    """A sentence about the image. The folder holds a model and its processor as `save_pretrained` writes them."""

    kind: Literal["transformers"] = "transformers"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        has_processor = any((folder / name).is_file() for name in PROCESSORS)
        return has_processor and (folder / "config.json").is_file()

    def __call__(self, picture: Image.Image) -> str:
        import torch

        processor, model = load_model(self.model, self.device)
        inputs = self.inputs_of(processor, picture).to(model.device)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)[0]

        # some models repeat the instruction in front of their answer
        instruction = inputs.get("input_ids")
        if instruction is not None and output[: instruction.shape[1]].tolist() == instruction[0].tolist():
            output = output[instruction.shape[1] :]
        text = processor.decode(output, skip_special_tokens=True)
        return " ".join(text.split())

    def inputs_of(self, processor: Any, picture: Image.Image) -> Any:
        """The tensors of a picture, with the instruction for models that expect a conversation."""
        if not getattr(processor, "chat_template", None):
            return processor(images=picture, return_tensors="pt")
        content = [{"type": "image", "image": picture}, {"type": "text", "text": self.prompt}]
        return processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )


@lru_cache(1)
def load_model(folder: Path, device: str) -> tuple[Any, Any]:
    """The processor and the model of a folder. Code in the folder is never run.

    Raises LorasmithError if transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, torch_dtype="auto"
        )
        return processor, model.to(device).eval()
    except Exception as error:  # transformers raises exceptions of many types for folders of other models
        kind = model_type(folder)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LorasmithError(f"{folder}: transformers cannot load it as a captioning model{kind}: {reason}") from None


def model_type(folder: Path) -> str:
    """What config.json says the folder holds, as part of a message."""
    try:
        return f' (it holds "{json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]}")'
    except (OSError, ValueError, KeyError, TypeError):
        return ""
