"""LoRA of PEFT on diffusers' UNet, and a step as the training scripts of diffusers make it. Everything is cached."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.training.bench.workload import LEARNING_RATE, Workload

TARGETS = {
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "attention-mlp": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"],
}
"""Our names of choices of layers, as PEFT names the layers of diffusers' UNet."""
CLIP = 1.0


@dataclass
class PeftStep:
    """A UNet with adapters, its optimizer, and inputs that stay on the device."""

    unet: Any
    parameters: list[Tensor]
    optimizer: torch.optim.Optimizer
    scheduler: Any
    inputs: dict[str, Any]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __call__(self) -> Tensor:
        """One step; returns its loss without waiting for it."""
        latents = self.inputs["latents"]
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (len(latents),), device=latents.device)
        with self.context():
            output = self.unet(self.scheduler.add_noise(latents, noise, t), t, **self.inputs["conditioning"])[0]
        loss = torch.nn.functional.mse_loss(output.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def build(workload: Workload, adapter_dtype: torch.dtype, **optimizer_options: Any) -> PeftStep:
    """The step, with adapters of a dtype."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from peft import LoraConfig

    model: Any = UNet2DConditionModel
    unet = model.from_pretrained(Path(workload.base) / "unet", torch_dtype=workload.dtype).to(workload.device)
    unet.requires_grad_(False)
    targets = TARGETS[str(workload.adapter.get("layers", "attention"))]
    unet.add_adapter(LoraConfig(r=workload.rank, lora_alpha=workload.rank, target_modules=targets))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.to(adapter_dtype)
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True, **optimizer_options)
    scheduler: Any = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(workload.device)
    return PeftStep(unet, parameters, optimizer, scheduler, inputs_of(workload, unet.config))


def check(workload: Workload) -> None:
    """Raises LorasmithError for a workload that is not a LoRA of PEFT on a diffusers folder, or if PEFT is missing."""
    if find_spec("peft") is None:
        raise LorasmithError("--against: PEFT is not installed: pip install peft")
    kind, layers = workload.adapter.get("kind", "lora"), workload.adapter.get("layers", "attention")
    if kind != "lora" or layers not in TARGETS:
        raise LorasmithError(
            f"--against: PEFT is measured with --adapter lora on --layers {' or '.join(TARGETS)}, "
            f"not {kind} on {layers}"
        )
    if not (Path(workload.base) / "unet").is_dir():
        raise LorasmithError(f"--against: PEFT needs a diffusers folder as base, and {workload.base} is none")


def inputs_of(workload: Workload, config: Any) -> dict[str, Any]:
    """Latents and conditioning of the shapes that the UNet takes."""
    options: dict[str, Any] = {"device": workload.device, "dtype": workload.dtype}
    batch, side = workload.batch, workload.resolution // 8
    conditioning: dict[str, Any] = {
        "encoder_hidden_states": torch.randn(batch, 77, config.cross_attention_dim, **options),
        "return_dict": False,
    }
    if config.addition_embed_type == "text_time":
        # six numbers for the sizes, the rest is the pooled text
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        conditioning["added_cond_kwargs"] = {
            "text_embeds": torch.randn(batch, pooled, **options),
            "time_ids": torch.full((batch, 6), float(workload.resolution), **options),
        }
    return {"latents": torch.randn(batch, config.in_channels, side, side, **options), "conditioning": conditioning}
